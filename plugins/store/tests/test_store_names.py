"""What `tenterhook_store` and `tenterhook_capture` hand out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tenterhook_capture
import tenterhook_store
from tenterhook.plugins import default_manager
from tenterhook_store import LocalStore


def test_names_of_store() -> None:
    """All names that are listed are there."""
    names = tenterhook_store.__all__
    assert all(getattr(tenterhook_store, name) is not None for name in names)
    assert {"LocalStore", "MemoryStore", "Run", "RunPlan", "Store", "Unit"} <= set(names)


def test_type_checkers_see_the_same_names() -> None:
    """The stub lists what the package does, and the store of the zarr plugin."""
    stub = Path(tenterhook_store.__file__).with_suffix(".pyi").read_text()
    names = re.findall(r'^    "(\w+)",$', stub, flags=re.M)
    assert sorted(names) == sorted([*tenterhook_store.__all__, "ZarrStore"])


def test_names_of_capture() -> None:
    """The list is this one."""
    assert tenterhook_capture.__all__ == [
        "ROWS_PER_UNIT",
        "TRIES",
        "BadArgument",
        "BadSlice",
        "Capture",
        "CaptureOptions",
        "CaptureRecipe",
        "CaptureSpec",
        "ChangedSince",
        "DoubledSpecialToken",
        "Estimate",
        "HookMetric",
        "HookMetrics",
        "Logger",
        "LongDocuments",
        "MaskIgnored",
        "NoPattern",
        "NotPerToken",
        "NotRebuildable",
        "NothingChosen",
        "NothingToCapture",
        "OpenSession",
        "Point",
        "Progress",
        "ProgressCallback",
        "Reproduction",
        "RunStatus",
        "SeveralCalls",
        "Slice",
        "SpecialTokens",
        "TensorBoard",
        "TokenCounts",
        "UnitsFailed",
        "UnitsRounded",
        "ValuesLost",
        "WorkerFactory",
        "WorkersEstimate",
        "WrongMask",
        "as_begun",
        "begin_run",
        "estimate",
        "points_of",
        "prepare_capture",
        "reproduce",
        "resume_run",
        "run_status",
        "save_activations",
        "slice_of_launcher",
    ]
    for name in tenterhook_capture.__all__:
        assert getattr(tenterhook_capture, name) is not None


def test_missing_plugin() -> None:
    """Without the zarr plugin the default store is an `ImportError` that names what to install."""
    assert "ZarrStore" not in default_manager().extensions("stores")
    with pytest.raises(ImportError, match="tenterhook-zarr"):
        LocalStore("anywhere")


def test_imports_are_light() -> None:
    """Importing the modules of names, errors and commands imports no torch."""
    code = (
        "import sys, tenterhook_store, tenterhook_capture.documents, tenterhook_capture.loading,"
        "tenterhook_capture.engine,"
        "tenterhook_cli.capture, tenterhook_cli.runs;"
        "assert not {'torch', 'numpy', 'zarr', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
