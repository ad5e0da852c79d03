"""The command `tenterhook` in a process of its own, without waiting for torch to be imported.

The process is a fork of one that has imported what most commands need, which saves seconds each.
"""

import multiprocessing
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tenterhook_cli import main

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = (
    "torch",
    "torch._dynamo",
    "transformers.models.gpt2.modeling_gpt2",
    "tenterhook_cli.command_line",
    "tenterhook_transformers.language_model",
    "tenterhook_zarr",
)


def run_command(args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `tenterhook` with the arguments, in the current folder; return what came of it."""
    CONTEXT.set_forkserver_preload(list(IMPORTED))
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(
            target=_command, args=(list(args), files, dict(os.environ), os.getcwd())
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        printed = [file.read_text() if file.exists() else "" for file in files]
    return subprocess.CompletedProcess(["tenterhook", *args], process.exitcode, *printed)


def _command(args: list[str], files: list[Path], variables: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    main(args)
