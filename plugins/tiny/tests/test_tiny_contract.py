from typing import Any

from tenterhook.testing.loaders import LoaderContract
from tenterhook.text_model import TextModel
from tenterhook_tiny import load


class TestTiny(LoaderContract):
    """It does what every loader does."""

    def load(self, name: str, **settings: Any) -> TextModel:
        """Load the model that ships."""
        return load(name, **settings)
