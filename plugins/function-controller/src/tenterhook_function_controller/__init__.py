"""The controller that applies a function to a layer's activation."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_function_controller.controller import FunctionController as FunctionController

__all__ = ["FunctionController"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "controller"))
