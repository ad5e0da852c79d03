"""The scripts of Slurm jobs, read and run by bash; what is asked of Slurm where there is none."""

import os
import pickle
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tenterhook_capture.engine import UnitDone
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.slurm import SlurmEngine, TasksEnded
from tenterhook_capture.slurm_job import (
    SlurmJob,
    SlurmMissing,
    SlurmOptions,
    SlurmRefused,
    array_of,
    bash_word,
    interrupts_held,
)
from tenterhook_capture.slurm_wire import Door, connect, wait_for_end
from tenterhook_capture.testing.engine_workers import ProcessWorker
from tenterhook_store.testing.small_runs import a_plan

HOSTILE = [
    "with a space",
    "quotes ' and \"",
    "a\nnew line\n#SBATCH --array=0-99",
    "$HOME `id` $(id) ${x}",
    "-leading dash",
    "back\\slash * ? [a] ~ ! # & ; | < > ( )",
    "ümlaut",
]


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Return a stand-in for Python that prints its words and the variable `KEY`, each ended."""
    path = tmp_path / "my python"
    path.write_text('#!/bin/bash\nprintf "%s\\0" "$@" "$KEY"\n')
    path.chmod(0o755)
    return str(path)


def directives(script: str) -> list[str]:
    """Return what Slurm reads of a script: it stops at the first line that is a command."""
    found: list[str] = []
    for line in script.splitlines():
        if line and not line.startswith("#"):
            return found
        found.append(line.removeprefix("#SBATCH "))
    return found


class TestScripts:
    """What a script says."""

    def test_options(self) -> None:
        """Each stands in a line of its own, the user's last; the array is first."""
        options = SlurmOptions(
            partition="gpu,big", time="4:00:00", mem="32G", cpus_per_task=8, gpus=1,
            sbatch=("--account=mine", "-q fast"), python="/opt/python",
        )  # fmt: skip
        script = options.script("module", ["work"], array="0-3", name="r")
        assert directives(script) == [
            "#!/bin/bash",
            *("--job-name=r", "--array=0-3", "--partition=gpu,big", "--time=4:00:00"),
            *("--mem=32G", "--cpus-per-task=8", "--gpus=1", "--account=mine", "-q fast"),
        ]
        assert script.splitlines()[-2:] == ["set -e", "exec /opt/python -m module work"]

    @pytest.mark.parametrize("text", HOSTILE)
    def test_words_reach_the_program_as_they_are(self, text: str, python: str) -> None:
        """Whatever is in them; no line of theirs is read by Slurm."""
        options = SlurmOptions(python=python)
        script = options.script(
            "m", ["--", bash_word(text)], array="0", name="r", variables={"KEY": text}
        )
        assert directives(script) == ["#!/bin/bash", "--job-name=r", "--array=0"]
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        found = subprocess.run(["bash"], input=script, text=True, capture_output=True)
        assert found.stdout.split("\0") == ["-m", "m", "--", text, text, ""], found.stderr

    def test_values_are_one_word_for_slurm(self) -> None:
        """It knows double quotes and backslashes; a # would begin a comment."""
        options = SlurmOptions(sbatch=('--comment=a "b" # c\\d', "--account my lab"))
        script = options.script("m", [], array="0", name="it's $x")
        assert directives(script)[1] == '"--job-name=it\'s $x"'
        assert directives(script)[3:] == [
            '"--comment=a \\"b\\" # c\\\\d"',
            '--account "my lab"',
        ]

    def test_setup_comes_before_the_program(self, python: str) -> None:
        """Its lines are bash; one that fails ends the task."""
        options = SlurmOptions(python=python, setup=("export KEY='a b'", "true"))
        script = options.script("m", [], array="0", name="r")
        found = subprocess.run(["bash"], input=script, text=True, capture_output=True)
        assert found.stdout == "-m\0m\0a b\0"
        failing = SlurmOptions(python=python, setup=("false",)).script("m", [], array="0", name="r")
        found = subprocess.run(["bash"], input=failing, text=True, capture_output=True)
        assert (found.returncode, found.stdout) == (1, "")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"partition": "a\nb"}, "partition='a.nb' must be text in one line"),
            ({"time": ""}, "time='' must be text in one line"),
            ({"mem": True}, "mem=True must be text in one line"),
            ({"cpus_per_task": 0}, "cpus_per_task=0 must be"),
            ({"sbatch": ["account=x"]}, "sbatch='account=x' must be an option of sbatch in one"),
            ({"sbatch": ["--a\n#SBATCH -b"]}, "must be an option of sbatch in one line"),
            ({"sbatch": ["--array=1-9"]}, "sbatch='--array=1-9' must be another option: this one"),
            ({"sbatch": "-a 1-9"}, "must be another option: this one is set already"),
        ],
    )
    def test_settings_that_make_no_sense(self, settings: dict[str, Any], words: str) -> None:
        """They are refused by name, with what would do."""
        with pytest.raises(BadArgument, match=words):
            SlurmOptions(**settings)

    def test_arrays(self) -> None:
        """Indices that follow each other are written as a stretch."""
        assert array_of([0, 1, 2, 3]) == "0-3"
        assert array_of({7, 0, 3, 4}) == "0,3-4,7"
        assert array_of([5]) == "5"


def stand_in(folder: Path, **scripts: str) -> Mapping[str, str]:
    """Lay down commands; return the variables that find them alone."""
    for name, text in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


class TestAsking:
    """What is asked of Slurm, and what it may say."""

    def test_no_slurm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The package is named, and how the script alone is written."""
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SlurmMissing, match=r"'sbatch' is not found: .*slurm-client.*--print"):
            SlurmJob.submit("#!/bin/bash\n")

    def test_no_slurm_for_the_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says the same, and leaves no thread that listens."""
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SlurmMissing, match="'sbatch' is not found"):
            list(SlurmEngine().run(a_plan(rows=8, rows_per_unit=4).units(), ProcessWorker))
        assert "tenterhook-slurm" not in [each.name for each in threading.enumerate()]

    def test_a_refusal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is told in Slurm's words."""
        for name, value in stand_in(tmp_path, sbatch="echo no such partition >&2; exit 1").items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SlurmRefused, match="Slurm refused the job: no such partition"):
            SlurmJob.submit("#!/bin/bash\n")

    def test_another_cluster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its name goes with each question; tasks of others and odd lines are passed over."""
        said = "CLUSTER: big\\n12|0|RUNNING|None|n1\\n12|1|PENDING|Priority|\\n13|0|FAILED|x|n1\\n"
        commands = stand_in(
            tmp_path,
            sbatch="cat > /dev/null; echo warning >&2; echo '12;big'",
            squeue=f'[[ " $* " == *" --clusters=big "* ]] && printf "{said}"',
        )
        for name, value in commands.items():
            monkeypatch.setenv(name, value)
        job = SlurmJob.submit("#!/bin/bash\n")
        assert job == SlurmJob("12", "big")
        states = job.states()
        assert states is not None
        assert {number: each.state for number, each in states.items()} == {
            0: "RUNNING",
            1: "PENDING",
        }
        assert states[1].reason == "Priority"

    @pytest.mark.parametrize(
        ("said", "expected"),
        [("slurm_load_jobs error: Invalid job id specified", {}), ("Unable to contact", None)],
    )
    def test_what_it_does_not_know(
        self, said: str, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job that it forgot is over; a controller that is away says nothing of one."""
        for name, value in stand_in(tmp_path, squeue=f"echo '{said}' >&2; exit 1").items():
            monkeypatch.setenv(name, value)
        assert SlurmJob("12").states() == expected

    def test_ctrl_c_waits_for_a_job_to_be_known(self) -> None:
        """It is raised when the job can be cancelled."""
        known: list[str] = []
        before = signal.signal(signal.SIGINT, signal.default_int_handler)

        def submit() -> None:
            with interrupts_held():
                signal.raise_signal(signal.SIGINT)
                known.append("job")

        try:
            with pytest.raises(KeyboardInterrupt):
                submit()
        finally:
            signal.signal(signal.SIGINT, before)
        assert known == ["job"]


# What a cluster does, as far as the engine asks: it begins each task of a job at once.
SBATCH = """
script=$(mktemp "$FOLDER/job-XXXXXX")
cat > "$script"
job=$(ls "$FOLDER"/job-* | wc -l)
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "$last"); do
  SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task setsid bash "$script" \\
    > "$FOLDER/out-$job-$task" 2>&1 < /dev/null &
  echo $! > "$FOLDER/pid-$job-$task"
done
echo $job
"""
SQUEUE = """
job=$(sed -n 's/.*--jobs=\\([0-9]*\\).*/\\1/p' <<< "$*")
for file in "$FOLDER"/pid-$job-*; do
  state=COMPLETED; kill -0 $(cat "$file") 2> /dev/null && state=RUNNING
  echo "$job|${file##*-}|$state|None|here"
done
"""


@pytest.fixture
def small_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give commands that begin tasks on this machine as soon as they are submitted."""
    commands = tmp_path / "bin"
    commands.mkdir()
    scancel, scontrol = "true", "echo JobState=FAILED ExitCode=0:9 BatchHost=here"
    found = stand_in(commands, sbatch=SBATCH, squeue=SQUEUE, scancel=scancel, scontrol=scontrol)
    for name, value in {**found, "FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


class TestEngine:
    """The engine, where tasks begin at once; with a real Slurm see the session `slurm` of nox."""

    def test_units_are_done_in_tasks(self, small_cluster: Path) -> None:
        """By processes that end with the engine."""
        engine = SlurmEngine(workers=1, address="localhost")
        events = list(engine.run(a_plan(rows=12, rows_per_unit=4).units(), ProcessWorker))
        assert [type(each) for each in events] == [UnitDone] * 3
        (process,) = {each.facts["process"] for each in events if isinstance(each, UnitDone)}
        assert process == int((small_cluster / "pid-1-0").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert engine.workers_alive() == 0

    def test_tasks_that_end_before_they_are_ready(self, small_cluster: Path) -> None:
        """They are not submitted for ever; it says what they need."""
        engine = SlurmEngine(workers=1, setup=("exit 3",), logs="/logs")
        with pytest.raises(TasksEnded, match=r"3 tasks ended .* task 3_0 .*Read in /logs"):
            list(engine.run(a_plan(rows=12, rows_per_unit=4).units(), ProcessWorker))

    def test_it_pickles(self) -> None:
        """As any value does."""
        engine = SlurmEngine(workers=3, partition="gpu")
        assert pickle.loads(pickle.dumps(engine)) == engine


class TestWire:
    """Connections between an engine and its tasks."""

    def test_who_knows_the_key_gets_in(self) -> None:
        """Both sides read what the other sends; one learns that the other is gone."""
        door = Door()
        with closing(door), connect("localhost", door.port, door.key) as task:
            with door.arrived() as here:
                task.send("hello")
                assert here.recv() == "hello"
                here.send("unit")
                assert task.recv() == "unit"
            wait_for_end(task)

    def test_strangers_stay_out(self) -> None:
        """A wrong key is refused, by both; who says nothing keeps nobody waiting."""
        door = Door()
        with closing(door), socket.create_connection(("localhost", door.port)):
            with pytest.raises(OSError, match=r"hung up|does not know|reset"):
                connect("localhost", door.port, "another key", within=0)
            with connect("localhost", door.port, door.key):
                door.arrived().close()
            assert not door.bell.poll()

    def test_a_door_of_somebody_else(self) -> None:
        """What a task connects to must know the key too, before anything of it is unpickled."""
        with socket.create_server(("localhost", 0)) as server:

            def answer() -> None:
                caller, _ = server.accept()
                with caller:
                    caller.sendall(caller.recv(1000))
                    caller.recv(1000)
                    caller.sendall(bytes(32))
                    caller.recv(1000)

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(OSError, match="does not know the key"):
                connect("localhost", server.getsockname()[1], "key", within=0)
            thread.join()

    def test_nobody_is_there(self) -> None:
        """It is an error, after a while."""
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(OSError, match="refused"):
            connect("localhost", port, "key", within=0)
