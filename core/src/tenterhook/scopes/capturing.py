"""`model.capture(...)`: keeps what layers return, in memory that is the user's own."""

import copy
from typing import Any

from torch import Tensor

from tenterhook._dispatch.frames import Place, Steps, visible_frame
from tenterhook._dispatch.sites import Installs
from tenterhook.layers import LayerIndex
from tenterhook.reports import Report, never_ran
from tenterhook.scopes.capture_plan import (
    CLOSED,
    Asked,
    Recording,
    SelectedRecorder,
    make_own,
    plan_for,
)
from tenterhook.scopes.captured import Captured
from tenterhook.scopes.scope import Scope
from tenterhook.scopes.selecting import Selector


class CaptureScope(Scope):
    """`model.capture(...)`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"A capture has no {name!r} before it is opened: "
            "`with model.capture(...) as captured:` gives what has."
        )

    def __getitem__(self, layer: object) -> Any:
        """Raise `TypeError`: what is captured is had by opening the scope."""
        raise TypeError("Open the capture first: `with model.capture(...) as captured:`.")

    def __init__(
        self,
        index: LayerIndex,
        asked: Asked,
        *,
        selection: Selector | None = None,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        if selection is not None:
            selection.begin(index.module)  # raises now rather than at the first call
        self._selection = selection
        self._index = index
        self.model = index.module
        """The module that was attached."""
        self._asked = asked
        self._plan = plan_for(index, asked)
        self._recording: Recording | None = None
        self._calls: dict[str, list[Tensor]] = {}

    def _again(self) -> "CaptureScope":
        again = copy.copy(self)
        again._frame = again._recording = None
        again._plan = plan_for(self._index, self._asked)  # the names may mean other modules by now
        return again

    def __enter__(self) -> Captured:
        captured: Captured = super().__enter__()
        if self._recording is not None:
            self._recording.frame = self._frame
        return captured

    def _steps(self) -> dict[Place, Steps]:
        plan, selection = self._plan, self._selection
        self._recording = recording = (
            plan.take() if selection is None else plan.selecting(selection, self._index.module)
        )
        self._calls = recording.fill()
        if recording.stop is not None:
            recording.stop.scope = self
        return recording.steps

    def _installs(self) -> Installs | None:
        return None if self._recording is None else self._recording.installs

    def _result(self) -> Captured:
        recorders = self._recording.recorders if self._recording else []
        selected = [r for r in recorders if isinstance(r, SelectedRecorder)]
        self._selecting = selected[0].selecting if selected else None
        places = {r.layer: r.where for r in selected}
        return Captured(self._index, self._calls, places, self._selecting)

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        frame = self._frame
        self._reusable = (  # else another thread may be in it still
            self._selection is None
            and frame is not None
            and frame.carried is None
            and visible_frame() is frame
        )
        super().close()

    def _closed(self) -> None:
        if self._recording is not None:
            self._recording.frame = CLOSED
            make_own(self._recording.recorders)

    def _ended(self) -> None:
        recording, self._recording, self._calls = self._recording, None, {}
        if recording is not None and self._reusable:
            self._plan.give_back(recording)
        elif recording is not None:
            recording.recorders, recording.steps = (), {}  # a cycle would keep the model

    def _unseen(self) -> list[str]:
        recording = self._recording
        if recording is None or (self._selection is None and all(self._calls.values())):
            return []
        without, recorders = recording.without, recording.recorders
        silent = [r.layer for r in recorders if not r.calls and r.layer not in without]
        nothing = [r.layer for r in recorders if r.calls and not any(c.numel() for c in r.calls)]
        if silent:
            plans = self._index.plans  # the sites may be of dictionaries that are not torch's now
            for key in [key for key, plan in plans.items() if plan is self._plan]:
                del plans[key]
        return [
            *(
                f"Layer {layer!r} {what}, which holds no tensor, so nothing was captured."
                for layer, what in without.items()
            ),
            *never_ran(
                "Nothing was captured at",
                {la.name: la.module for la in self._plan.layers if la.name in silent},
            ),
            *([] if self._selecting is None else self._selecting.unmatched(nothing)),
        ]
