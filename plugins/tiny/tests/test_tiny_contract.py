from typing import Any

from tenterhook_capture.documents import Documents
from tenterhook_capture.testing.datasets import DatasetContract
from tenterhook_capture.testing.loaders import LoaderContract
from tenterhook_capture.text_model import TextModel
from tenterhook_tiny import load, read


class TestTiny(LoaderContract):
    """It does what every loader does."""

    def load(self, name: str, **settings: Any) -> TextModel:
        """Load the model that ships."""
        return load(name, **settings)


class TestSample(DatasetContract):
    """The text does what every source of documents does."""

    name = "sample"
    scheme = "tiny"

    def read(self, name: str, **settings: Any) -> Documents:
        """Read the text that ships."""
        return read(name, **settings)
