from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenterhook_capture.testing.loaders import LoaderContract
from tenterhook_capture.text_model import TextModel
from tenterhook_transformers import load


@pytest.mark.parametrize("side", ["left", "right"])
class TestLoad(LoaderContract):
    """It does what every loader does, whichever side the tokenizer pads."""

    @pytest.fixture(autouse=True)
    def saved(
        self,
        tmp_path: Path,
        make_model: Callable[..., Any],
        make_tokenizer: Callable[..., Any],
        side: str,
    ) -> None:
        """Save a small Llama in a folder."""
        make_model("llama").save_pretrained(tmp_path / "model")
        make_tokenizer(side).save_pretrained(tmp_path / "model")
        self.name = str(tmp_path / "model")

    def load(self, name: str, **settings: Any) -> TextModel:
        """Load from a folder."""
        return load(name, **settings)
