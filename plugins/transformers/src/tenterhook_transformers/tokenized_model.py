"""What running, generating and saving need of a language model: a protocol, for types alone."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import nn

from tenterhook_capture.text_model import TextModel

if TYPE_CHECKING:
    from tenterhook import Captured
    from tenterhook_store import Store


class TokenizedModel(TextModel, Protocol):
    """A module, its tokenizer, its hooks, its store; `LanguageModel` is one."""

    module: nn.Module
    """The model of transformers, in any wrapper of `torch.compile` or peft."""

    tokenizer: Any
    """The model's own tokenizer."""

    @property
    def store(self) -> "Store | None":
        """Where activations are saved to, if nobody says otherwise."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, hooks included; `None` where a scope ended the forward early."""

    def capture(
        self,
        *layers: str | int,
        inputs: bool = False,
        stop_after: str | int | None = None,
        missing: Literal["warn", "raise", "ignore"] = "warn",
    ) -> "AbstractContextManager[Captured]":
        """Open a scope that keeps what the layers return; see `HookedModel.capture`."""

    def without_controllers(self) -> AbstractContextManager[Any]:
        """Have every controller off while the scope is open, for this thread or task alone."""
