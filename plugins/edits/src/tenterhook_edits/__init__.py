"""Ready controllers: steer along a vector, project out, clamp, scale, ablate, patch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_edits.controllers import (
        AddVector,
        Clamp,
        MeanAblate,
        Patch,
        ProjectOut,
        Scale,
        ZeroAblate,
    )

__all__ = ["AddVector", "Clamp", "MeanAblate", "Patch", "ProjectOut", "Scale", "ZeroAblate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tenterhook_edits import controllers

        return getattr(controllers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
