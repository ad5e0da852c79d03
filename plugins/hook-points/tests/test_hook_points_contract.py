from typing import Any

from tenterhook_capture.testing.loaders import LoaderContract
from tenterhook_capture.text_model import TextModel
from tenterhook_hook_points.loader import load


class TestPoints(LoaderContract):
    """It does what every loader does."""

    name = "tiny:"
    unknown_name = "tiny:there-is-no-such-model"

    def load(self, name: str, **settings: Any) -> TextModel:
        """Load a model under its own name, with hook points."""
        return load(name, **settings)
