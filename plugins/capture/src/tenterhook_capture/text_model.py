"""What a capture needs of a model that reads text: the protocol that model loaders fill."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook import Captured, HookContext, HookRegistry

__all__ = [
    "TextModel",
]


class TextModel(Protocol):
    """A model, its tokenizer and its hooks, as loaders return them and captures run them.

    A model may have more, which captures use where it is there: `roles(messages)`, of
    conversations; `special_tokens`, the `SpecialTokens` that its tokenizer puts around a text, and
    `token_ids(texts, special_tokens=False)`, which leaves them out; and `vocabulary_size`, below
    which a token id must be.
    """

    @property
    def layers(self) -> "HookRegistry":
        """The layers and the hooks registered on them."""

    @property
    def context(self) -> "HookContext":
        """The model's context; `context.model_id` is the name it was loaded by."""

    @property
    def max_tokens(self) -> int | None:
        """The longest document one forward takes, in tokens; `None` for no limit."""

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, special tokens included, unpadded, never truncated."""

    # A model may have `token_ids_and_spans(texts)` too, which gives the same ids and, of each text,
    # where each token's characters begin and end in it, `(-1, -1)` for a token that stands for
    # none; or `None` in their place where the tokenizer does not tell. Then runs keep the spans.
    # It takes `special_tokens` where `token_ids` does.
    #
    # And `for_layers(names)`, which gives the model that a capture of these layers runs in its
    # place: of two sequences the one that they carry. It may have `tokens_beside(ids)`, which gives
    # the tokens that the rows of a document stand beside, as many as there are ids, and which of
    # the ids each of them is, -1 for none.

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> "Tensor":
        """Pad the documents into one batch and run one forward, in eval mode, without gradients.

        Returns the mask of real tokens, bool `(batch, seq)` on the CPU: `mask[i]` is true at
        `len(documents[i])` places, whichever side the padding is on. Also where an open scope ends
        the forward early, as calling a `HookedModel` allows; a model that lets `StopForward` pass
        is run whole in captures.
        """

    def capture(self, *layers: str | int) -> "AbstractContextManager[Captured]":
        """Open a scope that keeps what the layers return; see `HookedModel.capture`.

        Captures give `inputs`, `stop_after` and `missing` too.
        """

    def describe_model(self) -> dict[str, Any]:
        """Say what made the activations, in plain JSON values: name, revision, class, config, a
        fingerprint of the weights, tokenizer, dtype, device, versions.

        A run belongs to one description. Under `device` and `versions` stands what may differ
        between two processes that write one run; under other keys, what its bytes follow from.
        """
