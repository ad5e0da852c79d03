"""The engine and the command of Slurm, with a real one on this machine: `nox -s slurm`."""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import attrs
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import slurm_cluster

from tenterhook_capture.slurm import SlurmEngine
from tenterhook_capture.slurm_job import SlurmJob, SlurmOptions, bash_word
from tenterhook_capture.testing.engines import EngineContract
from tenterhook_store import LocalStore

pytestmark = [
    pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(3600),  # each task imports torch anew: on a busy machine that adds up
]

WORDS = '''
"""A model of words that takes its time, kills its process at a word, and notes where it runs."""

import os
import signal
import time
from pathlib import Path

from tenterhook import Extension, hookimpl
from tenterhook_capture.documents import Documents
from tenterhook_capture.testing.text_models import WordModel


@hookimpl
def tenterhook_loaders():
    return [Extension("words", f"{__name__}:load", "A model of words.")]


@hookimpl
def tenterhook_datasets():
    return [Extension("words", f"{__name__}:read", "Words.")]


class Slow(WordModel):
    def run_token_ids(self, documents):
        time.sleep(float(os.environ.get("WORDS_SECONDS", "0")))
        kills = os.environ.get("WORDS_KILLS")
        if kills and self.token_ids([kills])[0][0] in [ids[0] for ids in documents]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_token_ids(documents)


def load(name, **_):
    Path(os.environ["WORDS_NOTES"], str(os.getpid())).touch()
    return Slow()


def read(name, *, field=None):
    return Documents([f"w{n} a b c" for n in range(30)], source=f"words:{name}")
'''


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, str]]:
    """Start the cluster, for all tests."""
    # No folder of pytest's: others may not pass through those, and munge is another.
    with (
        tempfile.TemporaryDirectory(prefix="tenterhook-slurm-") as folder,
        slurm_cluster.cluster(Path(folder)) as variables,
    ):
        yield variables


@pytest.fixture
def cluster(running: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have commands of Slurm find it; no job is left after a test."""
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    yield
    assert slurm_cluster.jobs() == []


class TestSlurmEngine(EngineContract):
    """Two tasks."""

    has_processes = SlurmEngine.has_processes
    kills = int(os.environ.get("TENTERHOOK_KILLS", "1"))

    @pytest.fixture
    def engine(self) -> SlurmEngine:
        """Return the engine."""
        return SlurmEngine(workers=2, address="localhost")


@attrs.frozen
class Command:
    """Commands on a run `r` of words, 120 rows in 12 units, in a folder that has nothing else."""

    folder: Path
    notes: Path

    @property
    def store(self) -> Path:
        """Where the run is."""
        return self.folder.parent / "store"

    def capture(self, *more: str) -> list[str]:
        """Return the words of a capture."""
        layers = ["--layer", "head", "--layer", "blocks.0", "--data", "words:all"]
        options = ["--rows-per-unit", "10", "--batch-size", "1", "--run-name", "r"]
        return ["capture", "words:", *layers, *options, "--out", str(self.store), *more]

    def start(self, *words: str, **variables: str) -> "subprocess.Popen[str]":
        """Start one."""
        return subprocess.Popen(
            [sys.executable, "-m", "tenterhook", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "WORDS_SECONDS": "0.02", **variables},
            # Whoever runs the tests in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *words: str, **variables: str) -> tuple[int, str, str]:
        """Run one to its end."""
        process = self.start(*words, **variables)
        out, err = process.communicate()
        return process.returncode, out, err

    def committed(self) -> int:
        """Return how many units there are."""
        commits = self.store / "runs/r/commits"
        return len(list(commits.iterdir())) if commits.is_dir() else 0

    def wait_for(self, units: int, process: "subprocess.Popen[str]") -> None:
        """Wait until there are so many units, which a process is at."""
        while self.committed() < units:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def processes(self) -> list[int]:
        """Return the processes that have loaded the model and are there."""
        return [
            int(each.name) for each in self.notes.iterdir() if Path("/proc", each.name).exists()
        ]

    def none_is_left(self) -> bool:
        """Wait a minute for processes to end; whether none is there."""
        until = time.monotonic() + 60
        while self.processes() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.processes()

    def files(self) -> dict[str, str]:
        """Return the hash of every file of the run but of those that say when, or by whom."""
        run = self.store / "runs/r"
        assert LocalStore(str(self.store)).verify_run("r") == []
        return {
            str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run.rglob("*"))
            if path.is_file() and path.parent.name not in ("log", "sessions")
        }


def made(folder: Path) -> Command:
    """Return commands on a run in a folder, with a plugin that has the words."""
    site, notes, work = folder / "site", folder / "notes", folder / "work"
    info = site / "words-1.0.dist-info"
    for each in (info, notes, work):
        each.mkdir(parents=True)
    (site / "plugin_words.py").write_text(WORDS)
    (info / "METADATA").write_text("Name: words\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tenterhook.plugins]\nwords = plugin_words\n")
    return Command(work, notes)


def variables_of(command: Command) -> dict[str, str]:
    """Return those by which processes find the plugin."""
    return {"PYTHONPATH": str(command.folder.parent / "site"), "WORDS_NOTES": str(command.notes)}


@pytest.fixture
def command(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Return commands in a folder of the test's own, where they leave nothing."""
    found = made(tmp_path)
    for name, value in variables_of(found).items():
        monkeypatch.setenv(name, value)
    yield found
    assert found.none_is_left()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the files of a run that one process made, undisturbed."""
    found = made(tmp_path_factory.mktemp("whole"))
    code, _, err = found.run(*found.capture(), **variables_of(found))
    assert code == 0, err
    return found.files()


@pytest.fixture
def planned(command: Command) -> Command:
    """Return commands on a run that is planned."""
    code, _, err = command.run(*command.capture("--plan"))
    assert code == 0, err
    return command


class TestCapture:
    """`tenterhook capture --engine slurm`."""

    def test_settings_are_options(self, command: Command, whole: dict[str, str]) -> None:
        """They reach Slurm as they are; nothing is left in the folder."""
        hostile = "--slurm-sbatch=--comment=a \"b\" # 'c' \\ $HOME"
        more = ["--slurm-mem", "100M", "--slurm-time", "10", "--slurm-setup", "export SAID='x y'"]
        engine = ["--engine", "slurm", "--workers", "2", "--slurm-address", "localhost"]
        code, out, err = command.run(*command.capture(*engine, *more, hostile))
        assert code == 0, err
        assert "120 rows" in out
        assert command.files() == whole
        assert list(command.folder.iterdir()) == []
        said = subprocess.run(["scontrol", "show", "jobs"], capture_output=True, text=True).stdout
        assert "Comment=a \"b\" # 'c' \\ $HOME" in said
        assert "TimeLimit=00:10:00" in said

    def test_one_engine_goes_on_with_anothers_run(
        self, command: Command, whole: dict[str, str]
    ) -> None:
        """Killed at each change, the run equals one that was never stopped."""
        engines = ["local", "processes", *(["ray"] if has_ray() else []), "slurm"]
        for engine in engines:
            own = ["--slurm-address", "localhost"] if engine == "slurm" else []
            words = command.capture("--engine", engine, *own)
            before = command.committed()
            process = command.start(*words, WORDS_SECONDS="0.2")
            command.wait_for(before + 1, process)
            process.kill()
            process.communicate()
            assert command.none_is_left()
            assert command.committed() < 12
        code, out, err = command.run("submit", str(command.store))
        assert code == 0, err
        assert "the run is complete, 120 rows" in out
        assert command.files() == whole


def has_ray() -> bool:
    """Whether there is an engine of it here."""
    return all(find_spec(name) is not None for name in ("ray", "tenterhook_ray"))


class TestSubmit:
    """`tenterhook submit`."""

    def test_it_waits(self, planned: Command, whole: dict[str, str]) -> None:
        """It says how the job and the run are, and leaves nothing in the folder."""
        code, out, err = planned.run("submit", str(planned.store), "r", "--tasks", "3")
        assert code == 0, err
        assert out == "Run r: the run is complete, 120 rows.\n"
        assert re.search(r"^Job \d+: .*\b3 (at work|in the queue)", err, re.MULTILINE)
        assert re.search(r"^Job \d+ is over\.$", err, re.MULTILINE)
        assert "120 of 120 rows" in err
        assert planned.files() == whole
        assert list(planned.folder.iterdir()) == []
        sessions = LocalStore(str(planned.store)).run("r").recent(0)["sessions"]
        assert {each["part"] for each in sessions} == {"0/3", "1/3", "2/3"}

    def test_it_detaches(self, planned: Command, whole: dict[str, str]) -> None:
        """The job does the run by itself; what tasks print is where Slurm puts it."""
        words = ["submit", str(planned.store), "--detach", "--logs", "out"]
        (planned.folder / "out").mkdir()
        code, out, err = planned.run(*words)
        assert code == 0, err
        job = SlurmJob(re.findall(r"Job (\d+) does run r", out)[0])
        until_over(job)
        assert planned.files() == whole
        logs = sorted(planned.folder.glob("out/*"))
        assert [each.name for each in logs] == [f"tenterhook-{job.id}_{n}.out" for n in range(2)]
        assert any("the run is complete" in each.read_text() for each in logs)

    def test_tasks_are_killed(self, planned: Command, whole: dict[str, str]) -> None:
        """What they leave is submitted again, and those slices alone that lack units."""
        words = ["submit", str(planned.store), "--tasks", "3"]
        process = planned.start(*words, WORDS_SECONDS="0.3")
        planned.wait_for(2, process)
        os.kill(random.Random(0).choice(planned.processes()), signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "the run is complete, 120 rows" in out
        assert len(set(re.findall(r"^Job (\d+) is over", err, re.MULTILINE))) == 2
        assert planned.files() == whole
        (log,) = planned.folder.iterdir()  # of the task that was killed
        assert re.fullmatch(r"slurm-\d+_\d\.out", log.name)

    def test_a_unit_that_always_kills_is_named(
        self, planned: Command, whole: dict[str, str]
    ) -> None:
        """After three attempts; the others are done, of its slice too."""
        words = ["submit", str(planned.store)]
        code, _, err = planned.run(*words, WORDS_KILLS="w16")
        assert code == 1
        assert "is incomplete: 1 unit failed, tried 3 times each, and the others are done" in err
        assert re.search(r"unit 6: .*its worker was lost: process \d+ was killed by signal 9", err)
        assert LocalStore(str(planned.store)).run("r").missing == [6]
        assert planned.run(*words)[0] == 0
        assert planned.files() == whole

    def test_ctrl_c_cancels_it(self, planned: Command, whole: dict[str, str]) -> None:
        """It says how to go on, and leaves no job, no process and no file."""
        words = ["submit", str(planned.store)]
        process = planned.start(*words, WORDS_SECONDS="0.5")
        planned.wait_for(1, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert "of 120 rows; the same command again does the rest." in err
        assert slurm_cluster.jobs() == []
        assert planned.none_is_left()
        assert list(planned.folder.iterdir()) == []
        assert planned.run(*words)[0] == 0
        assert planned.files() == whole

    def test_who_submitted_it_is_killed(self, planned: Command, whole: dict[str, str]) -> None:
        """The job goes on to its end."""
        process = planned.start("submit", str(planned.store), WORDS_SECONDS="0.1")
        planned.wait_for(1, process)
        process.kill()
        process.communicate()
        while slurm_cluster.jobs():
            time.sleep(0.2)
        assert planned.files() == whole

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--setup", "echo no such module >&2; exit 4"], "exit code 4. It said: no such mod"),
            (["--python", "/nowhere/python"], "It said: .*/nowhere/python: No such file"),
            (
                ["--model", "tiny:"],
                "exit code 2. It said: error: No layer 'blocks.0' in this model",
            ),
        ],
        ids=["setup", "python", "model"],
    )
    def test_tasks_that_cannot_begin(self, planned: Command, words: list[str], said: str) -> None:
        """They are not submitted for ever; the last that one printed is shown."""
        code, _, err = planned.run("submit", str(planned.store), *words)
        assert code == 1
        assert re.search(f"No task began its work: task .* FAILED, .*{said}", err), err

    def test_what_slurm_refuses(self, planned: Command) -> None:
        """It is told in its words."""
        code, _, err = planned.run("submit", str(planned.store), "--partition", "no such")
        assert code == 1
        assert "Slurm refused the job: " in err
        assert "invalid partition specified: no such" in err


def until_over(job: SlurmJob) -> None:
    """Wait for the end of a job."""
    while any(not each.is_over for each in (job.states() or {}).values()):
        time.sleep(0.2)


def test_a_script_by_itself(tmp_path: Path) -> None:
    """`sbatch` takes it as it is; the program gets its words, hostile ones too."""
    program = tmp_path / "a program"
    program.write_text('#!/bin/bash\nprintf "%s|" "$@" > "$3"\n')
    program.chmod(0o755)
    hostile = str(tmp_path / "a 'b' \"c\" $HOME `id`\n#SBATCH --array=0-9")
    options = SlurmOptions(python=str(program), sbatch=("--chdir /tmp", "--output=/dev/null"))
    script = options.script("m", [bash_word(hostile)], array="0", name='it\'s "a" job')
    job = SlurmJob.submit(script)
    until_over(job)
    assert Path(hostile).read_text() == f"-m|m|{hostile}|"
