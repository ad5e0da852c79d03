"""How often each registered hook ran, and how long it took: for services that watch themselves.

Off until somebody asks. Then what a hook's entry calls is wrapped: two looks at the clock and a
count, less than a microsecond a call (`benchmarks/bench_hook_metrics.py`). Each thread counts in a
cell of its own, so nothing is lost and nobody waits.

Time is that of the hook's own Python: what it starts on a GPU may take longer, and is not waited
for. Hooks of scopes are not counted, nor what runs inside a graph that `torch.compile` made.
"""

from collections.abc import Callable, Iterator, Mapping
from threading import Lock, get_ident
from time import perf_counter_ns
from typing import Any, final

import attrs
from torch.compiler import is_dynamo_compiling as tracing

from tenterhook.registry import HookRegistry
from tenterhook_capture.loggers import Logger

Cells = dict[int, list[int]]
"""Calls, nanoseconds and errors, by thread."""

_opening = Lock()


@final
@attrs.frozen(kw_only=True)
class HookMetric:
    """What one hook has done since it is counted."""

    hook_id: str
    layer: str
    """Where it is registered, or was last."""
    calls: int
    """How often it ran: on an output, on inputs, or on a gradient. One that detects and controls
    runs twice."""
    seconds: float
    """How long all these took."""
    errors: int
    """How many of them raised."""

    @property
    def seconds_per_call(self) -> float:
        """The mean; 0 before the first call."""
        return self.seconds / self.calls if self.calls else 0.0


class _Timed:
    """An edit whose function is timed; what else is asked of it, the hook answers."""

    def __init__(self, hook: Any, function: Callable[..., Any]) -> None:
        self.function, self.checked = function, hook.checked


@final
class HookMetrics(Mapping[str, HookMetric]):
    """The counts and times of a model's registered hooks, by hook id, as they are when read.

    `hooked.metrics()` gives it. It counts until it is closed, and is a context that closes it.
    """

    def __init__(self, layers: HookRegistry) -> None:
        self._layers = layers
        self._cells: dict[str, Cells] = {}
        self._where: dict[str, str] = {}
        self._is_open = True

    @classmethod
    def of(cls, layers: HookRegistry) -> "HookMetrics":
        """Return the metrics of a model that are open, or begin new ones."""
        with _opening:
            found = getattr(layers.around, "__self__", None)
            if isinstance(found, cls):
                return found
            made = cls(layers)
            # In this order: of a hook that is registered meanwhile both look, which does no harm.
            layers.around = made._timing
            for entry in layers.entries():
                made._timing(entry)
            return made

    def _timing(self, entry: Any) -> Any:
        """Have what an entry of a registered hook calls counted and timed; return the entry."""
        entry_of_hook = getattr(entry, "entry", entry)  # inside that of a selection
        hook = entry_of_hook.hook
        cells = self._cells.setdefault(hook.id, {})
        self._where[hook.id] = str(hook.layer_signature)
        if not hasattr(entry_of_hook.observe, "untimed"):
            entry_of_hook.observe = _timed(entry_of_hook.observe, cells)
            entry_of_hook.modify = _timed(entry_of_hook.modify, cells)
            if getattr(entry_of_hook, "edit", None) is not None:
                entry_of_hook.edit = _Timed(hook, _timed(hook.function, cells))
        return entry

    def close(self) -> None:
        """Count no more; what was counted stays. A second call does nothing."""
        with _opening:
            if not self._is_open:
                return
            self._is_open = False
            self._layers.around = lambda entry: entry
            for entry in self._layers.entries():
                of_hook = getattr(entry, "entry", entry)
                of_hook.observe = getattr(of_hook.observe, "untimed", of_hook.observe)
                of_hook.modify = getattr(of_hook.modify, "untimed", of_hook.modify)
                if isinstance(getattr(of_hook, "edit", None), _Timed):
                    of_hook.edit = of_hook.hook

    def log_to(self, *loggers: Logger, step: int, prefix: str = "hooks/") -> None:
        """Log calls, seconds and errors of each hook under a step: `hooks/ID/calls` and so on."""
        values = {
            f"{prefix}{name}/{what}": getattr(metric, what)
            for name, metric in self.items()
            for what in ("calls", "seconds", "errors")
        }
        for logger in loggers:
            logger.log(values, step=step)

    def __getitem__(self, hook_id: str) -> HookMetric:
        cells = [cell.copy() for cell in list(self._cells[hook_id].values())]
        calls, spent, errors = (sum(each) for each in zip([0, 0, 0], *cells, strict=True))
        return HookMetric(
            hook_id=hook_id,
            layer=self._where[hook_id],
            calls=calls,
            seconds=spent / 1e9,
            errors=errors,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._cells))

    def __len__(self) -> int:
        return len(self._cells)

    def __enter__(self) -> "HookMetrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        lines = [
            f"{each.hook_id} at {each.layer}: {each.calls:,} calls, {each.seconds:.3g} s"
            + (f", {each.errors:,} errors" if each.errors else "")
            for each in self.values()
        ]
        return f"HookMetrics({'; '.join(lines)})"


def _timed(call: Callable[..., Any], cells: Cells) -> Callable[..., Any]:
    """Return a function that does what `call` does, counted and timed."""

    def run(*given: Any) -> Any:
        if tracing():
            return call(*given)
        failed, began = 1, perf_counter_ns()
        try:
            result = call(*given)
            failed = 0
            return result
        finally:
            spent = perf_counter_ns() - began
            cell = cells.get(get_ident())
            if cell is None:
                cell = cells[get_ident()] = [0, 0, 0]
            cell[0] += 1
            cell[1] += spent
            cell[2] += failed

    run.untimed = call  # type: ignore[attr-defined]
    return run
