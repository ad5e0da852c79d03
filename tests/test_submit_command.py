"""The command `submit`, without Slurm: the script that it writes, and what it refuses."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tenterhook_capture import CaptureOptions, begin_run, prepare_capture
from tenterhook_capture.loading import load_model
from tenterhook_store import LocalStore

Th = Callable[..., tuple[object, str, str]]


def plan(th: Th, place: str, *more: str) -> None:
    """Make a run `r` of six units and do none of them."""
    words = ["--layer", "layer_1", "--data", "tiny:sample", "--sample-limit", "6"]
    options = ["--out", place, "--run-name", "r", "--rows-per-unit", "100", "--plan"]
    code, _, err = th("capture", "tiny:", *words, *options, *more)
    assert code == 0, err


@pytest.fixture
def store(th: Th, tmp_path: Path) -> str:
    """Return the place of a store with that run."""
    place = str(tmp_path / "store")
    plan(th, place)
    return place


def test_the_script(th: Th, store: str) -> None:
    """It is whole: an array of tasks, each of which does its slice."""
    options = ["--partition", "gpu", "--time", "1:00:00", "--mem", "8G", "--cpus-per-task", "4"]
    more = ["--gpus", "1", "--sbatch", "--account=mine", "--sbatch", "-q fast"]
    own = ["--setup", "module load x", "--python", "/opt/py", "--logs", "out", "--device", "cuda"]
    command = ["submit", store, "r", "--tasks", "4", "--processes", "2", *options, *more, *own]
    code, out, err = th(*command, "--print")
    assert (code, err) == (0, "")
    assert th(*command, "--dry-run")[1] == out
    assert subprocess.run(["bash", "-n"], input=out, text=True).returncode == 0
    assert out.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --job-name=tenterhook-r",
        "#SBATCH --array=0-3",
        "#SBATCH --output=out/tenterhook-%A_%a.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=1:00:00",
        "#SBATCH --mem=8G",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gpus=1",
        "#SBATCH --account=mine",
        "#SBATCH -q fast",
        "set -e",
        "module load x",
        f'exec /opt/py -m tenterhook work {store} r --slice "$SLURM_ARRAY_TASK_ID/4" '
        "--device=cuda --tries=3 --engine=processes --workers=2",
    ]


def test_no_more_tasks_than_units(th: Th, store: str) -> None:
    """And an array of those slices alone that lack units."""
    units = LocalStore(store).run("r").plan.unit_count
    out = th("submit", store, "--tasks", "1000", "--print")[1]
    assert f"#SBATCH --array=0-{units - 1}\n" in out
    assert th("work", store, "--slice", f"1/{units}")[0] == 0
    out = th("submit", store, "--tasks", "1000", "--print")[1]
    assert f"#SBATCH --array=0,2-{units - 1}\n" in out
    assert f'--slice "$SLURM_ARRAY_TASK_ID/{units}"' in out


def test_a_hostile_path(th: Th, tmp_path: Path) -> None:
    """The command of a task gets the store and the run as they are called."""
    place = str(tmp_path / "-a 'b' \"c\" $HOME `id`\n#SBATCH --array=0-99\\ ü")
    plan(th, place)
    os.rename(f"{place}/runs/r", f"{place}/runs/-r $x")
    program = tmp_path / "python"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    program.chmod(0o755)
    code, out, err = th("submit", place, "--print", "--python", str(program), "--tasks", "3")
    assert code == 0, err
    assert re.findall("^#SBATCH --array.*", out.partition("set -e")[0], re.M) == [
        "#SBATCH --array=0-2"
    ]
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "2"}
    found = subprocess.run(["bash"], input=out, text=True, capture_output=True, env=env)
    words = found.stdout.split("\0")
    assert words[:5] == ["-m", "tenterhook", "work", "--slice", "2/3"], found.stderr
    assert words[-4:] == ["--", place, "-r $x", ""]


def test_no_slurm(th: Th, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out is named; the script is written all the same."""
    monkeypatch.setenv("PATH", "/nowhere")
    for more in ([], ["--detach"]):
        code, _, err = th("submit", store, *more)
        assert code == 2
        assert "'sbatch' is not found" in err
        assert "--print > job.sh" in err
    assert th("submit", store, "--print")[0] == 0


def test_a_run_without_names(th: Th, tmp_path: Path) -> None:
    """No other process can do it, so no script is written."""
    store = LocalStore(str(tmp_path / "store"))
    capture = prepare_capture(
        load_model("tiny:"), "layer_1", ["In the beginning"], options=CaptureOptions()
    )
    begin_run(store, capture, "unnamed")
    code, out, err = th("submit", store.location, "--print")
    assert (code, out) == (2, "")
    assert "was made from documents that were not read by a name" in err


def test_a_store_in_memory(th: Th) -> None:
    """No other node reaches it."""
    code, _, err = th("submit", "memory://here", "r", "--print")
    assert code == 2
    assert "is in the memory of one process, where no other node reaches it. Name a folder" in err


def test_detached(th: Th, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's number, how to watch it and how to stop it; nobody waits."""
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/bash\ncat > {shlex.quote(str(tmp_path))}/job.sh; echo 42\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    code, out, err = th("submit", store, "r", "--detach", "--mem", "1G")
    assert code == 0, err
    assert out.splitlines()[0] == "Job 42 does run r."
    assert f"  tenterhook runs status {store} r --watch   # how far it is" in out
    assert "  scancel 42   # stops it" in out
    assert (tmp_path / "job.sh").read_text() == th("submit", store, "--print", "--mem", "1G")[1]
    code, out, _ = th("submit", store, "r", "--detach", "--json")
    assert json.loads(out) == {"store": store, "run": "r", "id": "42", "cluster": ""}


def test_a_run_that_is_complete(th: Th, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is submitted."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert th("work", store)[0] == 0
    code, out, _ = th("submit", store)
    assert code == 0
    assert "Run r: nothing was missing; the run is complete" in out


def test_too_few_cpus(th: Th, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has its number of threads; a task that has fewer CPUs is slow, and is told so."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    plan(th, str(tmp_path / "store"))
    monkeypatch.setenv("PATH", "/nowhere")
    err = th("submit", str(tmp_path / "store"))[2]
    assert "hint: this run has 8 threads for each operation, and a task 1 CPU: --cpus-per" in err
    err = th("submit", str(tmp_path / "store"), "--cpus-per-task", "8")[2]
    assert "hint: this run" not in err
