"""`model.capture(...)`: keeps what layers return, in memory that is the user's own."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tenterhook.activations import Path
from tenterhook.layers import LayerChoice, LayerSpec
from tenterhook.reports import never_ran
from tenterhook.scopes.captured import Captured
from tenterhook.scopes.plan import Opening, Plan, Spot, plan_for
from tenterhook.scopes.recorders import Form, PlainRecorder, Recorder
from tenterhook.scopes.scope import Scope
from tenterhook.scopes.selecting import Selector, steps_of

_Form = tuple[torch.device | str | None, torch.dtype | str | None, bool, Path]
Asked = tuple[tuple[LayerChoice, ...], _Form, bool, LayerSpec | None, Any, Selector | None]
"""What a capture was asked for: layers, how tensors are kept, whether inputs, where to stop, its
`CaptureBudget`, and which part of them."""

_OPEN_FIRST = "Open the capture first: `with model.capture(...) as captured:`."


class CaptureScope(Scope):
    """`model.capture(...)`."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"A capture has no {name!r} before it is opened. {_OPEN_FIRST}")

    def __getitem__(self, layer: object) -> Any:
        """Raise `TypeError`: what is captured is had by opening the scope."""
        raise TypeError(_OPEN_FIRST)

    _asked: Asked
    _plan: Plan
    _captured: Captured

    def _look(self) -> None:
        choices, form, inputs, stop_after, _, selector = self._asked
        self._begin(selector)
        found = self._index.find(choices)
        stop = None if stop_after is None else self._index.resolve(stop_after)

        def planned() -> Plan:
            kept = Form(*form)
            kind = PlainRecorder if kept == Form() else Recorder
            spots = [
                Spot(la.name, la.module, "before" if inputs or la.name == "input" else "after")
                for la in found.layers
            ]
            stops = None if stop is None else stop.module
            return Plan(spots, partial(kind, form=kept), stops)

        self._plan = plan_for(self._index.plans, (found, form, inputs, stop), planned)

    def _opening(self) -> Opening:
        self._begin(self._asked[-1])
        selecting = self._selecting.values()
        if not selecting:
            opening = self._plan.take()
            opening.without = {}
        for each in selecting:
            kind = partial(each.recorder, form=Form(*self._asked[1]))
            opening = self._plan.opening(kind, steps_of(selecting))
        calls: dict[str, list[Tensor]] = {name: [] for name in self._plan.names}
        if (budget := self._asked[4]) is not None:
            calls = budget.lists(calls)
        opening.own = [*calls.values()]
        chosen = self._selecting.get(id(self._asked[-1]))
        places = {} if chosen is None else {r.layer: r.where for r in opening.parts}
        self._captured = Captured(self._index, calls, places, chosen)
        return opening

    def __enter__(self) -> Captured:
        super().__enter__()
        return self._captured

    def _closed(self, opening: Opening) -> None:
        self._captured.end()

    def _unseen(self, opening: Opening) -> list[str]:
        if all(opening.own):
            return []
        without, parts = opening.without, zip(opening.parts, opening.own, strict=True)
        silent = [r.layer for r, calls in parts if not calls and r.layer not in without]
        why = "which holds no tensor, so nothing was captured."
        empty = [f"Layer {layer!r} {what}, {why}" for layer, what in without.items()]
        never = {spot.name: spot.module for spot in self._plan.spots if spot.name in silent}
        return [*empty, *never_ran("Nothing was captured at", never)]
