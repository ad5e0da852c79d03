"""The controller that applies a function to a layer's activation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_function_controller.controller import FunctionController as FunctionController

__all__ = ["FunctionController"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tenterhook_function_controller import controller

        return getattr(controller, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
