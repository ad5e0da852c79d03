"""Several SAEs from one pass over their batches: each comes out as if it were trained alone."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tenterhook_sae.batches import Batches
from tenterhook_sae.errors import BadSetting, SaeExists, TrainingsFailed
from tenterhook_sae.files import CONFIG, FileName
from tenterhook_sae.loop import Lane, run_lanes
from tenterhook_sae.progress import ProgressCallback, TrainingProgress
from tenterhook_sae.sae import Sae
from tenterhook_sae.settings import TrainingSettings
from tenterhook_sae.training import Trainer, begin, check_folder, write
from tenterhook_store.names import check_free, check_run_id

NamedProgressCallback = Callable[[str, TrainingProgress], Any]
"""What is told how far each of several trainings is, by its name."""


def combinations(**lists: Any) -> dict[str, dict[str, Any]]:
    """Return every combination of values, by a name that is fit for a folder.

    What is a list or a tuple is gone through, and everything else is the same in each. Names have
    what differs alone: `combinations(k=[16, 32], seed=0)` are `"k16"` and `"k32"`. Raises
    `BadSetting` (a `ValueError`) for an empty list, and for a value that is in a list twice.
    """
    values: dict[str, Sequence[Any]] = {}
    for name, given in lists.items():
        several = isinstance(given, list | tuple)
        values[name] = given if several else [given]
        if not values[name]:
            raise BadSetting(name, given, "a value, or a list of one or more")
        if several and any(given.index(each) < at for at, each in enumerate(given)):
            raise BadSetting(name, list(given), "a list of values that differ")
    varied = [name for name, each in values.items() if len(each) > 1]
    found = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    return {"_".join(_word(name, each[name]) for name in varied) or "one": each for each in found}


def _word(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name}{short}" if short == str(value) or float(short) == value else f"{name}{value}"


def train_saes(
    saes: Mapping[str, Sae],
    batches: Batches,
    settings: TrainingSettings | Mapping[str, TrainingSettings] | None = None,
    *,
    out: FileName | None = None,
    progress: NamedProgressCallback | None = None,
) -> dict[str, Sae]:
    """Train several SAEs, in place, on the same batches, which are read once; return them.

    Each comes to the weights that `train_sae` would give it with these batches and its settings, on
    the CPU to the bit. `settings` are for all of them, or for each by its name; they may have
    different numbers of steps. With a folder `out`, each has a folder there of its own name, as
    `train_sae` would write it; the same call again, after it was stopped or killed, goes on from
    the latest checkpoint of each.

    One whose step raises, as where it comes to NaN, ends there, and its latest checkpoint stays;
    the others go on, and when they are done `TrainingsFailed` (a `RuntimeError`) names it.

    Raises, before anything is written, what `train_sae` raises, and `BadSetting` or `BadName` (each
    a `ValueError`) for names that are no folders and settings of others. What is wrong with a batch
    ends all of them: `NoRows`, `NotFinite`; so do `NotWritable` and Ctrl-C.
    """
    if not saes:
        raise BadSetting("saes", dict(saes), "one or more, by name")
    if len({id(each) for each in saes.values()}) < len(saes):
        raise BadSetting("saes", list(saes), "different ones: each is trained in place")
    for at, name in enumerate(saes):
        check_run_id(name)
        check_free("SAE", name, [*saes][:at])
    chosen = _of_each(saes, settings)
    start = batches.state_dict()
    trainers = {name: Trainer(sae, batches, chosen[name]) for name, sae in saes.items()}
    lanes, states = {}, [(0, start)]
    root = None if out is None else Path(out)
    if root is not None and root.joinpath(CONFIG).exists():
        raise SaeExists(str(root), "is itself the folder of an SAE; give another for several")
    if root is not None:
        for name, trainer in trainers.items():
            check_folder(trainer, root / name)
    for name, trainer in trainers.items():
        folder = None if root is None else root / name
        if folder is not None:
            begin(trainer, folder)
        if trainer.step < trainer.settings.steps:
            states.append((trainer.step, batches.state_dict() if trainer.step else start))
        lanes[name] = _lane(name, trainer, folder, progress)
    # From where the one stands that is furthest behind; the others wait for it.
    at, state = min(states[1:], key=lambda each: each[0], default=states[0])
    batches.load_state_dict(state)
    run_lanes([*lanes.values()], batches, at=at)
    errors = {name: lane.error for name, lane in lanes.items() if lane.error is not None}
    if errors:
        raise TrainingsFailed(errors, [name for name in lanes if name not in errors])
    return dict(saes)


def _lane(
    name: str, trainer: Trainer, folder: Path | None, progress: NamedProgressCallback | None
) -> Lane:
    told: ProgressCallback | None = None
    if progress is not None:

        def told(report: TrainingProgress) -> None:
            progress(name, report)

    if folder is None:
        return Lane(trainer=trainer, progress=told)
    return Lane(trainer=trainer, folder=folder, progress=told, ended=lambda: write(trainer, folder))


def _of_each(
    saes: Mapping[str, Sae], settings: TrainingSettings | Mapping[str, TrainingSettings] | None
) -> dict[str, TrainingSettings]:
    if settings is None or isinstance(settings, TrainingSettings):
        return dict.fromkeys(saes, settings or TrainingSettings())
    if settings.keys() != saes.keys():
        raise BadSetting("settings", sorted(settings), f"those of {', '.join(saes)}")
    return dict(settings)
