"""Models of two sequences: which of them a layer carries, and how a capture runs each.

A text is the encoder's. Layers of the encoder are captured by running the encoder, and nothing
after it. What else there is, the decoder and the head, carries the decoder's tokens. Some models,
as BART, make these of the text: shifted right, after a token that begins them. Rows of such layers
stand beside the shifted tokens. Other models, as T5 and Marian, are given the decoder's tokens by
whoever trains or generates; a text says nothing of them, so their decoders are refused.

Which a model is, it is asked: it is run once on a few tokens, and what its decoder is given is
compared with what the function of its family that shifts tokens makes of them.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tenterhook_capture.text_model import TextModel
from tenterhook_transformers.errors import OtherSequence
from tenterhook_transformers.families import pad_id, takes, unwrapped
from tenterhook_transformers.forwards import padded, run_padded
from tenterhook_transformers.tokenized_model import TokenizedModel

if TYPE_CHECKING:
    from tenterhook import Captured, HookContext, HookRegistry

TRIED = (7, 5, 6)
"""Ids that the model is tried on: any that it knows, each another."""

Shift = Callable[[Sequence[int]], tuple[list[int], list[int]]]
"""Makes the decoder's tokens of a text's; returns them, and which token of the text each is, -1 for
none."""


def part_for(model: TokenizedModel, layers: Sequence[str]) -> TextModel:
    """Return what runs these layers on texts: the model itself, or a part of two sequences.

    Raises `OtherSequence` where the layers are of both sequences, or of a decoder whose tokens no
    text gives.
    """
    encoder = encoder_of(model.module)
    if encoder is None:
        return model
    name = _name_of(model, encoder)
    inside = {id(module) for module in encoder.modules()}
    known = {each: model.layers.index.resolve(each).module for each in layers}
    of_encoder = [each for each, module in known.items() if id(module) in inside]
    of_decoder = [each for each in layers if each not in of_encoder]
    kind = type(unwrapped(model.module)).__name__
    if of_encoder and of_decoder:
        raise OtherSequence(kind, of_decoder[0], encoder_layer=of_encoder[0])
    if of_encoder:
        return EncoderOf(model, name)
    shift = _shift_of(model)
    if shift is None:
        raise OtherSequence(kind, of_decoder[0], encoder=name)
    return DecoderOf(model, shift)


def encoder_of(module: nn.Module) -> nn.Module | None:
    """Return the encoder of a model of two sequences that reads text; `None` of any other."""
    if not takes(module, "decoder_input_ids") or not takes(module, "input_ids"):
        return None
    root: Any = unwrapped(module)
    found = root.get_encoder() if callable(getattr(root, "get_encoder", None)) else None
    return found if isinstance(found, nn.Module) and found is not root else None


class _Part:
    """A `TextModel` that runs one sequence; what it is beside that is the model's own."""

    def __init__(self, model: TokenizedModel) -> None:
        self._model = model

    @property
    def layers(self) -> "HookRegistry":
        """The layers of the whole model."""
        return self._model.layers

    @property
    def context(self) -> "HookContext":
        """The context of the whole model."""
        return self._model.context

    @property
    def max_tokens(self) -> int | None:
        """The longest document, in tokens."""
        return self._model.max_tokens

    def token_ids(self, texts: Sequence[str], **settings: Any) -> list[list[int]]:
        """Return the token ids of each text, which are the encoder's."""
        return self._model.token_ids(texts, **settings)

    def capture(self, *layers: str | int, **how: Any) -> "AbstractContextManager[Captured]":
        """Open a scope of the whole model."""
        return self._model.capture(*layers, **how)

    def describe_model(self) -> dict[str, Any]:
        """Say what the whole model is."""
        return self._model.describe_model()

    def __getattr__(self, name: str) -> Any:
        """Return what else the model has: roles, spans, special tokens."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)


class EncoderOf(_Part):
    """Runs the encoder alone."""

    def __init__(self, model: TokenizedModel, encoder: str) -> None:
        """`encoder` is its name among the layers."""
        super().__init__(model)
        self._encoder = encoder

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """Run the model until its encoder has ended; see `TextModel.run_token_ids`.

        Padding is on the right, where these models count positions from the first column.
        """
        batch = padded(self._model, documents, side="right")
        with self._model.capture(stop_after=self._encoder, missing="ignore"):
            run_padded(self._model, batch)
        return batch.attention_mask.bool()


class DecoderOf(_Part):
    """Runs the whole model, and gives the decoder the tokens that the model makes of the text."""

    def __init__(self, model: TokenizedModel, shift: Shift) -> None:
        super().__init__(model)
        self.tokens_beside = shift
        self._is_tried = False

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """Run the model; see `TextModel.run_token_ids`. The mask is the decoder's.

        The first forward has a column of padding more in the encoder: what a decoder computes of
        the encoder's tokens, keys and values of its cross attention, is then seen to have no row
        for each token of the decoder. No row is kept of that forward: a capture only looks at what
        it gives.
        """
        own = padded(self._model, documents, side="right")
        shifted = [self.tokens_beside(document)[0] for document in documents]
        theirs = padded(self._model, shifted, side="right")
        longest = own.attention_mask.shape[1]
        if not self._is_tried and (self.max_tokens is None or longest < self.max_tokens):
            fill = pad_id(self._model.module, self._model.tokenizer)
            own = own.with_column(fill)
        run_padded(
            self._model,
            own,
            decoder_input_ids=theirs.input_ids,
            decoder_attention_mask=theirs.attention_mask,
        )
        self._is_tried = True
        return theirs.attention_mask.bool()


def _shift_of(model: TokenizedModel) -> Shift | None:
    """Return how the model makes the decoder's tokens of a text; `None` where it does not."""
    root: Any = unwrapped(model.module)
    decoder = root.get_decoder() if callable(getattr(root, "get_decoder", None)) else None
    function = getattr(sys.modules.get(type(root).__module__), "shift_tokens_right", None)
    if not isinstance(decoder, nn.Module) or function is None:
        return None
    shift = _shift_by(function, root.config)
    name = _name_of(model, decoder)
    try:
        expected, _ = shift(TRIED)
        with model.capture(name, inputs=True, missing="ignore") as given:
            run_padded(model, padded(model, [TRIED], side="right"))
    except (TypeError, ValueError):  # it wants the decoder's tokens, or something else beside them
        return None
    calls = given[name]
    return shift if len(calls) == 1 and calls[0].tolist() == [expected] else None


def _name_of(model: TokenizedModel, part: nn.Module) -> str:
    """Return what a module of the model goes by among its layers."""
    names: dict[int, str] = {id(module): name for name, module in model.module.named_modules()}
    return names[id(part)]


def _shift_by(function: Callable[..., Tensor], config: Any) -> Shift:
    wanted = inspect.signature(function).parameters
    settings = {
        key: getattr(config, key)
        for key in ("pad_token_id", "decoder_start_token_id")
        if key in wanted
    }

    def shift(ids: Sequence[int]) -> tuple[list[int], list[int]]:
        found: list[int] = function(torch.tensor([ids]), **settings)[0].tolist()
        # Without a token that begins texts, the last one, as the language of mBART, comes first.
        first = -1 if "decoder_start_token_id" in settings else len(ids) - 1
        return found, [first, *range(len(ids) - 1)]

    return shift
