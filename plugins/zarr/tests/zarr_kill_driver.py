"""Kill captures, resume them, and compare: run by a test; prints how often it killed.

`zarr_kill_driver.py FOLDER steps EVERY`: a process is killed (SIGKILL) when it is about to do its
n-th thing with the file system, for n = 1, 1 + EVERY, ...

`zarr_kill_driver.py FOLDER moments COUNT`: a process is killed at a random moment, in every other
round one of three that write one run, while another process reads all along.

`zarr_kill_driver.py FOLDER others COUNT`: the same, in turn, of a process that exports a run, puts
an export in place of another, deletes a run, saves a tensor in place of another, trains an SAE.
"""

import contextlib
import functools
import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # so that it can fork

from tenterhook_capture import save_activations  # noqa: E402
from tenterhook_capture.testing.text_models import WordModel  # noqa: E402
from tenterhook_sae import RunBatches, TopKSae, TrainingSettings, train_sae  # noqa: E402
from tenterhook_store import UnknownRun, to_npy, to_webdataset  # noqa: E402
from tenterhook_zarr import ZarrStore  # noqa: E402

TEXTS = [" ".join(f"w{n}.{i}" for i in range(1 + n * 7 % 12)) for n in range(12)]
LAYERS = ["blocks.0", "head"]
STEPS = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "shutil.rmtree")


def run_capture(folder: Path) -> str:
    """Capture, or go on."""
    return save_activations(
        WordModel(dtype=torch.bfloat16),
        LAYERS,
        TEXTS,
        ZarrStore(folder),
        run_name="run",
        batch_size=2,
        rows_per_unit=24,
    )


def forked(act: Callable[[], Any]) -> int:
    """Do it in a child; return the signal that ended it, or -(exit status)."""
    _, status = os.waitpid(started(act), 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def killed_at(step: int, folder: Path) -> Callable[[], Any]:
    """Return a capture that is killed when about to do its `step`-th thing in the folder."""

    def act() -> None:
        left = step

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            opens = event == "open" and str(arguments[1])[:1] in "wx"
            if (event in STEPS or opens) and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        run_capture(folder)

    return act


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a store but for those that say when."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name not in ("log", "sessions")
    }


def check_what_is_seen(folder: Path, other: Path) -> None:
    """Compare every row that can be read with those of a run that was never killed."""
    try:
        run = ZarrStore(folder).run("run")
    except UnknownRun:
        return
    whole = ZarrStore(other).run("run")
    for layer in LAYERS:
        assert torch.equal(run[layer][:], whole[layer][: len(run)])
    assert run.tokens[:].tolist() == whole.tokens[: len(run)].tolist()


def check_resumed(folder: Path, expected: dict[str, str], what: str) -> None:
    """Resume a run, and compare every file with those of a run that was never killed."""
    assert forked(functools.partial(run_capture, folder)) == 0, what
    assert bytes_of(folder) == expected, what
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")], what
    assert ZarrStore(folder).verify_run("run") == [], what


def at_steps(root: Path, every: int) -> int:
    """Kill at every so many steps; return how often."""
    assert forked(lambda: run_capture(root / "whole")) == 0
    expected = bytes_of(root / "whole")
    kills, step = 0, 1
    while True:
        folder = root / f"killed-{step}"
        ended = forked(killed_at(step, folder))
        if ended == 0:
            return kills
        assert ended == signal.SIGKILL, ended
        kills += 1
        look = functools.partial(check_what_is_seen, folder, root / "whole")
        assert forked(look) == 0, f"step {step}"
        check_resumed(folder, expected, f"step {step}")
        step += every


def started(act: Callable[[], Any]) -> int:
    """Start it in a child; return the child."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the exit status says it
            traceback.print_exc()
            os._exit(1)
    return child


def reads_on(folder: Path, other: Path, stop: Path) -> None:
    """Compare what is seen, again and again, until a file says to stop."""
    seen = 0
    while not stop.exists():
        check_what_is_seen(folder, other)
        with contextlib.suppress(UnknownRun):
            committed = len(ZarrStore(folder).run("run"))
            assert committed >= seen, "rows that were seen are gone"
            seen = committed
        time.sleep(0.002)


def at_moments(root: Path, count: int) -> int:
    """Kill at random moments, so often."""
    run_capture(root / "first")  # what is imported late is there before anybody is timed
    began = time.monotonic()
    assert forked(lambda: run_capture(root / "whole")) == 0
    length = time.monotonic() - began
    expected = bytes_of(root / "whole")
    chance = random.Random(0)
    kills = tries = 0
    while kills < count:
        tries += 1
        folder, stop = root / f"killed-{tries}", root / f"stop-{tries}"
        reader = started(functools.partial(reads_on, folder, root / "whole", stop))
        writers = 1 if tries % 2 else 3
        children = [started(lambda: run_capture(folder)) for _ in range(writers)]  # noqa: B023
        time.sleep(chance.uniform(0, length * (1 + writers) / 2))
        os.kill(children[0], signal.SIGKILL)
        ended = [os.waitpid(child, 0)[1] for child in children]
        kills += os.WIFSIGNALED(ended[0])
        assert not any(ended[1:]), f"try {tries}"
        check_resumed(folder, expected, f"try {tries}")
        stop.touch()
        assert os.waitpid(reader, 0)[1] == 0, f"try {tries}: the reader"
        assert tries < 5 * count + 20, "the processes end before they can be killed"
    return kills


# --- what is not a capture


class Exported:
    """An export that is whole or absent, and leaves nothing beside it."""

    def __init__(self, root: Path, *, over: bool) -> None:
        self.run, self.over = ZarrStore(root / "store").run("run"), over
        self.expected = [bytes_of(to_webdataset(self.run, root / f"export-{over}"))]
        if over:
            self.expected.append(bytes_of(to_npy(self.run, root / "export-before")))

    def begin(self, folder: Path) -> None:
        """Put an export there, if another is to take its place."""
        if self.over:
            to_npy(self.run, folder / "out")

    def act(self, folder: Path) -> None:
        """Export."""
        to_webdataset(self.run, folder / "out", overwrite=True)

    def check(self, folder: Path) -> None:
        """Look at what a killed process left, and do it again."""
        found = bytes_of(folder / "out") if (folder / "out").exists() else None
        assert found in self.expected or (found is None and not self.over)
        self.act(folder)
        assert bytes_of(folder / "out") == self.expected[0]
        assert os.listdir(folder) == ["out"]


class Deleted:
    """A run that is there and whole, or is not there, and can be begun anew."""

    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self.expected = bytes_of(self.store)

    def begin(self, folder: Path) -> None:
        """Put a store there."""
        shutil.copytree(self.store, folder, dirs_exist_ok=True)

    def act(self, folder: Path) -> None:
        """Delete."""
        ZarrStore(folder).delete_run("run")

    def check(self, folder: Path) -> None:
        """Look at what is listed, and capture it again; whatever was removed comes back."""
        with contextlib.suppress(UnknownRun):
            run = ZarrStore(folder).run("run")
            assert ZarrStore(folder).verify_run("run") == [] or len(run) == len(run[LAYERS[0]][:])
        check_resumed(folder, self.expected, "deleted")
        self.act(folder)
        assert ZarrStore(folder).runs() == []
        assert not [path for path in folder.rglob("*") if "run" in path.parts[-2:-1]]


class Tensor:
    """A tensor that is the one before or the one after."""

    def begin(self, folder: Path) -> None:
        """Save the one before."""
        ZarrStore(folder).save_tensor("t", torch.zeros(1000, 10))

    def act(self, folder: Path) -> None:
        """Save the one after."""
        ZarrStore(folder).save_tensor("t", torch.ones(500, 10))

    def check(self, folder: Path) -> None:
        """Look at it, and save it again."""
        found = ZarrStore(folder).load_tensor("t")
        assert torch.equal(found, torch.zeros(1000, 10)) or torch.equal(found, torch.ones(500, 10))
        self.act(folder)
        assert torch.equal(ZarrStore(folder).load_tensor("t"), torch.ones(500, 10))
        assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]


class Trained:
    """A training that goes on where its last whole checkpoint stands, to the same numbers."""

    def __init__(self, root: Path) -> None:
        self.run = ZarrStore(root / "store").run("run")
        self.expected = self.train(root / "trained").state_dict()
        self.files = sorted(os.listdir(root / "trained"))

    def begin(self, folder: Path) -> None:
        """Nothing is there."""

    def train(self, folder: Path) -> Any:
        """Train, or go on."""
        torch.manual_seed(0)
        sae = TopKSae(64, self.run[LAYERS[0]].shape[1], 4)
        settings = TrainingSettings(steps=30, checkpoint_every=1, log_every=1)
        batches = RunBatches(self.run, LAYERS[0], batch_size=8)
        return train_sae(sae, batches, settings, out=folder)

    def act(self, folder: Path) -> None:
        """Train."""
        self.train(folder)

    def check(self, folder: Path) -> None:
        """Go on."""
        found = self.train(folder).state_dict()
        assert all(torch.equal(found[name], self.expected[name]) for name in self.expected)
        assert sorted(os.listdir(folder)) == self.files


def others(root: Path, count: int) -> int:
    """Kill each kind in turn at random moments, so often."""
    run_capture(root / "store")
    kinds: list[Any] = [Exported(root, over=each) for each in (False, True)]
    kinds += [Deleted(root), Tensor(), Trained(root)]
    chance = random.Random(0)
    longest: dict[Any, float] = {}
    kills = tries = 0
    while kills < count:
        kind = kinds[tries % len(kinds)]
        folder = root / f"others-{tries}"
        folder.mkdir()
        tries += 1
        kind.begin(folder)
        if kind not in longest:  # timed, and what is imported late is there
            began = time.monotonic()
            kind.act(folder)
            longest[kind] = time.monotonic() - began
            continue
        child = started(functools.partial(kind.act, folder))
        time.sleep(chance.uniform(0, longest[kind]))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or not status, f"try {tries}: {kind}"
        kills += os.WIFSIGNALED(status)
        assert not forked(functools.partial(kind.check, folder)), f"try {tries}: {kind}"
        shutil.rmtree(folder)
        assert tries < 5 * count + 50, "the processes end before they can be killed"
    return kills


if __name__ == "__main__":
    way = {"steps": at_steps, "moments": at_moments, "others": others}[sys.argv[2]]
    print(way(Path(sys.argv[1]), int(sys.argv[3])))
