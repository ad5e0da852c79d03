"""Checks for an environment of built wheels and strangers' plugins; `nox -s wheels` runs them.

Not named `test_...`, so that an ordinary run, where sources are installed, leaves it alone.
"""

import json
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

import tenterhook
from tenterhook.plugins import FIRST_PARTY

COMMAND = Path(sysconfig.get_path("scripts"), "tenterhook")


def run(*arguments: str | Path) -> str:
    """Run the installed command and return its stdout."""
    return subprocess.run([COMMAND, *arguments], check=True, capture_output=True, text=True).stdout


def test_what_is_imported_is_what_was_installed() -> None:
    """The sources are out of reach."""
    assert Path(tenterhook.__file__).is_relative_to(sysconfig.get_path("purelib"))


def test_every_plugin_is_listed() -> None:
    """Ours and the stranger's, through the same door."""
    listed = {row["name"]: row for row in json.loads(run("plugins", "list", "--json"))}

    assert listed.keys() >= {name for names in FIRST_PARTY.values() for name in names}
    assert listed["TokenNormDetector"]["distribution"] == "tenterhook-token-norms"
    assert listed["TokenNormDetector"]["version"] == metadata.version("tenterhook-token-norms")


def test_the_strangers_detector_works_like_ours() -> None:
    """It comes from `tenterhook.hooks` and is registered on a layer."""
    from tenterhook.hooks import LayerActivationDetector, TokenNormDetector

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    hooked = tenterhook.attach(model)
    norms, activations = TokenNormDetector(), LayerActivationDetector("0")
    hooked.layers.register_hook("0", norms)
    hooked.layers.register_hook("0", activations)

    hooked(torch.randn(2, 3, 4))

    captured = activations.get_captured()
    assert captured is not None
    torch.testing.assert_close(norms.norms, captured.norm(dim=-1))


def test_the_strangers_command_works() -> None:
    """A plugin adds a command to `tenterhook`, which uses its own detector."""
    listed = {row["name"]: row for row in json.loads(run("plugins", "list", "--json"))}
    assert listed["statistics"]["kinds"] == ["command"]
    assert listed["StatisticsDetector"]["distribution"] == "tenterhook-statistics"

    arguments = ("tiny:", "--layer", "layer_0", "--data", "tiny:sample", "--sample-limit", "1")
    found = json.loads(run("statistics", *arguments, "--json"))

    assert found["tokens"] > 0
    assert len(found["features"]) == 128


def test_the_strangers_plugins_fulfil_their_contracts() -> None:
    """As `tenterhook plugins check` runs them."""
    for name in ("tenterhook-statistics", "tenterhook-token-norms"):
        assert " passed" in run("plugins", "check", name)


def test_the_main_job_works(tmp_path: Path) -> None:
    """With what the wheels hold: the tiny model, its text, the store."""
    text = tmp_path / "text.txt"
    text.write_text("It was a dark and stormy night.\n")
    store = tmp_path / "store"

    run("capture", "tiny:", "--layer", "transformer.h.0.mlp", "--data", text, "--out", store)

    assert run("runs", "list", store)
