"""`model.replace(...)`: a layer's output is given, and the layer does not run."""

import uuid
from typing import Any

from tenterhook._dispatch.frames import NO_STEPS, Steps
from tenterhook._dispatch.sites import instead_of, site_of
from tenterhook.points import Point
from tenterhook.reports import never_ran
from tenterhook.scopes.plan import Opening
from tenterhook.scopes.scope import Scope


class Replaced(Scope):
    """`model.replace(...)`: a layer's output is given, and the layer does not run."""

    def _look(self) -> None:
        choice, self._output = self._asked
        self._layers = self._index.find((choice,)).layers

    def _opening(self) -> Opening:
        opening = Opening()
        opening.parts = [_Answer(layer.name, self._output) for layer in self._layers]
        for layer, answer in zip(self._layers, opening.parts, strict=True):
            opening.put(instead_of(layer.module), Steps((answer,)))
            if isinstance(layer.module, Point):  # which is to know that it is used
                opening.put(site_of(layer.module, "after"), NO_STEPS)
        return opening

    def _unseen(self, opening: Opening) -> list[str]:
        silent = [answer.layer for answer in opening.parts if not answer.fired]
        never = {la.name: la.module for la in self._layers if la.name in silent}
        return never_ran("An output was given for", never)


class _Answer:
    """Stands in for a layer's forward."""

    __slots__ = ("fired", "layer", "output", "replaces")

    def __init__(self, layer: str, output: Any) -> None:
        self.layer, self.output = layer, output
        self.replaces = f"output {uuid.uuid4()} given for {layer}"
        self.fired = False

    def instead(self, *args: Any, **kwargs: Any) -> Any:
        self.fired = True
        given = self.output
        return given(*args, **kwargs) if callable(given) else given
