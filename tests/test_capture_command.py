"""`tenterhook capture` and `tenterhook runs`, from the words typed to the files on disk."""

import gzip
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

from tenterhook import Extension, hookimpl
from tenterhook.plugins import default_manager
from tenterhook_capture import CaptureOptions, begin_run, prepare_capture
from tenterhook_capture.documents import Documents
from tenterhook_capture.loading import load_model
from tenterhook_capture.option_fields import described
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_cli import main
from tenterhook_store import LocalStore, MissingRows

Command = Callable[..., tuple[int, str, str]]


def load(name: str, *, dtype: Any = None, device: Any = None, revision: Any = None) -> WordModel:
    """Load the model of these tests."""
    return WordModel(dtype=torch.bfloat16)


def read(name: str, *, field: str | None = None) -> Documents:
    """Read the data of these tests."""
    return Documents(["a b c", "d e", "f g h i j"], source=f"words:{name}")


class Words:
    """A plugin with a model and data under the scheme `words`."""

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare the model."""
        return [Extension("words", "here:load", "A model of words.")]

    @hookimpl
    def tenterhook_datasets(self) -> list[Extension]:
        """Declare the data."""
        return [Extension("words", "here:read", "Words.")]

    @hookimpl
    def tenterhook_spec_formats(self) -> list[Extension]:
        """Declare a format."""
        return [Extension("words", "here:format", "A word and a value a line.")]


class WordLines:
    """The format."""

    def loads(self, text: str) -> Any:
        """Read the value after each word."""
        return {word: json.loads(value) for word, value in re.findall(r"(\w+) (.*)", text)}

    def dumps(self, values: Any) -> str:
        """Write a line for each word."""
        return "".join(f"{word} {json.dumps(value)}\n" for word, value in values.items())


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the plugin while a test runs."""
    real = Extension.load
    here = {"here:load": load, "here:read": read, "here:format": WordLines()}
    monkeypatch.setattr(Extension, "load", lambda self: here.get(self.target) or real(self))
    default_manager().register(Words(), "words-here")
    yield
    default_manager().unregister("words-here")


@pytest.fixture
def th(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process: `code, stdout, stderr = th("runs", "list", ...)`."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return run


def capture(th: Command, out: Path, *more: str, data: str = "words:all") -> tuple[int, str, str]:
    """Capture two layers of the model."""
    layers = ("--layer", "head", "--layer", "blocks.0")
    return th("capture", "words:", *layers, "--data", data, "--out", str(out), *more)


def test_capture_and_read(th: Command, tmp_path: Path) -> None:
    """Results go to stdout with a snippet that works; progress goes to stderr."""
    code, out, err = capture(th, tmp_path / "store", "--run-name", "mine")
    assert code == 0, err
    assert "Run mine in" in out
    assert "10 rows" in out
    assert "blocks.0  12 x bfloat16" in out
    assert "10 of 10 rows" in err
    assert "rows/s" in err
    snippet = textwrap.dedent(out.partition("Read it:\n")[2])
    made: dict[str, Any] = {}
    exec(snippet, made)
    assert made["rows"].shape == (10, 12)
    assert made["rows"].dtype is torch.bfloat16
    assert made["array"].dtype.name == "bfloat16"
    assert made["tokens"].tolist() == made["run"].tokens[:].tolist()


def test_json(th: Command, tmp_path: Path) -> None:
    """With --json stdout is JSON and nothing else."""
    code, out, _ = capture(th, tmp_path / "store", "--json", "--dtype", "float32")
    found = json.loads(out)
    assert code == 0
    assert found["layers"]["head"] == {"features": 97, "dtype": "float32"}
    assert (found["rows"], found["complete"], found["store"]) == (10, True, str(tmp_path / "store"))


def test_same_command_again(th: Command, tmp_path: Path) -> None:
    """It finds the run complete, says so, and prints the same."""
    _, first, _ = capture(th, tmp_path / "store")
    code, again, err = capture(th, tmp_path / "store")
    assert (code, again) == (0, first)
    assert err == "This run was complete already; there was nothing to do.\n"


def test_files_as_data(th: Command, tmp_path: Path) -> None:
    """Text and JSON lines are read; what is left out is said."""
    text = tmp_path / "a.txt"
    text.write_text("a b\n\nc " + "d " * 30 + "\n")
    code, out, err = capture(th, tmp_path / "store", data=str(text))
    assert code == 0, err
    assert "Skipped: 1 empty document." in out
    assert "Cut: 15 tokens of 1 document longer than the model takes." in out
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"body": "a b c"}\n')
    code, out, err = capture(th, tmp_path / "store", "--field", "body", data=str(lines))
    assert code == 0, err
    assert "3 rows" in out


def test_runs(th: Command, tmp_path: Path) -> None:
    """A store's runs are listed and shown."""
    store = str(tmp_path / "store")
    capture(th, tmp_path / "store", "--run-name", "one")
    capture(th, tmp_path / "store", "--run-name", "two", "--sample-limit", "1")
    code, out, _ = th("runs", "list", store)
    assert code == 0
    assert out.splitlines() == [
        "one  10 rows  complete  blocks.0, head",
        "two  3 rows   complete  blocks.0, head",
    ]
    rows = json.loads(th("runs", "list", store, "--json")[1])
    assert [row["run"] for row in rows] == ["one", "two"]
    code, out, _ = th("runs", "show", store, "two")
    assert code == 0
    assert "3 of 3" in out
    assert "head  97 x bfloat16" in out
    assert json.loads(th("runs", "show", store, "two", "--json")[1])["run"] == "two"
    code, _, err = th("runs", "show", store)
    assert (code, "It holds one, two." in err) == (2, True)
    code, _, err = th("runs", "show", store, "tow")
    assert (code, "Did you mean 'two'" in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "wrods:"}, "Did you mean 'words:'"),
        ({"--layer": "blocks.0.mpl"}, "'blocks.0.mlp'"),
        ({"--layer": "pooled"}, "Layer 'pooled' gave"),
        ({"--data": "missing.txt"}, "There is no file"),
        ({"--data": "DIR/text.tx"}, "text.txt"),
        ({"--data": "DIR/empty.txt"}, "holds no document"),
        ({"--data": "DIR/spaces.jsonl"}, "holds no document"),
        ({"--data": "DIR/invisible.jsonl"}, "has a token"),
        ({"--data": "DIR/records.jsonl"}, "it has 'body', 'id'"),
        ({"--data": "DIR/binary.txt"}, "not UTF-8"),
        ({"--out": "DIR/text.txt"}, "no folder"),
        ({"--out": "DIR/text.txt/below"}, "no folder"),
        ({"--out": "DIR"}, "holds something else"),
        ({"--out": "/proc/nowhere/store"}, "nothing can be written there"),
        ({"--out": "memory://x"}, "is gone when this command ends"),
        ({"--run-name": "../x"}, "cannot name a run"),
        ({"--run-name": "/x"}, "cannot name a run"),
        ({"--run-name": "a\0b"}, "cannot name a run"),
        ({"--run-name": "x" * 300}, "300 bytes"),
        ({"--batch-size": "0"}, "batch-size"),
        ({"--dtype": "int3"}, "dtype"),
    ],
    ids=ascii,
)
def test_bad_input(th: Command, tmp_path: Path, change: dict[str, str], said: str) -> None:
    """One line with the way out, exit code 2, and not a file or folder more than before."""
    contents = {
        "text.txt": b"a b c\n",
        "empty.txt": b"",
        "spaces.jsonl": b'{"text": " "}\n',
        "invisible.jsonl": '{"text": "…"}\n'.encode(),
        "records.jsonl": b'{"body": "a", "id": 1}\n',
        "binary.txt": b"\xff\xfe\x00\x01",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    options = {"--layer": "head", "--data": "DIR/text.txt", "--out": "DIR/store"}
    model = change.pop("model", "words:")
    given = {**options, **change}
    args = [each.replace("DIR", str(tmp_path)) for pair in given.items() for each in pair]
    if "has a token" in said:
        WordModel.token_ids, real = lambda self, texts: [[] for _ in texts], WordModel.token_ids  # type: ignore[method-assign]
        try:
            code, out, err = th("capture", model, *args)
        finally:
            WordModel.token_ids = real  # type: ignore[method-assign]
    else:
        code, out, err = th("capture", model, *args)
    assert (code, out) == (2, "")
    assert said in err
    assert [line for line in err.splitlines() if not line.startswith("hint:")] == [
        line for line in err.splitlines() if line.startswith("error:")
    ]
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_other_run_of_that_name(th: Command, tmp_path: Path) -> None:
    """A run name belongs to one capture."""
    capture(th, tmp_path / "store", "--run-name", "one")
    code, _, err = capture(th, tmp_path / "store", "--run-name", "one", "--batch-size", "2")
    assert code == 2
    assert "batch_size is None there and 2 here" in err


def test_no_store(th: Command, tmp_path: Path) -> None:
    """Looking at a store that is not there is an error, and makes none."""
    for command in ("list", "show"):
        code, _, err = th("runs", command, str(tmp_path / "store"))
        assert code == 2
        assert "no such folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_stopped(tmp_path: Path, number: int) -> None:
    """Ctrl-C ends a capture cleanly, says what is safe and how to go on, and that works."""
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal, sys, time
            signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever ignored it
            sys.path.insert(0, sys.argv.pop(1))
            from tenterhook import Extension, hookimpl
            from tenterhook_cli import main
            from tenterhook.plugins import default_manager
            from tenterhook_capture.testing.text_models import WordModel

            class Slow(WordModel):
                def run_token_ids(self, documents):
                    time.sleep(0.02)
                    print("batch", file=sys.stderr, flush=True)
                    return super().run_token_ids(documents)

            def load(name, **settings):
                return Slow()

            class Plugin:
                @hookimpl
                def tenterhook_loaders(self):
                    return [Extension("slow", "slow:load", "Slow.")]

            if __name__ == "__main__":
                default_manager().register(Plugin(), "slow")
                main()
            """
        )
    )
    data = tmp_path / "data.txt"
    data.write_text("a b c d\n" * 60)
    command = [sys.executable, str(script), str(tmp_path), "capture", "slow:"]
    command += ["--layer", "head", "--data", str(data), "--out", str(tmp_path / "store")]
    command += ["--batch-size", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(10):
            process.stderr.readline()
        os.kill(process.pid, number)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "has 0 of 240 rows; the same command again does the rest." in rest
    assert "Traceback" not in rest
    assert not list((tmp_path / "store").rglob(".*"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    store = LocalStore(tmp_path / "store")
    assert len(store.run(store.runs()[0])) == 240


def test_dry_run(th: Command, tmp_path: Path) -> None:
    """It says what there would be, and makes nothing; of a run that is begun, what is there."""
    code, out, err = capture(th, tmp_path / "store", "--dry-run", "--rows-per-unit", "4")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].endswith("would have 10 rows, one for each token, of")
    assert lines[1:3] == ["  blocks.0  12 x bfloat16", "  head  97 x bfloat16"]
    assert lines[3] == "2.2 kB in 15 shards and 3 units."
    batches = r"Batches: at most [\d,]+ tokens, padding counted; documents by length\."
    assert re.fullmatch(batches, lines[4])
    assert re.fullmatch(
        r"Estimated time: 1 s of forward passes in one process, at [\d,]+ rows/s measured on the "
        r"first batches\.",
        lines[5],
    )
    assert lines[6] == "Nothing was made."
    assert list(tmp_path.iterdir()) == []
    capture(th, tmp_path / "store", "--rows-per-unit", "4")
    files = [p for p in (tmp_path / "store").rglob("c/*") if p.is_file()]
    files += [p for p in (tmp_path / "store").rglob("c/*/0") if p.is_file()]
    found = json.loads(
        capture(th, tmp_path / "store", "--rows-per-unit", "4", "--dry-run", "--json")[1]
    )
    assert found["shards"] == len(files) == 15
    assert (found["units"], found["units_missing"], found["rows_missing"]) == (3, 0, 0)
    assert found["bytes"] == 10 * (12 + 97) * 2
    (run,) = LocalStore(tmp_path / "store").runs()
    spec = LocalStore(tmp_path / "store").run(run).plan.spec
    assert found["batch_tokens"] == spec["batch_tokens"] >= 512
    assert (found["batch_size"], found["bucket"]) == (None, True)
    code, _, err = capture(th, tmp_path / "store", "--dry-run", "--plan")
    assert (code, "give one" in err) == (2, True)


def test_dry_run_for_a_cluster_elsewhere(
    th: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands need not be on this machine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ("--dry-run", "--engine", "slurm", "--workers", "64", "--slurm-mem", "32G")
    code, out, err = capture(th, tmp_path / "store", *words)
    assert code == 0, err
    assert "With 64 workers of the engine slurm" in out


def test_dry_run_with_workers(th: Command, tmp_path: Path) -> None:
    """It says what so many workers of an engine make of it; the engine starts none."""
    words = ("--dry-run", "--rows-per-unit", "4")
    two = (*words, "--engine", "processes", "--workers", "2")
    code, out, err = capture(th, tmp_path / "store", *two)
    assert code == 0, err
    assert re.search(
        r"With 2 workers of the engine processes, each as fast as this machine:\n"
        r"  4 rows and 872 B a unit, 2 units a worker at most, 1 s each\.\n"
        r"  1 s from the first unit to the last; loading the model is not counted\.\n"
        r"  [\d.]+ [kM]B/s to be written by all together, [\d.]+ [kM]B/s each\.\n"
        r"  10 tokens, made once and shared in the store: 184 B\.\n"
        r"  A worker that dies loses the unit that it has: 1 s of its work at most\.\n"
        r"Nothing was made\.",
        out,
    )
    many = (*words, "--engine", "processes", "--workers", "64")
    assert "  61 workers would have no unit: smaller ones" in capture(th, tmp_path, *many)[1]
    found = json.loads(capture(th, tmp_path / "store", *two, "--json")[1])
    scaled = found["with_workers"]
    assert (scaled["engine"], scaled["workers"], scaled["idle"]) == ("processes", 2, 0)
    assert (scaled["units_per_worker"], scaled["rows_per_unit"]) == (2, 4)
    assert scaled["unit_seconds"] == 4 / found["rows_per_second"]
    assert scaled["seconds"] == pytest.approx(2 * scaled["unit_seconds"])
    assert scaled["bytes_per_second"] == pytest.approx(2 * 218 * found["rows_per_second"])
    local = json.loads(capture(th, tmp_path / "store", *words, "--engine", "local", "--json")[1])
    assert (local["with_workers"]["workers"], local["tokens"]) == (1, 10)
    assert json.loads(capture(th, tmp_path / "s", *words, "--json")[1])["with_workers"] is None
    assert list(tmp_path.iterdir()) == []


def test_plan(th: Command, tmp_path: Path) -> None:
    """The run is there, without rows, and what is printed does it."""
    store = tmp_path / "a store"
    code, out, err = capture(th, store, "--plan", "--run-name", "r", "--rows-per-unit", "4")
    assert code == 0, err
    assert out.startswith(f"Run r in {store} is planned: 10 rows in 3 units.\nBatches: at most ")
    command = [line for line in out.splitlines() if line.endswith("--slice 1/2")]
    assert shlex.split(command[0])[1:] == ["work", str(store), "r", "--slice", "1/2"]
    assert len(LocalStore(store).run("r")) == 0
    code, out, _ = th(*shlex.split(command[0])[1:])
    assert (code, out) == (0, "Run r: slice 1/2 is done; 1 of its 3 units is missing.\n")
    planned = capture(th, store, "--plan", "--run-name", "r", "--rows-per-unit", "4", "--json")
    found = json.loads(planned[1])
    assert (found["units"], found["units_done"]) == (3, 2)
    code, out, err = th("work", str(store))
    assert (code, out) == (0, "Run r: the run is complete, 10 rows.\n")
    assert "No --slice, and no variables of a launcher: all units." in err
    code, out, _ = th("runs", "resume", str(store))
    assert (code, out) == (0, "Run r: nothing was missing; the run is complete, 10 rows.\n")


@pytest.mark.parametrize(
    ("args", "variables", "said"),
    [
        (["--slice", "2/2"], {}, "'2/2' must be i/n"),
        (["--slice", "0/0"], {}, "'0/0' must be i/n"),
        (["--slice", "first"], {}, "'first' must be i/n"),
        ([], {"RANK": "0"}, "there is no WORLD_SIZE"),
        ([], {"SLURM_PROCID": "5", "SLURM_NTASKS": "2"}, "give no slice"),
        (["nope"], {}, "No run 'nope' in the store"),
        (["--tries", "0"], {}, "tries"),
    ],
    ids=str,
)
def test_work_that_makes_no_sense(
    th: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    variables: dict[str, str],
    said: str,
) -> None:
    """One line, exit code 2, and nothing is done."""
    capture(th, tmp_path / "store", "--plan")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = th("work", str(tmp_path / "store"), *args)
    assert (code, out) == (2, "")
    assert said in err
    (run,) = LocalStore(tmp_path / "store").runs()
    assert len(LocalStore(tmp_path / "store").run(run).committed) == 0


def test_runs_that_no_name_gives(th: Command, tmp_path: Path) -> None:
    """A run made of objects is refused by `work`, with the way out."""
    store = LocalStore(tmp_path / "store")
    options = CaptureOptions()
    begin_run(store, prepare_capture(WordModel(), "head", ["a b"], options=options), "mine")
    code, _, err = th("work", str(tmp_path / "store"))
    assert code == 2
    assert "The same call that began it goes on with it" in err
    (tmp_path / "data.txt").write_text("a b\n")
    where = ["--data", str(tmp_path / "data.txt"), "--model", "words:"]
    code, _, err = th("work", str(tmp_path / "store"), *where)
    assert (code, "layers.head.dtype is 'float32' there and 'bfloat16' here" in err) == (2, True)
    assert "--model and --data" in err


def test_data_that_moved(th: Command, tmp_path: Path) -> None:
    """The run goes on where it is said where the data is now; other data is refused."""
    data, store = tmp_path / "data.txt", tmp_path / "store"
    data.write_text("a b c\nd e f\n")
    capture(th, store, "--plan", data=str(data))
    moved = data.rename(tmp_path / "moved.txt")
    code, _, err = th("work", str(store))
    assert (code, "There is no file" in err) == (2, True)
    (tmp_path / "other.txt").write_text("a b c\nd e g\n")
    code, _, err = th("work", str(store), "--data", str(tmp_path / "other.txt"))
    assert (code, "documents not the same" in err) == (2, True)
    code, out, _ = th("work", str(store), "--data", str(moved))
    assert (code, "the run is complete, 6 rows" in out) == (0, True)


def test_recipe_means_the_same_anywhere(
    th: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths that were relative where the run was begun are found from another folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("data.jsonl").write_text('{"body": "a b"}\n{"body": ""}\n{"body": "c"}\n')
    options = ["--field", "body", "--sample-limit", "2", "--dtype", "float32"]
    assert capture(th, tmp_path / "store", "--plan", *options, data="data.jsonl")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, out, err = th("work", str(tmp_path / "store"))
    assert (code, "complete, 3 rows" in out) == (0, True), err


def test_verify(th: Command, tmp_path: Path) -> None:
    """A byte that is flipped is found, with its unit and file, and the exit code is 1."""
    store = tmp_path / "store"
    capture(th, store, "--run-name", "r2", "--rows-per-unit", "4")
    capture(th, store, "--run-name", "r12", "--sample-limit", "1")
    code, out, _ = th("runs", "verify", str(store))
    assert (code, out) == (
        0,
        "r2: 3 of 3 units, 0 problems\nr12: 1 of 1 units, 0 problems\n",
    )
    shard = next(p for p in sorted((store / "runs/r2").rglob("layers/*/c/1/0")))
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    code, out, _ = th("runs", "verify", str(store))
    assert code == 1
    assert "r2: 3 of 3 units, 1 problem\n  unit 1: " in out
    assert str(shard.relative_to(store / "runs/r2")) in out
    assert th("runs", "verify", str(store), "r12")[0] == 0
    found = json.loads(th("runs", "verify", f"{store}/runs/r2", "--json")[1])
    assert [each["unit"] for each in found[0]["problems"]] == [1]


@pytest.mark.parametrize("command", ["list", "verify", "status"])
def test_a_run_whose_plan_is_damaged(th: Command, tmp_path: Path, command: str) -> None:
    """It is named with its file, the others are looked at, and it can be deleted."""
    store = tmp_path / "store"
    for name in ("a", "b", "c"):
        capture(th, store, "--run-name", name)
    plan = store / "runs/b/plan.json"
    plan.write_bytes(plan.read_bytes()[:-9])
    code, out, err = th("runs", command, str(store))
    assert code == 1
    assert [line[0] for line in out.splitlines() if line[0] in "ac"] == ["a", "c"]
    assert str(plan) in out + err
    code, out, err = th("runs", "delete", str(store), "b", "--yes")
    assert (code, out) == (0, f"Deleted run b of {store}, which cannot be opened.\n"), err
    assert th("runs", command, str(store))[0] == 0


def test_a_damaged_unit_is_made_again(th: Command, tmp_path: Path) -> None:
    """Once its record is gone, as `verify` says, `resume` makes the same bytes."""
    store = tmp_path / "store"
    command = ("capture", "tiny:", "--layer", "layer_1", "--data", "tiny:sample", "--out")
    th(*command, str(store), "--sample-limit", "2", "--rows-per-unit", "64", "--run-name", "r")
    shard = next(p for p in sorted((store / "runs/r").rglob("layers/*/c/1/0")))
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    code, out, err = th("runs", "verify", str(store))
    record = store / "runs/r/commits/000001.json"
    assert (code, out.count("\n")) == (1, 2)
    assert "Unit 1 of r is made again once runs/r/commits/000001.json is deleted" in err
    assert f"tenterhook runs resume {store} r" in err
    record.unlink()
    assert th("runs", "resume", str(store), "r")[0] == 0
    assert shard.read_bytes() == content
    assert th("runs", "verify", str(store))[0] == 0
    metadata = shard.parents[2] / "zarr.json"
    metadata.write_bytes(metadata.read_bytes() + b" ")
    code, _, err = th("runs", "verify", str(store))
    assert (code, err) == (1, "")


@pytest.mark.parametrize("command", ["verify", "status"])
def test_a_run_that_is_deleted_meanwhile(
    th: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It is said, and is neither damage nor an error; the others are looked at."""
    store = tmp_path / "store"
    for name in ("a", "b", "c"):
        capture(th, store, "--run-name", name)
    opened = LocalStore(store)
    look = "verify_run" if command == "verify" else "run"
    real = getattr(type(opened), look)

    def deleting(self: Any, name: str) -> Any:
        if name == "b":
            opened.delete_run("b")
        return real(self, name)

    monkeypatch.setattr(type(opened), look, deleting)
    code, out, err = th("runs", command, str(store))
    assert (code, [line[:2] for line in out.splitlines()]) == (0, ["a:", "c:"])
    assert err == "b: deleted meanwhile\n"


def test_status_and_order(th: Command, tmp_path: Path) -> None:
    """Runs are listed as people count, with how far each is."""
    store = tmp_path / "store"
    for name in ("r12", "r2", "r1"):
        capture(th, store, "--run-name", name, "--plan", "--rows-per-unit", "4")
    th("work", str(store), "r2", "--slice", "0/3")
    listed = th("runs", "list", str(store))[1]
    assert [line.split()[0] for line in listed.splitlines()] == ["r1", "r2", "r12"]
    lines = th("runs", "status", str(store))[1].splitlines()
    assert lines[0] == "r1: planned, 0 of 10 rows, 0 of 3 units, 0 B"
    assert lines[1] == "  missing: units 0-2"
    assert lines[2].startswith("r2: stopped, 4 of 10 rows, 1 of 3 units, 872 B, ")
    assert re.search(r" rows/s, last at 20\d\d-", lines[2])
    assert lines[3] == "  missing: units 1-2"
    found = json.loads(th("runs", "status", f"{store}/runs/r2/", "--json")[1])
    assert [(each["run"], each["rows_done"], each["missing"]) for each in found] == [
        ("r2", 4, [[1, 2]])
    ]
    assert th("runs", "finalize", str(store), "r2")[0] == 1
    th("runs", "resume", str(store), "r2")
    for _ in range(2):
        code, out, _ = th("runs", "finalize", str(store), "r2")
        assert (code, out) == (0, "Run r2: the run is complete, 10 rows.\n")


def test_delete(th: Command, tmp_path: Path) -> None:
    """It asks first; where nobody can be asked, it says how to go on, and deletes nothing."""
    store = tmp_path / "store"
    capture(th, store, "--run-name", "one")
    capture(th, store, "--run-name", "two")
    code, _, err = th("runs", "delete", str(store), "one")
    assert (code, "say --yes to delete run one of" in err) == (2, True)
    assert LocalStore(store).runs() == ["one", "two"]
    code, out, _ = th("runs", "delete", str(store), "one", "--yes")
    assert (code, out) == (0, f"Deleted run one of {store}, 10 rows.\n")
    assert LocalStore(store).runs() == ["two"]
    code, _, err = th("runs", "delete", str(store), "one", "--yes")
    assert (code, "No run 'one'" in err) == (2, True)


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("n\n", ["one"]), ("\n", ["one"])])
def test_delete_asks(
    th: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[str]
) -> None:
    """At a terminal, only a yes deletes."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    capture(th, tmp_path / "store", "--run-name", "one")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, _, _ = th("runs", "delete", str(tmp_path / "store"))
    assert code == (130 if left else 0)
    assert LocalStore(tmp_path / "store").runs() == left


# --- what is kept


def test_what_is_kept(th: Command, tmp_path: Path) -> None:
    """Inputs, selected tokens, int8 and buckets from the command line."""
    how = ("--inputs", "--tokens", "0,-1", "--dtype", "int8", "--bucket", "--batch-tokens", "6")
    code, out, err = capture(th, tmp_path, *how, "--writing", "thread", "--queue-bytes", "1")
    assert code == 0, err
    assert "6 rows, one for each selected token, of" in out
    assert "\n  blocks.0:input  12 x int8, with a float32 scale for each row\n" in out
    assert ":scale" not in out
    shown = th("runs", "show", str(tmp_path))[1]
    assert re.search(r"^tokens kept +0,-1 of each document$", shown, re.MULTILINE)
    assert ":scale" not in shown
    (run_id,) = LocalStore(tmp_path).runs()
    run = LocalStore(tmp_path).run(run_id)
    assert run.layers == ("blocks.0:input", "head:input")
    assert run.documents.position[:].tolist() == [0, 2, 0, 1, 0, 4]
    assert run["head:input"][:].dtype == torch.float32
    spec = run.metadata["spec"]
    assert (spec["tokens"], spec["bucket"], spec["batch_tokens"]) == ("0,-1", True, 6)
    code, out, err = th("runs", "show", str(tmp_path), "--json")
    assert json.loads(out)["int8"]["head:input"]["max_error"] > 0


def test_attention_patterns(th: Command, tmp_path: Path) -> None:
    """They are those of the bare model; without eager attention the error names the option."""
    layer = "transformer.h.1.attn:attention"
    words = ["capture", "tiny:", "--layer", layer, "--layer", "layer_1", "--data", "tiny:sample"]
    words += ["--sample-limit", "3", "--out", str(tmp_path / "store")]
    code, _, err = th(*words)
    assert (code, "add --attn-implementation eager" in err) == (2, True), err
    assert not (tmp_path / "store").exists()
    eager = (*words, "--attn-implementation", "eager", "--rows-per-unit", "200")
    assert th(*eager, "--plan")[0] == 0
    code, _, err = th("work", str(tmp_path / "store"))
    assert code == 0, err
    assert "complete already" in th(*eager)[2]
    (run_id,) = LocalStore(tmp_path / "store").runs()
    run = LocalStore(tmp_path / "store").run(run_id)
    shape = run.metadata["attention"][layer]
    bare: Any = load_model("tiny:", attn_implementation="eager")
    for document in range(3):
        rows = run.documents.rows(document)
        ids = run.tokens[rows].long()[None]
        with torch.no_grad():
            seen = bare.module(ids, output_attentions=True, output_hidden_states=True)
        expected = seen.attentions[1][0].transpose(0, 1)
        found = run[layer][rows].view(len(expected), shape["heads"], shape["keys"])
        torch.testing.assert_close(found[..., : len(expected)], expected)
        assert not found[..., len(expected) :].any()
        torch.testing.assert_close(run["layer_1"][rows], seen.hidden_states[2][0])


def test_attention_is_part_of_what_a_capture_is(th: Command, tmp_path: Path) -> None:
    """Another implementation gives other last bits, so another run; some loaders have no choice."""
    words = ["capture", "tiny:", "--layer", "layer_1", "--data", "tiny:sample"]
    words += ["--sample-limit", "2", "--out", str(tmp_path / "store")]
    assert th(*words)[0] == th(*words, "--attn-implementation", "eager")[0] == 0
    assert len(LocalStore(tmp_path / "store").runs()) == 2
    code, _, err = capture(th, tmp_path / "store", "--attn-implementation", "eager")
    assert (code, "the loader of 'words:' has no choice of attention" in err) == (2, True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_large_models(th: Command, tmp_path: Path) -> None:
    """A model that lies on the disk is the same model; its run is worked on as it was begun."""
    words = ["capture", "tiny:", "--layer", "layer_1", "--data", "tiny:sample"]
    words += ["--sample-limit", "3", "--rows-per-unit", "64", "--out", str(tmp_path / "store")]
    tmp_path.joinpath("map.json").write_text('{"": "disk"}')
    assert th(*words, "--device-map", '{"": "disk"}', "--plan")[0] == 0
    store = LocalStore(tmp_path / "store")
    (run_id,) = store.runs()
    assert store.run(run_id).metadata["recipe"]["model"]["device_map"] == {"": "disk"}
    assert th("work", str(tmp_path / "store"))[0] == 0
    assert th("runs", "reproduce", str(tmp_path / "store"))[0] == 0
    assert "complete already" in th(*words, "--device-map", str(tmp_path / "map.json"))[2]
    assert "complete already" in th(*words)[2]
    folder = tmp_path / "folder.json"
    folder.mkdir()
    for more, wanted in {
        ("--device-map", "{oops"): "is neither a word, nor JSON, nor a file of it",
        ("--tp-plan", "none.json"): "is neither a word, nor JSON, nor a file of it",
        ("--tp-plan", str(folder)): "nor a file of it: this is no file",
        ("--quantization-config", "int7"): "quantization_config='int7' is no word for one: give",
        ("--device-map", "auto", "--tp-plan", "auto"): "both say where the model goes",
    }.items():
        code, _, err = th(*words, *more)
        assert (code, wanted in " ".join(err.split())) == (2, True), err


@pytest.mark.parametrize("more", [(), ("--keep-rows",)])
def test_reduce(th: Command, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Statistics from the command line, with rows or without; the report says how to read them."""
    code, out, err = capture(th, tmp_path, "--reduce", "topk,mean", "--top-k", "2", *more)
    assert code == 0, err
    assert "  head  mean, topk" in out
    assert "blocks.0, head" in th("runs", "list", str(tmp_path))[1]
    shown = th("runs", "show", str(tmp_path))[1]
    assert re.search(r"^reduced +head  mean, topk$", shown, re.MULTILINE)
    assert ("rows = run[" in out) == bool(more)
    code_lines = [line.strip() for line in out.partition("Read it:")[2].splitlines()]
    names: dict[str, Any] = {}
    exec("\n".join(code_lines), names)
    assert names["mean"].shape == (12,)
    assert names["topk"].tokens.shape == (12, 2)
    assert len(names["tokens"]) == 10


def test_mistakes_about_what_is_kept(th: Command, tmp_path: Path) -> None:
    """They are named, and nothing is made."""
    for options, said in (
        (("--keep-rows",), "--keep-rows goes with --reduce"),
        (("--top-k", "5"), "--top-k goes with --reduce topk"),
        (("--top-k", "5", "--reduce", "mean"), "--top-k goes with --reduce topk"),
        (("--reduce", "median"), "one or more of mean, var, cov, quantiles, topk"),
        (("--tokens", "first"), "tokens='first'"),
        (("--tokens", "77"), "tokens='77' chooses no token of any document"),
        (("--tokens", "77"), "the longest has 5."),
    ):
        code, out, err = capture(th, tmp_path / "store", *options)
        assert (code in (1, 2), out) == (True, ""), err
        assert said in err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["npy", "safetensors", "datasets", "parquet", "csv", "webdataset"])
def test_export(th: Command, tmp_path: Path, kind: str) -> None:
    """A run is written as other people's files; never over what is there, unless that is asked."""
    if kind == "datasets":
        pytest.importorskip("datasets")
    store = tmp_path / "store"
    capture(th, store, "--run-name", "r", "--dtype", "float32")
    options = ["--format", kind, "--to", str(tmp_path / "out"), "--layer", "head"]
    code, out, err = th("runs", "export", str(store), *options)
    assert (code, out) == (0, f"Wrote 10 rows of run r to {tmp_path / 'out'}.\n"), err
    if kind == "npy":
        (file,) = (tmp_path / "out").glob("*head*.npy")
        rows = torch.from_numpy(np.load(file))
        assert torch.equal(rows, LocalStore(store).run("r")["head"][:])
    code, _, err = th("runs", "export", str(store), *options)
    assert (code, err.startswith("error: ")) == (2, True), err
    assert th("runs", "export", str(store), *options, "--overwrite")[0] == 0
    code, _, err = th("runs", "export", str(store), "--format", "xlsx", "--to", "x")
    known = "csv, datasets, npy, parquet, safetensors, webdataset"
    assert (code, f"exports runs as 'xlsx'. There are {known}." in err) == (2, True)


def test_export_of_a_run_without_rows_of_layers(th: Command, tmp_path: Path) -> None:
    """It says what it wrote, and where the statistics are."""
    store, out = tmp_path / "store", tmp_path / "out"
    capture(th, store, "--run-name", "r", "--reduce", "mean")
    assert th("runs", "export", str(store), "--format", "npy", "--to", str(out))[:2] == (
        0,
        f"Wrote token, document and position of 10 rows of run r to {out}. The run keeps "
        "statistics of its layers and not their rows: run.reduced reads them.\n",
    )
    assert " (mean, no rows)\n" in th("runs", "list", str(store))[1]


def test_export_of_a_part(th: Command, tmp_path: Path) -> None:
    """Of a run that is not complete the rows that can be read are written, and that is said."""
    store = tmp_path / "store"
    capture(th, store, "--plan", "--rows-per-unit", "4")
    th("work", str(store), "--slice", "0/3")
    options = ["--format", "npy", "--to", str(tmp_path / "out")]
    code, out, err = th("runs", "export", str(store), *options)
    assert (code, "Wrote 4 rows" in out) == (0, True)
    assert "warning: 2 of its 3 units are missing; 4 rows are exported." in err


def test_what_a_slice_wrote_alone(th: Command, tmp_path: Path) -> None:
    """Of a run of which only the second half is there, that is read, shown and exported."""
    store, out = tmp_path / "store", str(tmp_path / "out")
    capture(th, tmp_path / "whole", "--run-name", "r")
    capture(th, store, "--run-name", "r", "--rows-per-unit", "2", "--plan")
    th("work", str(store), "--slice", "1/2")
    run = LocalStore(store).run("r")
    whole = LocalStore(tmp_path / "whole").run("r")
    assert (len(run), list(run.ranges), run.missing) == (0, [slice(4, 10)], (0, 1))
    for layer in run.layers:
        assert torch.equal(run[layer][4:10], whole[layer][4:])
        assert torch.equal(run[layer].take([9, 4]), whole[layer][[9, 4]])
    batches = list(run.loader("head", 2, also=["rows"], missing="skip"))
    assert sorted(row for batch in batches for row in batch["rows"].tolist()) == [*range(4, 10)]
    with pytest.raises(MissingRows, match=r"Row 3 is of unit 1 of run 'r' \(rows 2 to 4\)"):
        run["head"][3]

    shown = th("runs", "show", str(store))[1]
    assert "rows                      6 of 10\nmissing                   units 0-1\n" in shown
    assert "stopped, 6 of 10 rows, 3 of 5 units" in th("runs", "status", str(store))[1]
    assert json.loads(th("runs", "list", str(store), "--json")[1])[0]["rows"] == 6
    options = ["--format", "npy", "--to", out]
    code, said, err = th("runs", "export", str(store), *options)
    assert (code, "Wrote 0 rows of run r" in said) == (0, True)
    assert "6 rows after unit 0, which is missing: left out. Export them" in err
    options += ["--missing", "skip", "--overwrite"]
    code, said, err = th("runs", "export", str(store), *options)
    assert (code, "Wrote 6 rows of run r" in said) == (0, True)
    assert err.splitlines() == ["warning: 2 of its 5 units are missing; 6 rows are exported."]
    assert np.load(tmp_path / "out" / "token.npy").tolist() == whole.tokens[4:].tolist()
    mark = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (mark["rows"], mark["missing_units"]) == ([[4, 10]], [[0, 1]])


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc"])
def test_codecs(th: Command, tmp_path: Path, codec: str) -> None:
    """Rows come back the same; the array says how they are compressed."""
    store = tmp_path / "store"
    capture(th, store, "--run-name", "plain")
    code, _, err = capture(th, store, "--run-name", "r", "--codec", codec)
    assert code == 0, err
    opened = LocalStore(store)
    assert torch.equal(opened.run("r")["head"][:], opened.run("plain")["head"][:])
    metadata = (store / "runs/r/arrays/layers/head/zarr.json").read_text()
    assert (codec in metadata) is (codec != "none")


@pytest.mark.parametrize(
    "options",
    [
        ("--inputs", "--tokens", "0,-1", "--batch-tokens", "6"),
        ("--tokens", "1:", "--long-documents", "split"),
        ("--reduce", "mean,topk", "--top-k", "2"),
        ("--reduce", "cov", "--keep-rows", "--dtype", "float32"),
        ("--dtype", "int8", "--bucket", "--codec", "zstd"),
        ("--layer", "blocks.1:input", "--sample-limit", "2"),
    ],
    ids=" ".join,
)
def test_any_plan_is_done_from_what_it_holds(
    th: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Whatever a capture is told, a process that has the run alone makes the same files."""
    shared = ("--run-name", "r", "--rows-per-unit", "4", *options)
    for name in ("planned", "whole"):
        code, _, err = capture(th, tmp_path / name, *shared, *(["--plan"] * (name == "planned")))
        assert code == 0, err
    for part in ("1/2", "0/2"):
        code, _, err = th("work", str(tmp_path / "planned"), "--slice", part)
        assert code == 0, err
    assert capture(th, tmp_path / "whole", *shared, "--dry-run")[0] == 0
    files = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.parent.name not in ("log", "sessions")
        }
        for name in ("planned", "whole")
    ]
    assert files[0] == files[1]


def test_another_process_keeps_the_same(th: Command, tmp_path: Path) -> None:
    """What is kept goes with the run: a worker that has its id alone does as it was planned."""
    kept = ("--reduce", "mean,topk", "--keep-rows", "--tokens", "1:", "--dtype", "int8")
    how = (*kept, "--bucket", "--batch-tokens", "8", "--writing", "thread", "--inputs")
    for name, more in (("planned", ("--plan",)), ("whole", ())):
        code, _out, err = capture(th, tmp_path, *how, "--run-name", name, *more)
        assert code == 0, err
    assert not LocalStore(tmp_path).run("planned").committed
    code, _, err = th("work", str(tmp_path), "planned")
    assert code == 0, err
    planned, whole = (LocalStore(tmp_path).run(name) for name in ("planned", "whole"))
    assert planned.layers == whole.layers == ("blocks.0:input", "head:input")
    for layer in whole.layers:
        assert planned[layer][:].equal(whole[layer][:])
        assert planned.reduced(layer, "mean").equal(whole.reduced(layer, "mean"))


SPEC = """
layers = ["layer_0", "head"]
documents = 2

[model]
name = "words:"

[data]
name = "words:all"

[options]
batch_size = 2
dtype = "float32"
"""


def test_a_file_says_what_to_capture(th: Command, tmp_path: Path) -> None:
    """It is the same run as that of the options; what a run holds is such a file, too."""
    spec = tmp_path / "experiment.toml"
    spec.write_text(SPEC)
    code, _, err = th("capture", str(spec), "--out", str(tmp_path / "store"))
    assert code == 0, err
    options = ("--sample-limit", "2", "--batch-size", "2", "--dtype", "float32")
    code, _, err = capture(th, tmp_path / "store", *options)
    assert (code, err) == (0, "This run was complete already; there was nothing to do.\n")
    (run,) = LocalStore(tmp_path / "store").runs()
    recipe = LocalStore(tmp_path / "store").run(run).metadata["recipe"]
    (tmp_path / "again.json").write_text(json.dumps(recipe))
    code, out, _ = th("capture", str(tmp_path / "again.json"), "--out", str(tmp_path / "other"))
    assert (code, f"Run {run} in" in out) == (0, True)


def test_a_file_of_a_format_that_a_plugin_offers(th: Command, tmp_path: Path) -> None:
    """It says what to capture, too; of another ending, the error lists those there are."""
    spec, store = tmp_path / "experiment.words", str(tmp_path / "store")
    spec.write_text(WordLines().dumps(tomllib.loads(SPEC)))
    code, out, err = th("capture", str(spec), "--out", store)
    assert (code, f"in {store}" in out) == (0, True), err

    code, out, err = th("capture", str(spec.rename(tmp_path / "experiment.word")), "--out", store)

    assert (code, out) == (2, "")
    assert "experiment.word has no ending that says its format; use one of .json, .toml, " in err
    assert ".words" in err


@pytest.mark.parametrize(
    ("change", "args", "said"),
    [
        (("layers", "layer"), (), "layer"),
        (("batch_size = 2", "batch_sise = 2"), (), "batch_sise"),
        (("batch_size = 2", "batch_size = 0"), (), "batch_size"),
        (('[data]\nname = "words:all"', ""), (), "data"),
        (("", ""), ("--layer", "head"), "leave out --layer"),
        (("documents", "= documents"), (), "is no TOML"),
    ],
    ids=str,
)
def test_a_file_that_makes_no_sense(
    th: Command, tmp_path: Path, change: tuple[str, str], args: tuple[str, ...], said: str
) -> None:
    """The error names the mistake; nothing is made."""
    spec = tmp_path / "experiment.toml"
    spec.write_text(SPEC.replace(*change, 1))
    code, out, err = th("capture", str(spec), "--out", str(tmp_path / "store"), *args)
    assert (code, out) == (2, ""), err
    assert said in err
    assert list(tmp_path.iterdir()) == [spec]
    code, _, err = th("capture", str(tmp_path / "no.toml"), "--out", str(tmp_path / "store"))
    assert (code, "No such file" in err) == (2, True), err
    code, _, err = th("capture", "words:", "--out", str(tmp_path / "store"))
    assert (code, "--layer" in err) == (2, True), err


def test_help_has_groups(th: Command) -> None:
    """Each option of `CaptureOptions` stands under its group, with its default and meaning."""
    code, out, err = th("capture", "--help")
    assert (code, err) == (0, "")
    sections = {
        name: " ".join(text.split())
        for name, text in re.findall(r"^(\w[\w ]*):\n(.*?)(?=\n\n|\n*\Z)", out, re.M | re.S)
    }
    assert [*sections] == [
        "What is captured", "Run", "Slurm", "Model", "Batches", "Rows", "Writing", "Other"
    ]  # fmt: skip
    for name, (field, about) in described(CaptureOptions).items():
        text = sections[about.group]
        assert f"--{name.replace('_', '-')} " in text
        if field.default and isinstance(field.default, str | int):
            assert f"[default: {field.default}" in text
    assert "Batches: " not in sections["Rows"]
    assert "unless it or --batch-size is given" in sections["Batches"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--reduce", "mean", "--reduce", "topk"),
            "--reduce is given 2 times and takes one value. Several go in one, with commas",
        ),
        (
            ("--dtype", "int8", "--dtype=int8", "--dtype", "int8"),
            "--dtype is given 3 times and takes one value. Give it once.",
        ),
        (("--out", "elsewhere"), "--out is given 2 times"),
    ],
    ids=["a list", "alike", "another"],
)
def test_an_option_given_twice(
    th: Command, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    """It is an error, where the first value would be lost without a word; flags may be repeated."""
    code, out, err = capture(th, tmp_path / "store", *more)
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []
    assert capture(th, tmp_path / "store", "--bucket", "--bucket")[0] == 0
    code, _, err = th("runs", "export", str(tmp_path / "store"), "--to", "a", "--to", "b")
    assert (code, "--to is given 2 times" in err) == (2, True)


# --- documents of files


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """JSON lines, compressed, with labels, an empty text and half of a surrogate pair."""
    records = [{"text": f"a b {at}", "label": at % 3} for at in range(20)]
    records += [{"text": "half \ud83d", "label": 7}, {"text": "", "label": 8}]
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in records).encode()))
    return str(path)


def test_a_bad_record_and_fields_that_are_kept(th: Command, tmp_path: Path, labelled: str) -> None:
    """It is named; or left out, counted, and part of the recipe, by which others go on."""
    store = tmp_path / "store"
    code, _, err = capture(th, store, data=labelled)
    assert (code, "data.jsonl.gz, line 21: character 5 is \\ud83d" in err) == (2, True)
    assert not store.exists()
    more = (
        "--skip-bad-records",
        "--keep-field",
        "label",
        "--run-name",
        "r",
        "--rows-per-unit",
        "7",
    )
    code, out, err = capture(th, store, *more, "--plan", data=labelled)
    assert code == 0, err
    assert "20 of 20 documents tokenized" in err
    assert th("work", str(store), "r")[0] == 0
    code, out, err = capture(th, store, *more, data=labelled)
    assert (code, "complete already" in err) == (0, True), err
    assert "Skipped: 1 record that cannot be read." in out
    assert "label = run.documents['label']" in out
    run = LocalStore(store).run("r")
    assert run.documents["label"] == [at % 3 for at in range(20)]
    assert run.metadata["documents"]["bad_records"] == [[20, 20]]
    data = run.metadata["recipe"]["data"]
    assert (data["skip_bad_records"], data["keep_fields"]) == (True, ["label"])
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(run.metadata["recipe"]))
    code, _, err = th("capture", str(recipe), "--out", str(store), "--run-name", "r")
    assert (code, "complete already" in err) == (0, True), err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sample-by", "line"), "sample_by='line' must be left out (--sample-by)"),
        (("--field", "txet"), "has no field 'txet'"),
        (("--skip-bad-records", "--keep-field", "lable"), "has no field 'lable'"),
        (("--no-special-tokens",), "no_special_tokens=True must be False"),
        (("--window-special-tokens",), "must be False unless long_documents='split'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_options_of_data_that_do_not_apply(
    th: Command, tmp_path: Path, labelled: str, more: tuple[str, ...], said: str
) -> None:
    """They are a usage error, and nothing is made."""
    both = (*more, *(() if "--field" in more else ("--skip-bad-records",)))
    code, out, err = capture(th, tmp_path / "store", *both, data=labelled)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "store").exists()


def test_a_source_that_keeps_no_fields(th: Command, tmp_path: Path) -> None:
    """A plugin that takes no such option is named."""
    code, _, err = capture(th, tmp_path / "store", "--keep-field", "label")
    assert (code, "keep_fields=('label',) must be left out: words:all is read by" in err) == (
        2,
        True,
    )


def test_a_dry_run_needs_no_store(th: Command, tmp_path: Path, monkeypatch: Any) -> None:
    """It shows how far it is on stderr, and names no place."""
    monkeypatch.chdir(tmp_path)
    words = ("capture", "words:", "--layer", "head", "--data", "words:all")
    code, out, err = th(*words, "--dry-run")
    assert code == 0, err
    assert re.match(r"Run [\w-]+ would have 10 rows, one for each token, of\n", out)
    assert "3 of 3 documents tokenized" in err
    assert "Running the first batches to measure them." in err
    found = json.loads(th(*words, "--dry-run", "--json")[1])
    assert (found["store"], found["rows"], found["shards"]) == (None, 10, 4)
    code, _, err = th(*words)
    assert (code, "Missing option '--out'" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@click.command()
@click.option("--size", type=int, default=1)
@click.option("--name", multiple=True)
def sized(size: int, name: tuple[str, ...]) -> None:
    """Say a size."""
    click.echo(f"{size} {len(name)}")


def test_an_option_given_twice_in_any_command(th: Command, monkeypatch: Any) -> None:
    """Ours, those in groups, and those that plugins add; what may be given often may be."""
    for command in (
        ("plugins", "new", "x", "--kind", "store", "--kind", "loader"),
        ("runs", "delete", "s", "--run", "a"),  # an option that there is not is told as ever
    ):
        code, _, err = th(*command)
        wanted = "--kind is given 2 times" if "new" in command else "No such option"
        assert (code, wanted in err) == (2, True), err

    class Sized:
        """A plugin with commands."""

        @hookimpl
        def tenterhook_commands(self) -> list[Extension]:
            """Declare them."""
            return [Extension(name, "here:sized", "Sizes.") for name in ("sized", "runs.sized")]

    real = Extension.load
    monkeypatch.setattr(
        Extension, "load", lambda self: sized if self.target == "here:sized" else real(self)
    )
    default_manager().register(Sized(), "sized-here")
    try:
        for start in (("sized",), ("runs", "sized")):
            assert th(*start, "--size", "2", "--name", "a", "--name", "b")[:2] == (0, "2 2\n")
            code, out, err = th(*start, "--size", "2", "--size", "3")
            assert (code, out, "--size is given 2 times and takes one value" in err) == (
                2,
                "",
                True,
            )
    finally:
        default_manager().unregister("sized-here")
