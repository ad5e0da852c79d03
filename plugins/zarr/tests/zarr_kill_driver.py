"""Kill captures, resume them, and compare: run by a test; prints how often it killed.

`zarr_kill_driver.py FOLDER steps EVERY`: a process is killed (SIGKILL) when it is about to do its
n-th thing with the file system, for n = 1, 1 + EVERY, ...

`zarr_kill_driver.py FOLDER moments COUNT`: a process is killed at a random moment, in every other
round one of three that write one run, while another process reads all along.
"""

import contextlib
import functools
import hashlib
import os
import random
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
from tenterhook_store import UnknownRun  # noqa: E402
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


if __name__ == "__main__":
    way = {"steps": at_steps, "moments": at_moments}[sys.argv[2]]
    print(way(Path(sys.argv[1]), int(sys.argv[3])))
