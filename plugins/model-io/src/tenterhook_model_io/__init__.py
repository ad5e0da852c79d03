"""Detectors of what goes into and comes out of a whole model."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_model_io.detectors import ModelInputDetector as ModelInputDetector
    from tenterhook_model_io.detectors import ModelOutputDetector as ModelOutputDetector

__all__ = ["ModelInputDetector", "ModelOutputDetector"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "detectors"))
