"""What can go wrong here, each error a builtin kind too."""

import attrs

from tenterhook.errors import TenterhookError, TenterhookWarning


class AnalysisWarning(TenterhookWarning):
    """A number may not be what its name says; the text says why."""


@attrs.define(slots=False)
class NoReadout(TenterhookError, TypeError):
    """A model whose residual stream no logits follow from."""

    model: str
    """Its class."""

    reason: str

    def __str__(self) -> str:
        return (
            f"No logits follow from what the blocks of {self.model} return: {self.reason}. Give a "
            "model with a head for tokens, as AutoModelForCausalLM loads."
        )


@attrs.define(slots=False)
class WrongWidth(TenterhookError, ValueError):
    """Rows of a layer that are not as wide as what the model's blocks return."""

    layer: str
    width: int
    expected: int

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} has {self.width} features, and what is read as the residual "
            f"stream has {self.expected}. Give a layer that returns the stream, as a block does."
        )
