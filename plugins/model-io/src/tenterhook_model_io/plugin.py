"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_detectors() -> Sequence[Extension]:
    """Declare the detectors of this distribution."""
    return [
        Extension(
            "ModelInputDetector",
            "tenterhook_model_io.detectors:ModelInputDetector",
            "Keep the token ids and attention mask given to the model.",
        ),
        Extension(
            "ModelOutputDetector",
            "tenterhook_model_io.detectors:ModelOutputDetector",
            "Keep the logits and last hidden state the model returned.",
        ),
    ]
