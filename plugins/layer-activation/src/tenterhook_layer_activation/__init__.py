"""The detector that keeps a layer's latest activation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_layer_activation.detector import (
        LayerActivationDetector as LayerActivationDetector,
    )

__all__ = ["LayerActivationDetector"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tenterhook_layer_activation import detector

        return getattr(detector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
