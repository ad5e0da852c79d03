"""Type checkers follow names through doors, and through the lazy names of `tenterhook`."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = """
from tenterhook import HookedModel, Selection, attach
from tenterhook.capture import save_activations
from tenterhook.hooks import FunctionController, LayerActivationDetector
from tenterhook.loading import load_model
from tenterhook.specs import HookSpec
from tenterhook.store import LocalStore, MemoryStore, Run
from torch import nn

model: HookedModel = attach(nn.Identity())
run: Run = MemoryStore().run("first")
reveal_type(LocalStore)
reveal_type(FunctionController)
reveal_type(LayerActivationDetector("0").get_captured())
reveal_type(Selection)
reveal_type(HookSpec)
LocalStore(1.5)
"""
REVEALED = [
    "tenterhook_store.",
    "tenterhook_function_controller.",
    "torch._tensor.Tensor | None",
    "tenterhook_selections.",
    "tenterhook_specs.",
]


def test_names_behind_doors_are_typed(tmp_path: Path) -> None:
    """By mypy, strictly: each name has the type of the package that it comes from."""
    file = tmp_path / "names.py"
    file.write_text(SOURCE)
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--strict")
    command = [sys.executable, "-m", "mypy", *settings, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    notes = re.findall(r"Revealed type is (.+)", done.stdout)
    errors = re.findall(r"error: (.+)", done.stdout)
    assert len(notes) == len(REVEALED), done.stdout
    for note, revealed in zip(notes, REVEALED, strict=True):
        assert revealed in note
    assert 'Argument 1 to "LocalStore" has incompatible type "float"' in errors[0]
    assert len(errors) == 1
