"""Detectors of what goes into and comes out of a whole model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_model_io.detectors import ModelInputDetector as ModelInputDetector
    from tenterhook_model_io.detectors import ModelOutputDetector as ModelOutputDetector

__all__ = ["ModelInputDetector", "ModelOutputDetector"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tenterhook_model_io import detectors

        return getattr(detectors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
