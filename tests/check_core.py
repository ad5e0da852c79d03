"""Checks for an environment of `tenterhook-core` alone; `nox -s core` runs them.

Not named `test_...`, so that an ordinary run, where every plugin is installed, leaves it alone.
"""

import importlib
import subprocess
import sys
from importlib import metadata, util

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, Detector

BESIDE = ("click", "rich", "cattrs", "numpy", "zarr", "transformers")
DOORS = {
    "tenterhook.store": "tenterhook-store",
    "tenterhook.reductions": "tenterhook-store",
    "tenterhook.testing.stores": "tenterhook-store",
    "tenterhook.selections": "tenterhook-selections",
    "tenterhook.specs": "tenterhook-specs",
    "tenterhook.capture": "tenterhook-capture",
    "tenterhook.documents": "tenterhook-capture",
    "tenterhook.engine": "tenterhook-capture",
    "tenterhook.loading": "tenterhook-capture",
    "tenterhook.observers": "tenterhook-capture",
    "tenterhook.text_model": "tenterhook-capture",
    "tenterhook.testing.engines": "tenterhook-capture",
    "tenterhook.testing.loaders": "tenterhook-capture",
    "tenterhook.testing.text_models": "tenterhook-capture",
}


class KeepsNorms(Detector):
    """Keeps the norm of each activation."""

    def __init__(self) -> None:
        super().__init__("forward")
        self.norms: list[Tensor] = []

    def process_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> None:
        """Keep the norm of what the layer returned."""
        assert output is not None
        self.norms.append(output.norm(dim=-1))


class Doubles(Controller):
    """Doubles what the layer returns."""

    def __init__(self) -> None:
        super().__init__("forward")

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Return twice the output."""
        assert output is not None
        return output * 2


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """Return a small model with hooks attached."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))


def test_core_is_alone() -> None:
    """No other distribution of ours is installed, nor what only they need."""
    names = {each.name.lower().replace("_", "-") for each in metadata.distributions()}

    assert {name for name in names if name.startswith("tenterhook")} == {"tenterhook-core"}
    assert [name for name in BESIDE if util.find_spec(name)] == []


def test_core_asks_for_three_distributions() -> None:
    """And for nothing else, not even as an extra."""
    required = metadata.requires("tenterhook-core") or []

    assert {name.partition(">")[0] for name in required} == {"attrs", "pluggy", "torch"}


def test_hooks_are_registered(model: tenterhook.HookedModel) -> None:
    """A detector sees what a controller before it returned."""
    x, norms = torch.randn(3, 4), KeepsNorms()
    expected = 2 * model.module.get_submodule("0")(x)
    model.layers.register_hook("0", Doubles())
    model.layers.register_hook("0", norms, mix="in_order")

    model(x)

    torch.testing.assert_close(norms.norms[0], expected.norm(dim=-1))


def test_scopes_capture_and_steer(model: tenterhook.HookedModel) -> None:
    """What README shows of a plain model."""
    x = torch.randn(3, 4)
    with model.capture("0", "layer_1") as captured, model.steer("2", lambda y: y * 10):
        steered = model(x)

    assert {name: tuple(captured.last(name).shape) for name in captured} == {
        "0": (3, 8),
        "1": (3, 8),
    }
    torch.testing.assert_close(steered, model(x) * 10)
    tenterhook.assert_clean(model)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_says_what_to_install(door: str) -> None:
    """Which distribution the name comes with, as a command for pip."""
    with pytest.raises(ImportError, match=rf"^{door} comes with .*`pip install {DOORS[door]}`\.$"):
        importlib.import_module(door)


def test_a_hook_of_a_plugin_says_what_to_install() -> None:
    """So does a hook class that is a plugin's."""
    with pytest.raises(ImportError, match="`pip install tenterhook-function-controller`"):
        from tenterhook.hooks import FunctionController  # noqa: F401


@pytest.mark.parametrize("asked", [{"tokens": "last"}, {"rows": 0}, {"features": [0]}], ids=str)
def test_a_selection_says_what_to_install(
    model: tenterhook.HookedModel, asked: dict[str, object]
) -> None:
    """Words of selections need the plugin that reads them, when they are asked for."""
    message = "`pip install tenterhook-selections`"
    with pytest.raises(ImportError, match=message):
        model.capture("0", **asked)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=message):
        model.steer("0", torch.neg, **asked)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=message):
        tenterhook.Selection  # noqa: B018


def test_the_command_says_what_to_install() -> None:
    """In one line, without a traceback."""
    command = [sys.executable, "-m", "tenterhook", "plugins", "list"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == (
        "error: The command tenterhook comes with tenterhook-cli, which is not installed: "
        "`pip install tenterhook-cli`.\n"
    )
