from typing import Any

from tenterhook_capture.testing.loaders import LoaderContract
from tenterhook_capture.text_model import TextModel
from tenterhook_tiny import load


class TestTiny(LoaderContract):
    """It does what every loader does."""

    def load(self, name: str, **settings: Any) -> TextModel:
        """Load the model that ships."""
        return load(name, **settings)
