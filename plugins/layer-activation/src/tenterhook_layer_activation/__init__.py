"""The detector that keeps a layer's latest activation."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_layer_activation.detector import (
        LayerActivationDetector as LayerActivationDetector,
    )

__all__ = ["LayerActivationDetector"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "detector"))
