"""What can go wrong here, each error a builtin kind too."""

import attrs

from tenterhook.errors import TenterhookError, TenterhookWarning


@attrs.define(slots=False)
class _NotFound(TenterhookError, OSError, LookupError):
    """Something on the hub or on disk cannot be had."""

    name: str
    """What was asked for."""

    reason: str
    """Why it cannot be had."""

    way_out: str = ""
    """What to do, in a sentence."""

    kind = "thing"

    def __str__(self) -> str:
        reason = self.reason.removesuffix(".")
        return f"No {self.kind} {self.name!r}: {reason}. {self.way_out}".rstrip()


class UnknownModel(_NotFound):
    """A model that is neither in a folder nor on the hub, or cannot be loaded from there."""

    kind = "model"


class UnknownDataset(_NotFound):
    """A data set that is neither in a folder nor on the hub, or cannot be read from there."""

    kind = "data set"


class BadLoadOption(TenterhookError, ValueError):
    """A dtype, device or attention implementation that is not there."""


@attrs.define(slots=False)
class EmptyText(TenterhookError, ValueError):
    """There is nothing to run a model on."""

    at: int | None = None
    """Which text it is; `None` where there are none at all."""

    def __str__(self) -> str:
        if self.at is None:
            return "There are no texts to run the model on; pass a str or a list of at least one."
        return (
            f"Text {self.at} has no tokens, so there is nothing to run the model on. Leave it out, "
            "or have the tokenizer add a special token."
        )


@attrs.define(slots=False)
class TooLong(TenterhookError, ValueError):
    """A text has more tokens than the model has positions."""

    at: int
    """Which text it is."""

    tokens: int
    """How many tokens it has."""

    limit: int
    """How many the model takes."""

    def __str__(self) -> str:
        return (
            f"Text {self.at} has {self.tokens} tokens and the model takes {self.limit}. "
            "Cut it with tok_kwargs={'truncation': True}, or split it."
        )


class ModelWithoutTokenizer(TenterhookError, ValueError):
    """Text was given to a model that has no tokenizer."""

    def __str__(self) -> str:
        return (
            "This model has no tokenizer, so it reads no text. Give token ids: "
            "lm.activations.save(layer, [[1, 5, 9], ...]), a column input_ids, or "
            "lm(input_ids=...). Or give it a tokenizer: "
            "LanguageModel.from_pretrained(name, tokenizer=...)."
        )


@attrs.define(slots=False, kw_only=False)
class OtherSequence(TenterhookError, ValueError):
    """A layer of an encoder-decoder model whose tokens are not those of the texts."""

    model: str
    """The model's class."""

    layer: str
    """A layer of the decoder, or of what comes after it."""

    encoder: str = "encoder"
    """What the encoder goes by."""

    encoder_layer: str = ""
    """A layer of the encoder, where one was asked for beside it."""

    def __str__(self) -> str:
        if self.encoder_layer:
            return (
                f"{self.model} is an encoder-decoder model: rows of {self.encoder_layer!r} stand "
                f"beside the encoder's tokens, and those of {self.layer!r} beside the decoder's. "
                "Capture them as two runs."
            )
        return (
            f"{self.model} is an encoder-decoder model, and texts are the encoder's tokens: it "
            f"makes none of them for the decoder, where {self.layer!r} is. Capture layers of "
            f"{self.encoder!r}, or give the decoder its tokens: with lm.capture({self.layer!r}): "
            "lm(**lm.tokenize(texts), decoder_input_ids=...)."
        )


class NoChatTemplate(TenterhookError, ValueError):
    """A tokenizer that does not say how messages are written."""

    def __str__(self) -> str:
        return (
            "The tokenizer has no chat template, so messages cannot be written as text. Set "
            "tokenizer.chat_template, or run text: lm.generate(prompts)."
        )


@attrs.define(slots=False)
class BadConversation(TenterhookError, ValueError):
    """Messages that a chat template does not take."""

    reason: str
    """What the template says."""

    def __str__(self) -> str:
        return f"The chat template does not take these messages: {self.reason.removesuffix('.')}."


class MissingWeights(TenterhookWarning):
    """A checkpoint lacks weights of the model, which are random now."""


@attrs.define(slots=False)
class NotOneToken(TenterhookError, ValueError):
    """A text that is to be one token and is none, or several."""

    text: str
    tokens: tuple[str, ...]
    """What the tokenizer makes of it."""

    def __str__(self) -> str:
        made = ", ".join(map(repr, self.tokens)) or "none"
        return (
            f"{self.text!r} is not one token: the tokenizer makes {len(self.tokens)} of it, "
            f"{made}. Give one of those; a word in the middle of a text begins with its blank."
        )
