from tenterhook.testing.hooks import DetectorContract
from tenterhook_layer_activation import LayerActivationDetector


class TestLayerActivationDetector(DetectorContract):
    """It does what every detector does."""

    def make(self) -> LayerActivationDetector:
        """Return a detector."""
        return LayerActivationDetector("inner")
