"""Units of a run, computed again at length and held against what is stored; nothing is written.

A worker does the units as it did when the run was made: the same batches, the same int8, the same
statistics. What it hands over to be written is compared, a block of rows at a time.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from tenterhook_capture.beginning import as_begun
from tenterhook_capture.identity import differences
from tenterhook_capture.option_fields import check_count
from tenterhook_capture.prepare import Capture
from tenterhook_capture.progress import Progress, ProgressCallback, told
from tenterhook_capture.provenance import numerics, versions
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.row_check import FarRow, RowCheck, computing_dtype
from tenterhook_capture.threads import threads_of
from tenterhook_capture.workers import make_worker, rebuilt
from tenterhook_store import (
    SCALE,
    LayerComparison,
    RowBlock,
    Run,
    RunPlan,
    Store,
    Unit,
    dequantize,
)
from tenterhook_store.comparing.measuring import LayerMeter

UNITS = 3
"""Units that are computed again unless something else is asked for."""

Verdict = Literal["equal", "close", "different", "not compared"]

_REDUCED = re.compile(r"reduced/(\d+)/")


@attrs.frozen(kw_only=True)
class Reproduction:
    """A run beside what its model and data give now."""

    run: str
    units: tuple[int, ...]
    """Those that were computed again."""
    rows: int
    layers: tuple[LayerComparison, ...]
    furthest: tuple[FarRow, ...]
    """Of each layer that is different its worst row."""
    reasons: tuple[str, ...]
    """What is not as it was when the run was made: weights, tokenizer, template, versions."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the layers; `not compared` where there was nothing to compare."""
        found = {each.verdict for each in self.layers}
        worst: tuple[Verdict, ...] = ("different", "close", "equal")
        return next((each for each in worst if each in found), "not compared")

    def __str__(self) -> str:
        """Return a line for each layer, and one for what is not as it was."""
        count = len(self.units)
        lines = [
            f"Run {self.run}: {self.rows:,} rows of {count} unit{'' if count == 1 else 's'} "
            "computed again"
        ]
        far = {each.layer: each for each in self.furthest}
        lines += [f"{each.layer}: {_in_words(each, far.get(each.layer))}" for each in self.layers]
        if self.verdict != "equal":
            lines += [f"not as it was: {each}" for each in self.reasons]
        if self.verdict == "different" and not self.reasons:
            lines.append("not as it was: nothing that is known")
        return "\n".join([*lines, self.verdict])


def _in_words(found: LayerComparison, far: FarRow | None) -> str:
    if found.verdict == "close":
        count = found.ulps_99 or 0
        return (
            f"close ({count:,} ulp{'' if count == 1 else 's'} of {found.dtype} for 99 % of the "
            f"values, relative error {found.relative_error_most:.2g} at most)"
        )
    if found.verdict == "different" and found.rows:
        where = "" if far is None else f"; {far}"
        return f"different, {found.rows_different:,} of {found.rows:,} rows{where}"
    return found.verdict


def reproduce(
    store: Store,
    run_id: str,
    *,
    units: int = UNITS,
    recipe: CaptureRecipe | None = None,
    capture: Capture | None = None,
    progress: ProgressCallback | None = None,
) -> Reproduction:
    """Compute some units of a run again, spread over those that are committed, and compare.

    Model and data are those that the run names, or those of `recipe`; for a run of what has no name
    give the `capture` that `prepare_capture` makes of it. Nothing is written. Where the model or
    the data are not what they were, `reasons` says so, and the rows are compared all the same, if
    the documents have as many tokens as before.

    Raises `UnknownRun`, `NotRebuildable` (the run was made of what has no name), `BadArgument`,
    `DamagedStore`, and what loading model and data raises.
    """
    check_count("units", units)
    run = store.run(run_id)
    if capture is None:
        capture = rebuilt(run, recipe)
    else:
        _, capture = as_begun(store, capture, run_id)
    there = sorted(run.committed - run.dropped)
    chosen = [run.plan.unit(number) for number in _spread(there, units)]
    reasons = _reasons(run, capture)
    comparing = _Comparing(run, computing_dtype(capture, run))
    if _shape(capture.plan) != _shape(run.plan):
        # No row of one is the same token of the other.
        layers = tuple(attrs.evolve(each, verdict="different") for each in comparing.found())
        return Reproduction(
            run=run.id, units=(), rows=0, layers=layers, furthest=(), reasons=tuple(reasons)
        )
    rows = sum(unit.rows for unit in chosen)
    with told(progress, f"Reproducing {run.id}", rows) as tell, threads_of(run.plan):
        counted = _Told(tell, run, rows)
        worker = make_worker(attrs.evolve(capture, plan=run.plan), comparing, counted)
        for unit in chosen:
            worker(unit)
    return Reproduction(
        run=run.id,
        units=tuple(unit.number for unit in chosen),
        rows=rows,
        layers=tuple(comparing.found()),
        furthest=tuple(comparing.rows.furthest),
        reasons=(*reasons, *comparing.other_tokens),
    )


class _Told:
    """Counts rows that are computed again, and tells a callback."""

    def __init__(self, progress: ProgressCallback | None, run: Run, rows: int) -> None:
        self._progress, self._run, self._total = progress, run, rows
        self._rows, self._began = 0, time.perf_counter()

    def __call__(self, rows: int) -> None:
        """Count the rows of a batch."""
        self._rows += rows
        if self._progress is not None:
            now = Progress(
                run_id=self._run.id,
                rows=self._rows,
                rows_total=self._total,
                rows_new=self._rows,
                bytes_new=self._rows * self._run.plan.row_bytes,
                seconds=time.perf_counter() - self._began,
            )
            self._progress(now)


def _spread(numbers: list[int], count: int) -> list[int]:
    """Return so many of them: the first, the last, and others evenly between."""
    if count >= len(numbers):
        return numbers
    if count == 1:
        return numbers[:1]
    return [numbers[at * (len(numbers) - 1) // (count - 1)] for at in range(count)]


def _shape(plan: RunPlan) -> tuple[Any, ...]:
    return plan.rows, plan.rows_per_unit, plan.layers


# --- what is compared


class _Comparing:
    """A `RunWriter` that compares what it is given with a run, and keeps nothing."""

    def __init__(self, run: Run, computed: str) -> None:
        self.run_id, self.plan = run.id, run.plan
        self.run = run
        dtypes = {layer: run.plan.layer(layer).dtype for layer in run.layers}
        self.rows = RowCheck(run, computed, dtypes)
        self.other_tokens: list[str] = []
        """Where the first token is another one."""
        names = [each["name"] for each in run.plan.spec.get("layers", ())]
        self.reduced = [] if run.layers else [LayerMeter(n, "float64", computed) for n in names]

    def committed(self) -> frozenset[int]:
        return frozenset()

    def open_unit(self, unit: Unit) -> "_ComparingUnit":
        return _ComparingUnit(self, unit)

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def found(self) -> list[LayerComparison]:
        """Return what was found of each layer; with other tokens no row is what it was."""
        found = [*self.rows.found(), *(each.found() for each in self.reduced)]
        if self.other_tokens:
            return [attrs.evolve(each, verdict="different") for each in found]
        return found


class _ComparingUnit:
    """A `UnitWriter` of such a run."""

    def __init__(self, comparing: _Comparing, unit: Unit) -> None:
        self._comparing = comparing
        self._unit = unit
        self._next = unit.start

    def append(self, block: RowBlock) -> None:
        rows = torch.arange(self._next, self._next + len(block))
        self._next += len(block)
        self._compare_tokens(block, rows)
        again = {}
        for layer in self._comparing.run.layers:
            again[layer] = block.layers[layer]
            if layer + SCALE in block.layers:
                again[layer] = dequantize(block.layers[layer], block.layers[layer + SCALE])
        stored = {layer: self._comparing.run[layer][rows] for layer in again}
        self._comparing.rows.add(rows, stored, again)

    def _compare_tokens(self, block: RowBlock, rows: Tensor) -> None:
        run = self._comparing.run
        wrong = (run.tokens[rows] != block.tokens).nonzero().flatten()
        if len(wrong) and not self._comparing.other_tokens:
            at = int(wrong[0])
            self._comparing.other_tokens.append(
                f"token {int(block.positions[at])} of document {int(block.documents[at])} is "
                f"{int(run.tokens[int(rows[at])])} there and {int(block.tokens[at])} here"
            )

    def keep(self, name: str, tensor: Tensor) -> None:
        """Compare a statistic; which of two equal tokens stands first is no difference."""
        reduced, number = self._comparing.reduced, _REDUCED.match(name)
        if number and reduced and tensor.is_floating_point():
            stored = self._comparing.run.unit_tensor(self._unit.number, name)
            if stored.shape == tensor.shape:
                reduced[int(number[1])].add(stored.reshape(1, -1), tensor.reshape(1, -1))

    def commit(self, log: Mapping[str, Any]) -> None:
        pass

    def discard(self) -> None:
        pass

    def __enter__(self) -> "_ComparingUnit":
        return self

    def __exit__(self, *_: object) -> None:
        pass


# --- what is not as it was


def _reasons(run: Run, capture: Capture) -> list[str]:
    """Say what of model, data and machine is not what the run noted, a phrase each."""
    found = differences(capture.plan, run.plan)
    if "model not the same" in found:
        parts = _other_parts(run.plan.about.get("model"), capture.plan.about["model"])
        found.remove("model not the same")
        found = [f"the model: other {', '.join(parts) or 'settings'}", *found]
    if run.plan.about.get("template") != capture.plan.about.get("template"):
        found = [each for each in found if each != "template not the same"]
        found.append("the chat template is another one")
    return found + _other_process(run.recent(1)["sessions"], capture)


def _other_parts(there: Any, here: Mapping[str, Any]) -> list[str]:
    if not isinstance(there, Mapping):
        return []
    names = [name for name in here if name not in ("name", "revision")]
    return [name for name in names if here[name] != there.get(name)]


def _other_process(sessions: list[dict[str, Any]], capture: Capture) -> list[str]:
    """Say in which versions, settings and devices no process that wrote the run was alike."""
    here = {
        **versions(),
        **numerics(),
        "device": capture.session["model"].get("device"),
    }
    there: dict[str, set[str]] = {}
    for session in sessions:
        model = session.get("model")
        noted = {
            **_mapping(session.get("versions")),
            **_mapping(session.get("numerics")),
            "device": _mapping(model).get("device"),
        }
        for name, value in noted.items():
            if name in here and value is not None:
                there.setdefault(name, set()).add(str(value))
    return [
        f"{name.replace('_', ' ')} was {' and '.join(sorted(values))} and is {here[name]}"
        for name, values in there.items()
        if values != {str(here[name])}
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
