"""What other layers give in the forward that runs, for hooks that read more than their own layer.

Plain torch hooks stand on these layers while the hook is registered, and on the model, whose
forward begins and ends what is known. Each thread has its own.
"""

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook import HookContext, attach
from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook_sae.errors import NotRead
from tenterhook_selections.eager import eager

INPUT = ":input"
"""What the name of a layer ends with, whose input is read, and not what it returns."""


class OtherLayers:
    """Follows some layers of one model, while a hook that reads them is registered there."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._handles: list[RemovableHandle] = []
        self._here = threading.local()

    def follow(self, context: HookContext | None) -> None:
        """Follow the layers of this model; with `None`, none. Raises `UnknownLayer`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._here = threading.local()
        if context is None or not self.names:
            return
        index = attach(context.model).layers.index
        modules = [index.resolve(name.removesuffix(INPUT)).module for name in self.names]
        self._handles = [
            context.model.register_forward_pre_hook(self._forget),
            context.model.register_forward_hook(self._forget, always_call=True),
            *(self._on(module, name) for module, name in zip(modules, self.names, strict=True)),
        ]

    def found(self, at: Any) -> list[Tensor]:
        """Return what each layer gave, in their order, for a hook at the layer `at`.

        Raises `NotRead` (a `RuntimeError`) where one has not run in this forward.
        """
        seen = self._seen
        if missing := [name for name in self.names if name not in seen]:
            raise NotRead(missing, at)
        return [seen[name] for name in self.names]

    def __reduce__(self) -> Any:
        return OtherLayers, (self.names,)  # a copy follows no model, and no call is under way

    @property
    def _seen(self) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = self._here.__dict__.setdefault("seen", {})
        return seen

    def _on(self, module: nn.Module, name: str) -> RemovableHandle:
        @eager
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._note(name, first_input(inputs_of(module, args, kwargs)))

        @eager
        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._note(name, activation_of(output))

        if name.endswith(INPUT):
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    def _note(self, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            self._seen[name] = tensor

    @eager
    def _forget(self, *_: Any) -> None:
        self._seen.clear()
