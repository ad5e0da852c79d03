"""A Slurm job of several tasks: its options, the script that says them, and what Slurm is asked.

The script is whole: `sbatch script` on any machine of the cluster submits it. What a user gives
stands in it as one word each, whatever it holds: `#SBATCH` lines are read by Slurm, which knows
double quotes and backslashes, and what comes after them by bash.
"""

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.option_fields import about, option

GROUP = "Slurm"
OURS = ("--array", "-a", "--parsable", "--wait", "-W", "--wrap")
"""Options of sbatch that are not for a user to give."""

ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING"),
    *("SIGNALING", "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"),
    "SPECIAL_EXIT",
)
"""States of a task that is not over."""


@attrs.define(slots=False)
class SlurmMissing(TenterhookError, LookupError):
    """A command of Slurm is not installed on this machine."""

    command: str

    def __str__(self) -> str:
        return (
            f"{self.command!r} is not found: Slurm's commands are not installed on this machine "
            "(on Debian they are the package slurm-client). Where they are, `tenterhook submit` "
            "works; `tenterhook submit STORE RUN --print > job.sh` writes the script alone, to be "
            "submitted there by `sbatch job.sh`."
        )


@attrs.define(slots=False)
class SlurmRefused(TenterhookError, RuntimeError):
    """Slurm did not take a job."""

    said: str

    def __str__(self) -> str:
        return f"Slurm refused the job: {self.said}"


def _one_line(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return
    if not (isinstance(value, str) and value.strip() and _is_line(value)):
        raise BadArgument(field.name, value, "text in one line")


def _is_line(text: str) -> bool:
    return not re.search(r"[\n\r\0]", text)


def _sbatch_options(_: Any, field: "attrs.Attribute[Any]", values: Any) -> None:
    for value in values:
        if not re.match(r"--?[A-Za-z]", value) or not _is_line(value):
            raise BadArgument(field.name, value, "an option of sbatch in one line: --account=mine")
        if _words(value)[0].partition("=")[0] in OURS:
            raise BadArgument(field.name, value, "another option: this one is set already")


def _texts(values: Any) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def text_option(help: str) -> Any:
    """Return a field that is an option in one line; a number will do."""
    return attrs.field(default=None, validator=_one_line, metadata=about(help, GROUP))


def _several(help: str, validator: Any = None) -> Any:
    metadata = about(help, GROUP, repeats=True)
    return attrs.field(factory=tuple, converter=_texts, validator=validator, metadata=metadata)


@attrs.frozen(kw_only=True)
class SlurmOptions:
    """What is asked of Slurm for each task of a job, and how a task begins."""

    partition: str | None = text_option("The partition, or several with commas between them.")
    time: str | int | None = text_option("The longest that a task may take, as 4:00:00.")
    mem: str | int | None = text_option("Memory of a task, as 32G.")
    cpus_per_task: int | None = option(
        None, help="CPUs of a task; as many as the run has threads.", group=GROUP, least=1
    )
    gpus: str | int | None = text_option("GPUs of a task, as 1 or a100:2.")
    sbatch: tuple[str, ...] = _several(
        "Any other option of sbatch, as --account=mine. Repeat.", _sbatch_options
    )
    setup: tuple[str, ...] = _several(
        "A line of bash before a task begins, as 'module load cuda'. Repeat."
    )
    python: str | None = text_option("The Python of the tasks, where it is not this one's path.")
    logs: str | None = text_option("The folder for what tasks print, a file each.")

    def script(
        self,
        module: str,
        words: Iterable[str],
        *,
        array: str,
        name: str,
        more: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Return the script of an array job whose tasks run a module of Python.

        `words` stand after the module and are bash already; see `bash_word`. `more` are options
        of sbatch, which the user's own come after.
        """
        asked = [f"--job-name={name}", f"--array={array}", *more]
        for option_name in ("partition", "time", "mem", "cpus_per_task", "gpus"):
            value = getattr(self, option_name)
            if value is not None:
                asked.append(f"--{option_name.replace('_', '-')}={value}")
        lines = ["#!/bin/bash"]
        lines += [f"#SBATCH {_directive(each)}" for each in asked]
        lines += ["#SBATCH " + " ".join(map(_directive, _words(each))) for each in self.sbatch]
        # Slurm reads no #SBATCH line after this one, whatever stands in the rest.
        lines += ["set -e", *self.setup]
        exports = [f"export {name}={bash_word(text)}" for name, text in (variables or {}).items()]
        command = ["exec", bash_word(self.python or sys.executable), "-m", module, *words]
        return "\n".join([*lines, *exports, " ".join(command), ""])


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait until this is over: a job that is submitted has to be known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, handler in before.items() if callable(handler)]
    for number in ours:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        for each in came[:1]:
            signal.raise_signal(each)


def check_installed() -> None:
    """See that Slurm's commands are on this machine; raises `SlurmMissing`."""
    for command in ("sbatch", "squeue", "scancel", "scontrol"):
        if shutil.which(command) is None:
            raise SlurmMissing(command)


def bash_word(text: str) -> str:
    """Return a text as one word of bash."""
    return shlex.quote(text)


def array_of(indices: Collection[int]) -> str:
    """Return some indices as `--array` has them: `0-3,7`."""
    stretches: list[list[int]] = []
    for index in sorted(indices):
        if stretches and index == stretches[-1][1] + 1:
            stretches[-1][1] = index
        else:
            stretches.append([index, index])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in stretches)


def _words(option: str) -> list[str]:
    """Return an option, and its value where a space parts them."""
    found = re.fullmatch(r"(--?[\w-]+)\s+(.+)", option, re.ASCII)
    return [found[1], found[2]] if found else [option]


def _directive(text: str) -> str:
    """Return a text as one word of a #SBATCH line."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@attrs.frozen
class TaskState:
    """What Slurm says of a task."""

    state: str
    reason: str
    """Why it waits; `None`, in words, where it does not."""
    node: str

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more."""
        return self.state not in ALIVE


@attrs.frozen
class SlurmJob:
    """An array job that was submitted."""

    id: str
    cluster: str = ""
    """Its name, where it is not the one of this machine."""

    @classmethod
    def submit(cls, script: str) -> "SlurmJob":
        """Hand a script to sbatch; `SlurmMissing`, `SlurmRefused`."""
        found = _call("sbatch", "--parsable", given=script)
        if found.returncode:
            raise SlurmRefused(_in_line(found.stderr))
        number, _, cluster = found.stdout.strip().splitlines()[-1].partition(";")
        return cls(number, cluster)

    def states(self) -> dict[int, TaskState] | None:
        """Return what Slurm says of the tasks it still knows; `None` where it does not answer.

        It forgets tasks some minutes after their end.
        """
        words = ["--noheader", "--array", "--states=all", f"--jobs={self.id}", *self._where()]
        found = _call("squeue", *words, "--format=%F|%K|%T|%r|%N")
        if found.returncode:
            return {} if "Invalid job id" in found.stderr else None
        lines = [line.split("|") for line in found.stdout.splitlines()]
        return {
            int(each[1]): TaskState(*each[2:])
            for each in lines
            if len(each) == 5 and each[0] == self.id and each[1].isdecimal()
        }

    def cancel(self, *, pending: bool = False) -> None:
        """Have Slurm end it, or with `pending` those tasks that have not begun."""
        _call("scancel", *self._where(), *(["--state=PENDING"] if pending else []), self.id)

    def ending(self, task: int) -> str:
        """Say how a task that is over ended, as far as Slurm knows by now."""
        name = f"task {self.id}_{task}"
        found = _call("scontrol", *self._where(), "--oneliner", "show", "job", f"{self.id}_{task}")
        facts = dict(re.findall(r"(?:^|\s)(JobState|ExitCode|BatchHost)=(\S+)", found.stdout))
        if found.returncode or facts.get("JobState", "RUNNING") in ALIVE:
            return f"{name} is gone"
        code, _, signal = facts.get("ExitCode", "0:0").partition(":")
        how = f"signal {signal}" if signal not in ("", "0") else f"exit code {code}"
        return f"{name} on {facts.get('BatchHost', '?')} ended: {facts['JobState']}, {how}"

    def _where(self) -> list[str]:
        return [f"--clusters={self.cluster}"] if self.cluster else []


def _call(command: str, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm. Ctrl-C in a terminal is for us alone, so that none is cut short."""
    try:
        return subprocess.run(
            [command, *words], input=given, capture_output=True, text=True, start_new_session=True
        )
    except FileNotFoundError:
        raise SlurmMissing(command) from None


def _in_line(text: str) -> str:
    return " ".join(text.split()) or "it said nothing"
