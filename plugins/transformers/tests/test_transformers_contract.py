from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tenterhook.plugins import default_manager
from tenterhook.standard_names import StandardNames
from tenterhook.testing.layer_names import LayerNamesContract
from tenterhook_capture.documents import Documents
from tenterhook_capture.testing.datasets import DatasetContract
from tenterhook_capture.testing.loaders import LoaderContract
from tenterhook_capture.text_model import TextModel
from tenterhook_transformers import load, read
from tenterhook_transformers.layer_naming import name_layers


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


class TestRead(DatasetContract):
    """A data set in a folder does what every source of documents does."""

    scheme = "hf"
    unknown_name = "./there-is-no-such-data"

    @pytest.fixture(autouse=True)
    def saved_texts(self, tmp_path: Path) -> None:
        """Save a few texts, one of them empty."""
        datasets = pytest.importorskip("datasets")
        texts = datasets.Dataset.from_dict({"text": ["one two", "", "three", "four five six"]})
        texts.save_to_disk(str(tmp_path / "texts"))
        self.name = str(tmp_path / "texts")

    def read(self, name: str, **settings: Any) -> Documents:
        """Read from a folder."""
        return read(name, **settings)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
class TestNameLayers(LayerNamesContract):
    """Standard names do what all do, in two of the families."""

    @pytest.fixture(autouse=True)
    def made(self, make_model: Callable[..., Any], family: str) -> None:
        """Choose the family."""
        self.made_model: Callable[[], nn.Module] = lambda: make_model(family)

    def name_layers(self, module: nn.Module) -> StandardNames | None:
        """Name the layers of a model."""
        return name_layers(module)

    def model(self) -> nn.Module:
        """Make a small model."""
        return self.made_model()

    def run(self, module: nn.Module) -> None:
        """Run one forward."""
        module(torch.tensor([[0, 5, 9, 7]]))


def test_the_example_has_names() -> None:
    """`tenterhook plugins check` tries the names on the model that the plugin makes."""
    registered = default_manager().extensions("layer_names")["transformers"]
    make = registered.extension.load_example()

    assert make is not None
    names = registered.load()(make())
    assert list(names.layers) == [
        f"{place}.{block}" for block in range(2) for place in ("resid_post", "attn_out", "mlp_out")
    ]
