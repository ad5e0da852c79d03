"""Kill a capture at each of its steps on disk, resume it, and compare: run by a test.

`python zarr_kill_driver.py FOLDER EVERY` prints how often it killed. A child process is killed
(SIGKILL) when it is about to do its n-th thing with the file system, for n = 1, 1 + EVERY, ...
"""

import functools
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # so that it can fork

from tenterhook.capture import save_activations  # noqa: E402
from tenterhook.store import UnknownRun  # noqa: E402
from tenterhook.testing.text_models import WordModel  # noqa: E402
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
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the exit status says it
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
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


def main(root: Path, every: int) -> None:
    """Kill, look, resume, compare."""
    assert forked(lambda: run_capture(root / "whole")) == 0
    expected = bytes_of(root / "whole")
    kills, step = 0, 1
    while True:
        folder = root / f"killed-{step}"
        ended = forked(killed_at(step, folder))
        if ended == 0:
            break
        assert ended == signal.SIGKILL, ended
        kills += 1

        look = functools.partial(check_what_is_seen, folder, root / "whole")
        assert forked(look) == 0, f"step {step}"
        assert forked(functools.partial(run_capture, folder)) == 0, f"step {step}"
        assert bytes_of(folder) == expected, f"step {step}"
        assert not list(folder.rglob("*.partial")), f"step {step}"
        step += every
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
