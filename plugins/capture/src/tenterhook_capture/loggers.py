"""Where curves go: whoever has `log(values, step)`, as a run of Weights & Biases has."""

from typing import Any, Protocol, final


class Logger(Protocol):
    """What numbers are sent to: a run of Weights & Biases, or a few lines around another."""

    def log(self, values: dict[str, Any], step: int) -> Any:
        """Take numbers by name, of one step."""


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> Any:
        """Take one number."""


@final
class TensorBoard:
    """A `SummaryWriter` of TensorBoard, as `torch.utils.tensorboard` has one, as a `Logger`."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer

    def log(self, values: dict[str, Any], step: int) -> None:
        """Write each number as a scalar of the step; what is no number is left out."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, global_step=step)
