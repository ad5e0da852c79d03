"""`tenterhook capture` and `tenterhook runs`, from the words typed to the files on disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook import Extension, hookimpl
from tenterhook._cli import main
from tenterhook.documents import Documents
from tenterhook.plugins import default_manager
from tenterhook.store import LocalStore
from tenterhook.testing.text_models import WordModel

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


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the plugin while a test runs."""
    real = Extension.load
    here = {"here:load": load, "here:read": read}
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
    assert "10 of 10 tokens" in err
    assert "tokens/s" in err
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
    assert "batch_size is 32 there and 2 here" in err


def test_no_store(th: Command, tmp_path: Path) -> None:
    """Looking at a store that is not there is an error, and makes none."""
    for command in ("list", "show"):
        code, _, err = th("runs", command, str(tmp_path / "store"))
        assert code == 2
        assert "no such folder" in err
    assert list(tmp_path.iterdir()) == []


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
            from tenterhook._cli import main
            from tenterhook.plugins import default_manager
            from tenterhook.testing.text_models import WordModel

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
