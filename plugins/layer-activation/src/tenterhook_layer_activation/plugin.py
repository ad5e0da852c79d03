"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_detectors() -> Sequence[Extension]:
    """Declare the detectors of this distribution."""
    return [
        Extension(
            "LayerActivationDetector",
            "tenterhook_layer_activation.detector:LayerActivationDetector",
            "Keep a layer's latest activation, detached, on the CPU.",
        ),
    ]
