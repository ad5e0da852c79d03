"""Commands in processes of their own, with a plugin that has a model of words.

A process starts as a fork of one that has imported everything, so that a test may start many.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import tenterhook_zarr  # noqa: F401 - once, for all processes
from tenterhook import Extension, hookimpl
from tenterhook.plugins import default_manager
from tenterhook_capture import save_activations  # noqa: F401
from tenterhook_capture.documents import Documents
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_cli import capture, main, runs, work  # noqa: F401

CONTEXT = multiprocessing.get_context("forkserver")


class Words:
    """A plugin; variables of the environment say what its model and data are."""

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare the model."""
        return [Extension("words", f"{__name__}:load", "A model of words.")]

    @hookimpl
    def tenterhook_datasets(self) -> list[Extension]:
        """Declare the data."""
        return [Extension("words", f"{__name__}:read", "Words.")]


class Slow(WordModel):
    """Takes its time, fails on some documents, and says on stderr when it runs."""

    def run_token_ids(self, documents: Any) -> Any:
        """Wait, then run."""
        print("batch", file=sys.stderr, flush=True)
        time.sleep(float(os.environ.get("WORDS_SECONDS", "0")))
        bad = os.environ.get("WORDS_BAD")
        if bad and self.token_ids([bad])[0][0] in [ids[0] for ids in documents]:
            raise ValueError(f"{bad} is bad")
        return super().run_token_ids(documents)


def load(name: str, **_: Any) -> WordModel:
    """Load the model."""
    if seconds := os.environ.get("WORDS_LOADING"):
        print("loading", file=sys.stderr, flush=True)
        time.sleep(float(seconds))
    return Slow(seed=int(os.environ.get("WORDS_SEED", "0")))


def read(name: str, *, field: str | None = None) -> Documents:
    """Read the data: thirty documents of four words."""
    return Documents([f"w{n} a b c" for n in range(30)], source=f"words:{name}")


@attrs.frozen(eq=False)
class Running:
    """A command that was started."""

    process: Any
    output: Path

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it printed, stdout and stderr."""
        self.process.join(60)
        assert self.process.exitcode is not None, self.output.read_text()
        return self.process.exitcode, self.output.read_text()

    def wait_for(self, what: str, times: int = 1) -> None:
        """Wait until it has said something so often."""
        ends = time.monotonic() + 60
        while self.output.read_text().count(what) < times:
            assert self.process.is_alive(), self.output.read_text()
            assert time.monotonic() < ends, self.output.read_text()
            time.sleep(0.01)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Any]:
    """Give `start("capture", ..., WORDS_SEED="1")`, which returns a `Running`; ends all of them."""
    started: list[Running] = []
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *([path] if path else [])]
    )
    CONTEXT.set_forkserver_preload([__name__])

    def start(*args: str, **variables: str) -> Running:
        output = folder / f"output-{len(started)}"
        output.touch()
        process = CONTEXT.Process(target=_command, args=(args, variables, output))
        process.start()
        started.append(Running(process, output))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.process.kill()
            each.process.join()
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def _command(args: Sequence[str], variables: Mapping[str, str], output: Path) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us ignored it
    os.environ.update(variables)
    default_manager().register(Words(), "words-here")
    with output.open("w", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        main(args)
