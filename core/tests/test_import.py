"""What importing tenterhook, and listing plugins, costs."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "zarr", "datasets", "numpy", "pandas")


def imported_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running the code."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    return set(run(f"{code}\n{report}").split())


def run(code: str) -> str:
    """Run the code in a fresh interpreter and return the last of what it prints."""
    without_numpy = "ignore:Failed to initialize NumPy:UserWarning"  # torch's; core asks for none
    command = [sys.executable, "-W", "error", "-W", without_numpy, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("=====")[2]


@pytest.mark.parametrize(
    "code",
    [
        "import tenterhook",
        "import tenterhook.plugins; tenterhook.plugins.default_manager()",
        "from tenterhook import Extension, hookimpl, PluginManager, TenterhookError",
        "import tenterhook; dir(tenterhook)",
    ],
)
def test_importing_imports_nothing_heavy(code: str) -> None:
    """Neither a framework nor a plugin is loaded before somebody asks for what needs it."""
    modules = imported_by(code)

    assert "tenterhook" in modules
    assert modules.isdisjoint(HEAVY)


def test_importing_loads_no_plugin() -> None:
    """Plugins are found at first use."""
    assert not any(name.startswith("tenterhook_") for name in imported_by("import tenterhook"))


def test_importing_prints_nothing() -> None:
    """Neither on stdout nor on stderr."""
    command = [sys.executable, "-c", "import tenterhook"]

    assert subprocess.check_output(command, stderr=subprocess.STDOUT) == b""


@pytest.mark.parametrize("alone", [True, False])
def test_importing_all_names(alone: bool) -> None:
    """`from tenterhook import *` gives what is installed: without selections, all but those."""
    package = "None" if alone else "types.SimpleNamespace(Selection=int, __spec__=object())"
    code = f"""
import sys, types
sys.modules["tenterhook_selections"] = {package}
from tenterhook import *
print("=====", attach.__name__, carry.__name__, *sorted({{"Selection"}} & {{*globals()}}))"""
    assert run(code).split() == ["attach", "carry", *([] if alone else ["Selection"])]


def test_importing_takes_less_than_20_ms() -> None:
    """The fastest of several runs, because a busy machine only ever adds."""
    code = """
import time
start = time.perf_counter()
import tenterhook
print(time.perf_counter() - start)"""

    fastest = min(float(run(code)) for _ in range(20))

    assert fastest < 0.020


def test_a_torch_without_what_is_private_to_it() -> None:
    """What torch may take away without a word is done without."""
    code = """
import torch
from torch.utils import checkpoint

del checkpoint._StopRecomputationError
del torch._C._autograd._top_saved_tensors_default_hooks
del torch._C._current_graph_task_id

import tenterhook

model = tenterhook.attach(torch.nn.Sequential(torch.nn.Identity()))
with model.steer("0", torch.neg), model.capture("0") as captured:
    model(torch.ones(1, 2))
print("=====")
print(captured.last("0").tolist())
"""
    assert run(code).strip() == "[[-1.0, -1.0]]"
