"""Ready controllers: steer along a vector, project out, clamp, scale, ablate, patch."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "controllers"))
