"""Runs as the files of others: the values that were stored, whole or not there."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_store import (
    BadSetting,
    MemoryStore,
    NotCaptured,
    NotWritable,
    PlaceTaken,
    Run,
    export_folder,
    to_csv,
    to_datasets,
    to_npy,
    to_parquet,
    to_safetensors,
    to_webdataset,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write

LAYERS = [("h.0", 3, "float32"), ("h.1", 5, "bfloat16"), ("H.0", 2, "int8"), ("../x", 1, "float16")]
WRITERS: list[Any] = [to_npy, to_safetensors, to_datasets, to_parquet, to_csv, to_webdataset]

each_writer = pytest.mark.parametrize("to", WRITERS, ids=lambda to: to.__name__)


def a_run(rows: int = 50, layers: Any = LAYERS) -> Run:
    """Return a run in memory."""
    plan = a_plan(rows, 16, layers=layers)
    store = MemoryStore()
    write(store.write_run("one", plan), plan.units(), step=16)
    return store.run("one")


def expected(run: Run) -> Any:
    """Return all rows of a run."""
    return rows_of(run.plan, 0, len(run))


def test_npy(tmp_path: Path) -> None:
    """Each array is a file that numpy maps; bfloat16 is float32, with the same values."""
    run = a_run()
    folder = to_npy(run, tmp_path / "out")
    rows = expected(run)
    mark = json.loads((folder / "run.json").read_bytes())
    assert mark["metadata"]["model"] == {"name": "none"}
    for layer in run.layers:
        found = np.load(folder / mark["files"][layer], mmap_mode="r")
        assert found.tolist() == rows.layers[layer].tolist()
        assert found.dtype == {"h.1": "float32", "H.0": "int8", "../x": "float16"}.get(
            layer, "float32"
        )
    assert np.load(folder / "token.npy").tolist() == rows.tokens.tolist()
    assert np.load(folder / "document.npy").dtype == "int64"
    names = {path.name.casefold() for path in folder.iterdir()}
    assert len(names) == 4 + len(run.layers)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_npy_of_bits(tmp_path: Path) -> None:
    """With `bits`, bfloat16 is the integers of its bits."""
    run = a_run()
    folder = to_npy(run, tmp_path / "out", layers=["h.1"], bfloat16="bits")
    found = np.load(folder / "layer-000-h.1.npy")
    assert found.dtype == "uint16"
    assert same_bits(torch.from_numpy(found).view(torch.bfloat16), expected(run).layers["h.1"])


@pytest.mark.parametrize("file_bytes", [1, 500, 10**9])
def test_safetensors(tmp_path: Path, file_bytes: int) -> None:
    """Files of some rows each, which the library reads, bit for bit."""
    from safetensors import safe_open

    run = a_run()
    folder = to_safetensors(run, tmp_path / "out", file_bytes=file_bytes)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == {1: 50, 500: 5, 10**9: 1}[file_bytes]
    parts: dict[str, list[Tensor]] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no dict
                parts.setdefault(name, []).append(file.get_tensor(name))
            first, last = map(int, file.metadata()["rows"].split(":"))
            assert json.loads((folder / "run.json").read_bytes())["files"][path.name] == [
                first,
                last,
            ]
        assert file_bytes < 500 or path.stat().st_size < file_bytes + 1000
    rows = expected(run)
    for layer in run.layers:
        assert same_bits(torch.cat(parts[layer]), rows.layers[layer])
    assert torch.cat(parts["document"]).tolist() == rows.documents.tolist()


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    features=st.integers(1, 4),
    dtype=st.sampled_from(["float64", "float32", "bfloat16", "float8_e5m2", "uint16", "bool"]),
    file_bytes=st.integers(1, 900),
)
def test_safetensors_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    features: int,
    dtype: str,
    file_bytes: int,
) -> None:
    """Whatever the width, the dtype and the size of files, the bits are the same."""
    from safetensors.torch import load_file

    run = a_run(rows, [("h", features, dtype)])
    folder = tmp_path_factory.mktemp("exports") / "out"
    to_safetensors(run, folder, file_bytes=file_bytes)
    parts = [load_file(path)["h"] for path in sorted(folder.glob("*.safetensors"))]
    bits = [part.view(torch.uint8) for part in parts]
    assert torch.equal(torch.cat(bits), expected(run).layers["h"].view(torch.uint8))


def test_datasets(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A data set of Hugging Face, which other processes load from the folder."""
    datasets = pytest.importorskip("datasets")
    run = a_run(3000)
    rows = expected(run)
    for found in (to_datasets(run, tmp_path / "out"), datasets.load_from_disk(tmp_path / "out")):
        assert found.column_names == ["token", "document", "position", *run.layers]
        assert len(found) == 3000
        some = found.with_format("torch")[2000:2300]
        for layer in run.layers:
            assert torch.equal(some[layer].float(), rows.layers[layer][2000:2300].float())
        assert found[7]["token"] == 49
    assert str(found.features["h.1"].feature.dtype) == "float32"
    assert capfd.readouterr() == ("", "")


OVERLAY = """
import sys
import pyarrow
from tenterhook_store import MemoryStore, to_datasets
from tenterhook_store.testing import a_plan, write

assert pyarrow.__file__.startswith(sys.argv[1])
plan, store = a_plan(), MemoryStore()
write(store.write_run("one", plan), plan.units())
print(len(to_datasets(store.run("one"), sys.argv[2])))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_datasets_where_packages_are_in_a_folder_of_their_own(tmp_path: Path) -> None:
    """As `pip install --target` lays them; there dill pickles modules by value, which fails."""
    overlay = tmp_path / "packages"
    overlay.mkdir()
    for name in ("datasets", "dill", "pyarrow"):
        found = Path(pytest.importorskip(name).__file__).parent
        (overlay / name).symlink_to(found, target_is_directory=True)
    words = [sys.executable, "-c", OVERLAY, str(overlay), str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(overlay)}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.stdout == "20\n", done.stderr


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group has some rows; bfloat16 is float32, float16 stays, and integers too."""
    parquet = pytest.importorskip("pyarrow.parquet")
    from tenterhook_store.exports import parquet as writing

    monkeypatch.setattr(writing, "MOST_ROWS", 16)
    run = a_run()
    path = to_parquet(run, tmp_path / "out")
    assert path == tmp_path / "out/rows.parquet"
    found, rows = parquet.ParquetFile(path), expected(run)
    assert found.num_row_groups == 4
    types = {field.name: field.type for field in found.schema_arrow}
    assert [str(types[name]) for name in ("token", "document", "position")] == [
        "int32",
        "int64",
        "int32",
    ]
    widths = {name: kind.value_type for name, kind in types.items() if name in run.layers}
    assert [str(widths[name]) for name in run.layers] == ["float", "float", "int8", "halffloat"]
    table = found.read()
    for layer in run.layers:
        values = torch.tensor(table[layer].to_pylist()).double()
        assert torch.equal(values, rows.layers[layer].double())
    assert table["token"].to_pylist() == rows.tokens.tolist()
    assert table["document"].to_pylist() == rows.documents.tolist()


def test_csv(tmp_path: Path) -> None:
    """A column for each feature; each number reads as the float that was written."""
    pytest.importorskip("pyarrow")
    layers = [("h.0", 3, "float32"), ("a,b", 2, "bfloat16"), ("x", 1, "float16"), ("i", 1, "int8")]
    plan, store = a_plan(3, 3, layers=layers), MemoryStore()
    block = rows_of(plan, 0, 3)
    block.layers["h.0"][:] = torch.tensor([[1 / 3, -0.0, 1e-40], [3e38, torch.nan, 2.0], [1, 2, 3]])
    with store.write_run("one", plan).open_unit(plan.unit(0)) as writing:
        writing.append(block)
        writing.commit({})
    path = to_csv(store.run("one"), tmp_path / "out")
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    first = ["token", "document", "position", "h.0[0]", "h.0[1]", "h.0[2]"]
    assert lines[0] == [*first, "a,b[0]", "a,b[1]", "x[0]", "i[0]"]
    assert [line[:3] for line in lines[1:]] == [["0", "0", "0"], ["7", "0", "1"], ["14", "0", "2"]]
    found = torch.tensor([[float(each) for each in line[3:6]] for line in lines[1:]])
    assert same_bits(found.float(), block.layers["h.0"])
    assert [float(line[6]) for line in lines[1:]] == block.layers["a,b"][:, 0].tolist()


def samples(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Return the samples of tar files as WebDataset groups them: keys, and files by ending."""
    found: list[tuple[str, dict[str, bytes]]] = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                key, _, ending = member.name.partition(".")
                if not found or found[-1][0] != key:
                    found.append((key, {}))
                found[-1][1][ending] = file.read()
    return found


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 2**30])
def test_webdataset(tmp_path: Path, shard_bytes: int) -> None:
    """A sample for each document, in one of the files, with all that the run has of it."""
    run = a_run()
    folder = to_webdataset(run, tmp_path / "out", shard_bytes=shard_bytes)
    mark = json.loads((folder / "run.json").read_bytes())
    documents = run.documents.index[:]
    numbers = sorted({*documents.tolist()})
    found = samples(folder)
    assert [key for key, _ in found] == [f"{number:09d}" for number in numbers]
    for number, (_, files) in zip(numbers, found, strict=True):
        rows = (documents == number).nonzero().flatten()
        about = json.loads(files["json"])
        assert (about["document"], about["run"]) == (number, "one")
        assert about["rows"] == [[int(rows[0]), int(rows[-1]) + 1]]
        assert np.load(io.BytesIO(files["token.npy"])).tolist() == run.tokens[rows].tolist()
        for layer in run.layers:
            array = torch.from_numpy(np.load(io.BytesIO(files[mark["files"][layer]])))
            assert same_bits(array.to(run[layer].dtype), run[layer][rows]), layer
    shards = {1: len(numbers), 2**30: 1}.get(shard_bytes)
    assert shards is None or len(mark["shards"]) == shards
    assert [*mark["shards"]] == sorted(path.name for path in folder.glob("*.tar"))
    ranges = [*mark["shards"].values()]
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[-1][1] == 50
    again = to_webdataset(run, tmp_path / "again", shard_bytes=shard_bytes)
    for shard in mark["shards"]:
        assert (again / shard).read_bytes() == (folder / shard).read_bytes()


def test_webdataset_of_a_run_that_lacks_a_unit(tmp_path: Path) -> None:
    """A document that lacks some of its rows is the others, and says which those are."""
    plan, store = a_plan(50, 16), MemoryStore()
    write(store.write_run("one", plan), [plan.unit(0), plan.unit(2)], step=16)
    run = store.run("one")
    found = samples(to_webdataset(run, tmp_path / "out", missing="skip"))
    rows = [range(*each) for _, files in found for each in json.loads(files["json"])["rows"]]
    assert [row for each in rows for row in each] == [*range(16), *range(32, 48)]


@each_writer
def test_nothing_is_overwritten_unasked(tmp_path: Path, to: Any) -> None:
    """A folder that holds something is left as it is; an export can be replaced on request."""
    run = a_run()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "work.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(PlaceTaken, match="something else is there") as caught:
            to(run, mine, overwrite=overwrite)
        assert isinstance(caught.value, FileExistsError)
    assert [path.name for path in mine.iterdir()] == ["work.txt"]
    if os.name == "posix":  # nor is a pipe waited for, that stands where an export says what it is
        (tmp_path / "pipe").mkdir()
        os.mkfifo(tmp_path / "pipe" / "run.json")
        with pytest.raises(PlaceTaken, match="something else is there"):
            to(run, tmp_path / "pipe", overwrite=True)
        shutil.rmtree(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PlaceTaken, match="links in a circle are there"):
        to(run, tmp_path / "loop")
    (tmp_path / "loop").unlink()
    (tmp_path / "empty").mkdir()
    to(run, tmp_path / "empty", layers=["h.0"])
    before = {path.name for path in (tmp_path / "empty").iterdir()}
    with pytest.raises(PlaceTaken, match="overwrite=True, --overwrite"):
        to(run, tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == before
    to(run, tmp_path / "empty", overwrite=True)
    mark = json.loads((tmp_path / "empty/run.json").read_bytes())
    assert mark["kind"] == to.__name__.removeprefix("to_")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


@each_writer
def test_stopped_in_the_middle(tmp_path: Path, to: Any) -> None:
    """Where writing ends early, nothing is there, and what was there before still is."""
    run = a_run()
    to(run, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def stop(done: int, total: int) -> None:
        assert 0 < done <= total == 50 * 7
        raise KeyboardInterrupt

    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            to(run, tmp_path / name, progress=stop, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


@each_writer
def test_progress(tmp_path: Path, to: Any) -> None:
    """It counts the rows of all arrays."""
    steps: list[tuple[int, int]] = []
    to(a_run(), tmp_path / "out", layers="h.0", progress=lambda *step: steps.append(step))
    assert steps[-1] == (200, 200)
    assert steps == sorted(steps)


@each_writer
def test_mistakes(tmp_path: Path, to: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are not there or have a name with a meaning, and packages that are missing."""
    with pytest.raises(NotCaptured):
        to(a_run(), tmp_path / "out", layers=["h.9"])
    with pytest.raises(BadSetting, match="layers='token' must be another name"):
        to(a_run(layers=[("token", 1, "float32")]), tmp_path / "out")
    needed = {to_datasets: "datasets", to_parquet: "pyarrow", to_csv: "pyarrow"}.get(to, "numpy")
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(ImportError, match=f"pip install {needed}"):
        to(a_run(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    """Values that are none of the valid ones are named with these."""
    run = a_run()
    with pytest.raises(BadSetting, match="bfloat16='half' must be 'float32' or 'bits'"):
        to_npy(run, tmp_path / "out", bfloat16="half")  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="file_bytes=0 must be a whole number, 1 or more"):
        to_safetensors(run, tmp_path / "out", file_bytes=0)
    with pytest.raises(BadSetting, match="shard_bytes=0 must be a whole number, 1 or more"):
        to_webdataset(run, tmp_path / "out", shard_bytes=0)
    with pytest.raises(BadSetting, match="bfloat16='half' must be 'float32' or 'bits'"):
        to_webdataset(run, tmp_path / "out", bfloat16="half")  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="layers='h' must be of a dtype of float64"):
        to_safetensors(a_run(layers=[("h", 1, "complex128")]), tmp_path / "out")
    for to in (to_datasets, to_parquet, to_csv):
        with pytest.raises(BadSetting, match="of real numbers"):
            to(a_run(layers=[("h", 1, "complex64")]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@each_writer
def test_place_that_is_a_link(tmp_path: Path, to: Any) -> None:
    """A link to a folder stays one, and the export is in the folder that it leads to."""
    (tmp_path / "large-disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "large-disk", target_is_directory=True)
    to(a_run(), link)
    assert link.is_symlink()
    assert (tmp_path / "large-disk/run.json").is_file()


@each_writer
def test_disk_that_fills_up(full_disk: Path, to: Any) -> None:
    """The error names the folder and the way out, and nothing is left of the export."""
    run = a_run(3000, [("h.0", 100, "float32")])
    with pytest.raises(NotWritable, match=r"disk/out: it cannot be written .No space.*make room"):
        to(run, full_disk / "out")
    assert list(full_disk.iterdir()) == []
    with pytest.raises(PlaceTaken, match="a file system is mounted there; choose a folder in it"):
        to(run, full_disk)
    to(a_run(), full_disk / "out")


KILLED = """
import os, sys, time
import torch
from tenterhook_store import export_folder
from tenterhook_store.exports import folder as exports, replacing
from tenterhook_store import MemoryStore
from tenterhook_store.testing import a_plan, write

where, moment = sys.argv[1:]
replacing._RENAME = None if moment == "swapped" else replacing._RENAME
real = exports.replace_folder

def last(new, place, aside):
    if moment == "swapped":
        place.rename(aside)
    elif moment == "after":
        real(new, place, aside)
    os.kill(os.getpid(), 9)

exports.replace_folder = last
store, plan = MemoryStore(), a_plan()
write(store.write_run("one", plan), plan.units())
run = store.run("one")
with export_folder(where, run, run.ranges, "npy", overwrite=True) as made:
    (made.path / "x").write_bytes(b"new")
    if moment == "writing":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("moment", ["writing", "before", "swapped", "after"])
def test_killed_in_an_export(tmp_path: Path, moment: str) -> None:
    """The old export is there, or the new one; the next export removes what was left."""
    run, place = a_run(), tmp_path / "out"
    with export_folder(place, run, run.ranges, "npy") as made:
        (made.path / "x").write_bytes(b"old")
    words = [sys.executable, "-c", KILLED, str(place), moment]
    assert subprocess.run(words).returncode == -9
    if moment != "swapped":  # what another system does, which cannot exchange names
        assert (place / "x").read_bytes() == (b"new" if moment == "after" else b"old")
    with pytest.raises(PlaceTaken, match="exported to it before"):
        to_npy(run, place)
    assert (place / "x").read_bytes() == (b"new" if moment == "after" else b"old")
    assert os.listdir(tmp_path) == ["out"]


def test_an_export_is_of_the_process_alone_until_it_is_whole(tmp_path: Path) -> None:
    """Nobody else may look at what is being written; what is written has the usual rights."""
    run = a_run()
    with export_folder(tmp_path / "out", run, run.ranges, "npy") as made:
        assert made.path.parent.stat().st_mode & 0o777 == 0o700
        made.path.joinpath("x").touch()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
