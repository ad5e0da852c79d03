"""How far a training is, for whoever shows it."""

from collections.abc import Callable

import attrs

from tenterhook_capture.loggers import Logger as Logger


@attrs.frozen(kw_only=True)
class TrainingProgress:
    """Where a training stands; the measures are those of the latest batch."""

    step: int
    steps: int
    loss: float
    """What is minimised; see `TrainingSettings`."""
    mean_squared_error: float
    """Per feature, in the activations' own units."""
    explained_variance: float
    """1 minus the squared error over the squared distance of rows from the batch's mean; NaN where
    all its rows are the same."""
    l0: float
    """Active latents per row."""
    dead_share: float
    """The share of latents that were not active for more than `dead_after` rows."""
    learning_rate: float
    rows_per_second: float
    seconds_left: float


ProgressCallback = Callable[[TrainingProgress], None]


def log_to(*loggers: Logger, prefix: str = "sae/") -> ProgressCallback:
    """Return what `progress` takes, which logs a training's measures under its step.

    Names are those of `TrainingProgress` after `prefix`.
    """

    def log(progress: TrainingProgress) -> None:
        values = {
            f"{prefix}{name}": value
            for name, value in attrs.asdict(progress).items()
            if name not in ("step", "steps")
        }
        for logger in loggers:
            logger.log(values, step=progress.step)

    return log
