"""`model.replace(...)`: a layer's output is given, and the layer does not run."""

import uuid
from typing import Any

from tenterhook._dispatch.frames import Place, Steps
from tenterhook._dispatch.sites import instead_of
from tenterhook.layers import LayerChoice
from tenterhook.registry import HookRegistry
from tenterhook.reports import Report, never_ran
from tenterhook.scopes.scope import Scope, Step


class Replaced(Scope):
    """`model.replace(...)`: a layer's output is given, and the layer does not run."""

    def __init__(
        self,
        registry: HookRegistry,
        choice: LayerChoice,
        output: Any,
        *,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        self._registry = registry
        self._choice = choice
        self._layers = registry.index.expand([choice])
        self._output = output
        self._answers: list[_Answer] = []

    def _again(self) -> "Replaced":
        return Replaced(self._registry, self._choice, self._output, missing=self._missing)

    def _steps(self) -> dict[Place, Steps]:
        self._answers = [_Answer(layer.name, self._output) for layer in self._layers]
        places = (instead_of(layer.module) for layer in self._layers)
        return {
            place: Steps((answer,)) for place, answer in zip(places, self._answers, strict=True)
        }

    def _unseen(self) -> list[str]:
        silent = [answer.layer for answer in self._answers if not answer.fired]
        never = {la.name: la.module for la in self._layers if la.name in silent}
        return never_ran("An output was given for", never)


class _Answer(Step):
    """Stands in for a layer's forward."""

    __slots__ = ("change", "fired", "layer", "output")

    def __init__(self, layer: str, output: Any) -> None:
        self.layer, self.output = layer, output
        self.change = f"output {uuid.uuid4()} given for {layer}"
        self.fired = False

    def instead(self, *args: Any, **kwargs: Any) -> Any:
        self.fired = True
        given = self.output
        return given(*args, **kwargs) if callable(given) else given
