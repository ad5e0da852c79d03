"""Which part of a run's units a process does."""

import re
from collections.abc import Mapping, Sequence

import attrs

from tenterhook_capture.errors import BadSlice
from tenterhook_store import Unit


@attrs.frozen
class Slice:
    """Part `index` of `count` about equal parts of a plan's units, counted from 0.

    It is of the plan, not of what remains: the same slice is the same units at any time, so that
    processes which start at different moments never do a unit of each other's.
    """

    index: int
    count: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise BadSlice(f"{self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Read `i/n`, as `0/4`; `BadSlice` for anything else."""
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text, re.ASCII)
        if not found:
            raise BadSlice(text)
        return cls(int(found[1]), int(found[2]))

    def of(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return its units: those that follow each other; none where there are too few."""
        numbers = self.numbers(len(units))
        return units[numbers.start : numbers.stop]

    def numbers(self, count: int) -> range:
        """Return the numbers of its units, of so many."""
        first, stop = (count * at // self.count for at in (self.index, self.index + 1))
        return range(first, stop)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@attrs.frozen
class Scheme:
    """How a launcher tells a process its place: the variable of its number, those of the count."""

    launcher: str
    index: str
    counts: tuple[str, ...]


TORCHRUN = Scheme("torchrun", "RANK", ("WORLD_SIZE",))
SLURM_TASK = Scheme("Slurm", "SLURM_PROCID", ("SLURM_NTASKS", "SLURM_NPROCS"))
SLURM_ARRAY = Scheme("a Slurm array", "SLURM_ARRAY_TASK_ID", ("SLURM_ARRAY_TASK_COUNT",))
KUBERNETES = Scheme(
    "a Kubernetes indexed job", "JOB_COMPLETION_INDEX", ("JOB_COMPLETIONS", "JOB_COMPLETION_COUNT")
)


def slice_of_launcher(variables: Mapping[str, str]) -> tuple[Slice, str] | None:
    """Return the slice that a launcher gives this process, and the variables that say so.

    Reads those of torchrun, then Slurm (tasks of a step, elements of an array, or both), then a
    Kubernetes indexed job. A Slurm job's script, which has no count of tasks unless the job asked
    for several, is the only one. `None` where there are none; `BadSlice` where they make no sense.
    """
    if TORCHRUN.index in variables:
        return _read(TORCHRUN, variables)
    parts = [
        _read(scheme, variables, first)
        for scheme, first in (
            (SLURM_ARRAY, variables.get("SLURM_ARRAY_TASK_MIN")),
            (SLURM_TASK, None),
        )
        if scheme.index in variables
    ]
    if len(parts) == 2:
        (array, array_source), (task, task_source) = parts
        both = Slice(array.index * task.count + task.index, array.count * task.count)
        return both, f"{array_source}, {task_source}"
    if parts:
        return parts[0]
    return _read(KUBERNETES, variables) if KUBERNETES.index in variables else None


def _read(
    scheme: Scheme, variables: Mapping[str, str], first: str | None = None
) -> tuple[Slice, str]:
    count = next((name for name in scheme.counts if variables.get(name)), None)
    if count is None and scheme is SLURM_TASK and variables[scheme.index] == "0":
        return Slice(0, 1), f"{scheme.index}=0"
    if count is None:
        names = " or ".join(scheme.counts)
        raise BadSlice(
            f"{scheme.index}={variables[scheme.index]}",
            f"it is the number of a process of {scheme.launcher}, and there is no {names}",
        )
    source = f"{scheme.index}={variables[scheme.index]} {count}={variables[count]}"
    try:
        index = int(variables[scheme.index]) - int(first or 0)
        step = int(variables.get("SLURM_ARRAY_TASK_STEP") or 1) if scheme is SLURM_ARRAY else 1
        found = Slice(index // step, int(variables[count]))
    except (BadSlice, ValueError, ZeroDivisionError):
        raise BadSlice(source, f"these variables of {scheme.launcher} give no slice") from None
    return found, source
