"""Disks that fill up while an SAE is trained or saved, for real; what killed processes left."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_sae import (
    BatchTopKSae,
    TrainingProgress,
    TrainingSettings,
    load_sae,
    save_sae,
    train_sae,
)
from tenterhook_store import NotWritable

SETTINGS = TrainingSettings(steps=12, checkpoint_every=2, log_every=1)


class Rows:
    """Batches of random rows; each has its number for a seed."""

    def __init__(self) -> None:
        self.width = 64
        self.about: dict[str, Any] = {"layer": "h.0"}
        self.count = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.count += 1
            yield torch.randn(256, 64, generator=torch.Generator().manual_seed(self.count))

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self.count = state["count"]


def train(out: Path | None, progress: Callable[[TrainingProgress], None] | None = None) -> Any:
    """Train an SAE whose checkpoints take 1.6 MB at most."""
    torch.manual_seed(0)
    sae = BatchTopKSae(512, 64, 8)
    return train_sae(sae, Rows(), SETTINGS, out=out, progress=progress)


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 6 MB, and what makes room in it; skip where one may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tenterhook-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"mounting needs rights that this process lacks: {done.stderr.strip()}")
    try:
        yield lambda: folder.joinpath("filler").unlink()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def longest_file(size: int) -> Iterator[None]:
    """A block in which no file may be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def filling(disk: Path, at: int) -> Callable[[TrainingProgress], None]:
    """Have the disk be full after a step."""

    def progress(found: TrainingProgress) -> None:
        if found.step == at:
            with disk.joinpath("filler").open("wb") as file, contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * 4096)

    return progress


def names(folder: Path) -> set[str]:
    """The files of a folder."""
    return {path.name for path in folder.iterdir()}


def test_disk_that_is_full_at_a_checkpoint(tmp_path: Path) -> None:
    """The error names the file and the cause; the checkpoint before stays whole, the SAE works on
    activations as they are, and once there is room the same call comes to the same numbers."""
    whole = train(None)
    disk = tmp_path / "disk"
    with tmpfs(disk) as make_room:
        said = r"disk/sae/checkpoint\.safetensors: it cannot be written \(No space left on device\)"
        with pytest.raises(NotWritable, match=f"{said}; make room .* before stays"):
            train(disk / "sae", filling(disk, 5))
        assert names(disk / "sae") == {"checkpoint.safetensors"}
        make_room()
        steps: list[int] = []
        resumed = train(disk / "sae", lambda found: steps.append(found.step))
        assert steps[0] == 5  # the checkpoint was that of step 4
        for name, tensor in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name
        assert torch.equal(load_sae(disk / "sae").W_enc, whole.W_enc)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    """Another thing that the system may refuse, at the first checkpoint: nothing is left."""
    with longest_file(100_000), pytest.raises(NotWritable, match=r"written \(File too large\)"):
        train(tmp_path / "sae")
    assert names(tmp_path / "sae") == set()
    train(tmp_path / "sae")


def test_ctrl_c_where_no_checkpoint_can_be_written(tmp_path: Path) -> None:
    """It is still Ctrl-C, and says so."""

    def press(found: TrainingProgress) -> None:
        if found.step == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with longest_file(100_000), pytest.raises(KeyboardInterrupt) as caught:
            train(tmp_path / "sae", press)
    finally:
        signal.signal(signal.SIGINT, before)
    (note,) = caught.value.__notes__
    assert note.startswith("No checkpoint of step 1: ")
    assert "File too large" in note


def test_disk_that_is_full_as_an_sae_is_saved(tmp_path: Path) -> None:
    """What was there before stays, and is right."""
    sae = train(None)
    save_sae(sae, tmp_path / "sae")
    with torch.no_grad():
        other = BatchTopKSae(512, 64, 8)
    with longest_file(10_000), pytest.raises(NotWritable, match=r"weights\.safetensors: it cannot"):
        save_sae(other, tmp_path / "sae", overwrite=True)
    assert torch.equal(load_sae(tmp_path / "sae").W_enc, sae.W_enc)


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    """A file where a folder should be."""
    tmp_path.joinpath("sae").write_text("x")
    with pytest.raises(NotWritable, match="it cannot be written"):
        train(tmp_path / "sae")


DRIVER = """
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import test_sae_faults as faults
from pathlib import Path
import tenterhook_sae.files as files

def killed(descriptor):
    os.kill(os.getpid(), 9)

if sys.argv[3] == "killed":
    files.os.fsync = killed
faults.train(Path(sys.argv[2]))
"""


def test_what_a_killed_training_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """A file that was not yet in its place; what another process is writing stays."""
    out = tmp_path / "sae"
    driver = [sys.executable, "-c", DRIVER, __file__, str(out)]
    assert subprocess.run([*driver, "killed"]).returncode == -9
    (part,) = names(out)
    assert part.startswith(".checkpoint.safetensors.")
    ours = part.replace(part.split("-")[-2], str(os.getpid()))
    out.joinpath(ours).write_bytes(b"")

    train(out)
    assert names(out) == {
        *("checkpoint.safetensors", "cfg.json", "sae_weights.safetensors"),
        *("tenterhook.json", "training.json", ours),
    }


TOO_LARGE = """
import os, resource, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import test_sae_faults as faults
from pathlib import Path

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
faults.train(Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits of file sizes")
def test_killed_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """Half a checkpoint, under whatever name it was written, is gone after the next."""
    out = tmp_path / "sae"
    driver = [sys.executable, "-c", TOO_LARGE, __file__, str(out)]
    assert subprocess.run(driver).returncode == -signal.SIGXFSZ
    assert any(path.is_file() for path in out.rglob("*"))

    train(out)
    assert names(out) == {
        *("checkpoint.safetensors", "cfg.json", "sae_weights.safetensors"),
        *("tenterhook.json", "training.json"),
    }
