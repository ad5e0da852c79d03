"""The zarr store's folder: what is in it, where it may be, and what damage is noticed."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import tenterhook_store
from tenterhook.plugins import default_manager
from tenterhook_capture import save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import (
    DamagedStore,
    LayerArray,
    LocalStore,
    NoStore,
    NotAStore,
    NotWritable,
    RunPlan,
    Store,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore, plugin

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Have the plugin registered, whether or not it is installed."""
    manager = default_manager()
    if "ZarrStore" in manager.extensions("stores"):
        yield
        return
    manager.register(plugin, "zarr-here")
    yield
    manager.unregister("zarr-here")


def written(path: Path, plan: RunPlan | None = None) -> Path:
    """Write a small run, and return its folder."""
    plan = plan or a_plan()
    writer = ZarrStore(path).write_run("one", plan)
    write(writer, plan.units())
    writer.finish()
    return path / "runs" / "one"


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file but for those that say when."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name not in ("log", "sessions")
    }


# --- the format


def test_run_is_plain_zarr(tmp_path: Path) -> None:
    """Someone with zarr and no tenterhook reads a run: arrays, attributes, all rows."""
    plan = a_plan()
    run = written(tmp_path / "store", plan)
    group: Any = zarr.open_group(run / "arrays", mode="r")
    array: Any = group["layers/h.0"]
    expected = rows_of(plan, 0, plan.rows)
    assert array.shape == (20, 3)
    assert array.attrs.asdict() == {"layer": "h.0", "torch_dtype": "float32"}
    assert array[...].tolist() == expected.layers["h.0"].tolist()
    bits: Any = group["layers/h.1"]
    assert bits.dtype == "uint16"
    assert bits.attrs["torch_dtype"] == "bfloat16"
    assert torch.equal(torch.from_numpy(bits[...]).view(torch.bfloat16), expected.layers["h.1"])
    assert group["rows/token"][...].tolist() == expected.tokens.tolist()
    assert sorted(dict(group.groups())) == ["layers", "rows"]
    assert sorted(dict(group["layers"].arrays())) == ["h.0", "h.1"]
    assert json.loads((run / "plan.json").read_bytes())["rows"] == 20


def test_zarr_would_write_the_same_bytes(tmp_path: Path) -> None:
    """A shard is, to the byte, what zarr's own sharding codec writes."""
    plan = a_plan(rows=16, rows_per_unit=8, layers=[("h", 4, "float32")])
    ours = written(tmp_path / "store", plan) / "arrays" / "layers" / "h"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "zarr.json").write_bytes((ours / "zarr.json").read_bytes())
    array: Any = zarr.open_array(theirs, mode="r+")
    array[...] = rows_of(plan, 0, 16).layers["h"].numpy()
    for shard in ("c/0/0", "c/1/0"):
        assert (ours / shard).read_bytes() == (theirs / shard).read_bytes()


def test_rows_that_are_missing_are_loud(tmp_path: Path) -> None:
    """To plain zarr, rows of units that are not committed are NaN, or -1."""
    plan = a_plan()
    write(ZarrStore(tmp_path).write_run("one", plan), plan.units()[:1])
    group: Any = zarr.open_group(tmp_path / "runs/one/arrays", mode="r")
    assert np.isnan(group["layers/h.0"][8:]).all()
    assert set(group["rows/token"][8:].tolist()) == {-1}
    bits: Any = group["layers/h.1"]
    assert torch.from_numpy(bits[8:]).view(torch.bfloat16).isnan().all()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    rows_per_unit=st.integers(1, 33),
    step=st.integers(1, 40),
    features=st.integers(1, 5),
    dtype=st.sampled_from(["float32", "bfloat16", "float16", "float64", "int8", "float8_e5m2"]),
)
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    rows_per_unit: int,
    step: int,
    features: int,
    dtype: str,
) -> None:
    """Whatever the sizes of units and of the blocks they are written in, rows come back."""
    plan = a_plan(rows, rows_per_unit, layers=[("h", features, dtype)])
    store = ZarrStore(tmp_path_factory.mktemp("stores"))
    write(store.write_run("one", plan), plan.units(), step=step)
    assert same_bits(store.run("one")["h"][:], rows_of(plan, 0, rows).layers["h"])


def test_large_units_are_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit larger than a shard may be is cut into several; the last may be part of one."""
    monkeypatch.setattr("tenterhook_zarr._layout.SHARD_BYTES", 4096)
    monkeypatch.setattr("tenterhook_zarr._layout.CHUNK_ROWS", 16)
    plan = a_plan(300, 128, layers=[("h", 8, "float32")])
    run = written(tmp_path / "store", plan)
    assert len(list((run / "arrays/layers/h/c").glob("*/0"))) == 3
    sizes = {path.stat().st_size for path in (run / "arrays/layers/h/c").glob("*/0")}
    assert max(sizes) <= 4096 + 8 * 20 + 4
    assert same_bits(
        ZarrStore(tmp_path / "store").run("one")["h"][100:299],
        rows_of(plan, 100, 299).layers["h"],
    )


def test_nothing_is_left_but_what_counts(tmp_path: Path) -> None:
    """A finished run has no temporary files, and every file is one the format has."""
    run = written(tmp_path / "store")
    names = {path.relative_to(run).parts[0] for path in run.rglob("*")}
    assert names == {"plan.json", "arrays", "attributes", "commits", "kept", "log", "sessions"}
    record = json.loads((run / "commits/000002.json").read_bytes())
    assert record["rows"] == [16, 20]
    path = run / "arrays/layers/h.0/c/2/0"
    assert record["arrays"]["layers/h.0"]["shards"] == [
        {"shard": 2, "bytes": path.stat().st_size, "crc32c": ANY, "chunks": ANY}
    ]


def test_tensor_is_plain_zarr(tmp_path: Path) -> None:
    """A tensor is a zarr array; replacing it leaves one."""
    store = ZarrStore(tmp_path / "store")
    store.save_tensor("a/b", torch.zeros(2))
    store.save_tensor("a/b", torch.arange(6.0).reshape(2, 3))
    (current,) = (tmp_path / "store/tensors").glob("*/current.json")
    (array,) = current.parent.glob("array-*")
    assert json.loads(current.read_bytes()) == {
        "name": "a/b",
        "array": array.name,
        "metadata": ANY,
        "crc32c": ANY,
    }
    found: Any = zarr.open_array(array, mode="r")
    assert found[...].tolist() == [[0, 1, 2], [3, 4, 5]]


# --- captures into it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stopped_and_resumed_is_the_same_to_the_byte(tmp_path: Path, dtype: torch.dtype) -> None:
    """A run that raised in the middle and was resumed has the files of one that did not."""

    def capture(folder: str, **settings: Any) -> str:
        return save_activations(
            WordModel(dtype=dtype),
            ["blocks.0", "head"],
            TEXTS,
            ZarrStore(tmp_path / folder),
            batch_size=2,
            rows_per_unit=4,
            **settings,
        )

    def stop(progress: Any) -> None:
        if progress.rows > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture("stopped", progress=stop)
    run_id = capture("stopped")
    assert capture("whole") == run_id
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    capture("stopped")
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    run = ZarrStore(tmp_path / "whole").run(run_id)
    assert run["blocks.0"].dtype is dtype


def test_two_captures_at_once(tmp_path: Path) -> None:
    """Two processes with the same command write one whole run."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from tenterhook_capture import save_activations\n"
        "from tenterhook_capture.testing.text_models import WordModel\n"
        "from tenterhook_zarr import ZarrStore\n"
        "texts = [f'a{i} b c d' for i in range(60)]\n"
        "save_activations(WordModel(), 'head', texts, ZarrStore(sys.argv[1]), run_name='one',"
        " batch_size=2, rows_per_unit=12)\n"
    )
    folder = str(tmp_path / "store")
    both = [subprocess.Popen([sys.executable, "-c", code, folder]) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    run = ZarrStore(folder).run("one")
    assert run.is_complete
    whole = ZarrStore(tmp_path / "whole")
    texts = [f"a{i} b c d" for i in range(60)]
    save_activations(
        WordModel(), "head", texts, whole, run_name="one", batch_size=2, rows_per_unit=12
    )
    torch.testing.assert_close(run["head"][:], whole.run("one")["head"][:])
    assert not (tmp_path / "store/runs/one/.writing").exists()


# --- where it may be


def test_default_store(tmp_path: Path) -> None:
    """`LocalStore` is the zarr store, and `tenterhook_store` hands it out."""
    store = LocalStore(tmp_path / "store")
    assert isinstance(store, ZarrStore)
    assert isinstance(store, Store)
    assert tenterhook_store.ZarrStore is ZarrStore


def test_opening_and_reading_make_nothing(tmp_path: Path) -> None:
    """A store is made with the first thing that is kept."""
    store = LocalStore(tmp_path / "a" / "b")
    assert (store.runs(), store.list_tensors()) == ([], [])
    store.check_writable()
    assert list(tmp_path.iterdir()) == []
    store.save_tensor("x", torch.ones(1))
    assert LocalStore(tmp_path / "a" / "b", create=False).list_tensors() == ["x"]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Opening, listing and reading leave every file as it was."""
    written(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    run = ZarrStore(tmp_path, create=False).run("one")
    assert len(run["h.0"][:]) == 20
    assert run.metadata
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_place_that_holds_something_else(tmp_path: Path) -> None:
    """A folder with other files, a file, and a place below a file are no stores."""
    (tmp_path / "file").write_text("x")
    for place, match in [
        (tmp_path, "holds something else"),
        (tmp_path / "file", "this is no folder"),
        (tmp_path / "file" / "below", "this is no folder"),
    ]:
        with pytest.raises(NotAStore, match=match) as caught:
            ZarrStore(place)
        assert isinstance(caught.value, FileExistsError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("ftp://x/y", "no store is kept at ftp://"),
        ("s3:x/y", "write s3://x/y, or ./s3:x/y for a folder of that name"),
        ("x" * 300, "too long"),
    ],
    ids=ascii,
)
def test_place_that_cannot_be(path: str, match: str) -> None:
    """Paths that no folder can have are errors."""
    with pytest.raises(NotAStore, match=match):
        ZarrStore(path)


def test_no_store_where_one_must_be(tmp_path: Path) -> None:
    """With `create=False` a store must be there."""
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoStore, match=r"no such folder|empty"):
            ZarrStore(place, create=False)


def test_store_of_a_later_version(tmp_path: Path) -> None:
    """A store of a format that is not known is not touched."""
    ZarrStore(tmp_path).save_tensor("x", torch.ones(1))
    (tmp_path / "tenterhook.json").write_text('{"format": "tenterhook store", "version": 99}')
    with pytest.raises(NotAStore, match="format 99"):
        ZarrStore(tmp_path)
    (tmp_path / "tenterhook.json").write_text("[]")
    with pytest.raises(NotAStore, match="is not one of a store"):
        ZarrStore(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_place_that_cannot_be_written() -> None:
    """Where no folder can be made, nothing can be kept; that is said at once."""
    store = ZarrStore("/proc/tenterhook/store")
    for attempt in (
        store.check_writable,
        lambda: store.save_tensor("x", torch.ones(1)),
        lambda: store.write_run("x", a_plan()),
    ):
        with pytest.raises(NotWritable, match="nothing can be written there") as caught:
            attempt()
        assert isinstance(caught.value, PermissionError)


def test_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where beginning the first run fails, the folders made for it are gone again."""

    def full(*_: Any) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tenterhook_zarr._files.write_once", full)
    with pytest.raises(NotWritable, match="No space left"):
        ZarrStore(tmp_path / "a" / "store").write_run("one", a_plan())
    assert list(tmp_path.iterdir()) == []


def test_dtype_that_cannot_be_kept(tmp_path: Path) -> None:
    """It is refused before anything is made."""
    store = ZarrStore(tmp_path / "store")
    with pytest.raises(TypeError, match="keeps no float8_e8m0fnu"):
        store.save_tensor("x", torch.empty(1, dtype=torch.float8_e8m0fnu))
    with pytest.raises(TypeError, match=r"sparse_coo tensors\. Make it dense"):
        store.save_tensor("x", torch.ones(1).to_sparse())
    with pytest.raises(TypeError, match="keeps no complex32"):
        store.write_run("x", a_plan(layers=[("h", 1, "complex32")]))
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in a unit is an error; what is committed stays, and a resumed run is
    whole."""
    plan = a_plan()
    store = ZarrStore(tmp_path)
    writer = store.write_run("one", plan)
    write(writer, plan.units()[:1])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(writer, plan.units()[1:])
    assert len(store.run("one")) == 8
    write(store.write_run("one", plan), plan.units()[1:])
    writer.finish()
    assert hashes(tmp_path) == hashes(written(tmp_path.parent / "whole").parent.parent)


# --- damage


def test_flipped_byte(tmp_path: Path) -> None:
    """Any byte of a shard that is not what was written is noticed by the checksum."""
    run = written(tmp_path)
    path = run / "arrays/layers/h.0/c/1/0"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    opened = ZarrStore(tmp_path).run("one")["h.0"]
    with pytest.raises(DamagedStore, match=r"layers/h\.0"):
        opened[8:16]
    assert len(opened[:8]) == 8


@pytest.mark.parametrize("keep", [None, 0, 50])
def test_shard_that_is_gone_or_cut(tmp_path: Path, keep: int | None) -> None:
    """A shard that is not there, or is too short, is an error that names it, and no zeros."""
    path = written(tmp_path) / "arrays/layers/h.0/c/1/0"
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, keep)
    with pytest.raises(DamagedStore, match=r"c/1/0: this file (is gone|has)"):
        ZarrStore(tmp_path).run("one")["h.0"][10]


def test_metadata_that_is_damaged(tmp_path: Path) -> None:
    """Files of metadata that are not ours are named."""
    run = written(tmp_path)
    (run / "arrays/layers/h.0/zarr.json").write_text("{}")
    with pytest.raises(DamagedStore, match=r"h\.0/zarr\.json"):
        ZarrStore(tmp_path).run("one")["h.0"][0]
    (run / "plan.json").write_text('{"rows": 3}')
    with pytest.raises(DamagedStore, match=r"plan\.json"):
        ZarrStore(tmp_path).run("one")


def test_tensor_that_is_damaged(tmp_path: Path) -> None:
    """A tensor whose bytes were changed, or are gone, is an error."""
    store = ZarrStore(tmp_path)
    store.save_tensor("x", torch.ones(4))
    (chunk,) = tmp_path.glob("tensors/x/array-*/c/0")
    chunk.write_bytes(b"\1" + chunk.read_bytes()[1:])
    with pytest.raises(DamagedStore):
        store.load_tensor("x")
    chunk.unlink()
    with pytest.raises(DamagedStore, match="gone"):
        store.load_tensor("x")


def test_a_notebook_shows_the_runs(tmp_path: Path) -> None:
    """With their rows, from their plans."""
    written(tmp_path)
    store = ZarrStore(tmp_path)
    (run_id,) = store.runs()

    markup = store._repr_html_()
    assert "1 runs" in markup
    assert f"<td>{run_id}</td><td>{len(store.run(run_id)):,}</td>" in markup


# --- imports


def test_imports_are_light() -> None:
    """Importing the package, its plugin and `tenterhook_store` imports neither zarr nor torch."""
    code = (
        "import sys, tenterhook_store, tenterhook_zarr.plugin;"
        "assert not {'torch', 'zarr', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plan_round_trips() -> None:
    """A plan comes back from JSON as it was; a key too many is an error that names it."""
    plan = a_plan()
    assert RunPlan.from_json(plan.to_json()) == plan
    with pytest.raises(ValueError, match="colour"):
        RunPlan.from_json(plan.to_json().replace('"rows":', '"colour": 1, "rows":'))
    assert hash(LayerArray("h", 1, "float32"))
