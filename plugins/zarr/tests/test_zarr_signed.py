"""Readers believe what is signed: files that are not those that were committed are told.

Each file here is whole, and is one that this store or another wrote; it stands in another's place.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_store import DamagedStore, LayerArray, RowBlock, Run, RunPlan, UnknownTensor
from tenterhook_store.testing import a_plan, rows_of, write
from tenterhook_zarr import ZarrStore
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._records import sealed

CODECS = ["none", "zstd", "blosc"]
LAYER = "arrays/layers/a"
TwoRuns = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what gives a store that is written once for each codec, to be copied."""
    folders: dict[str, Path] = {}

    def store_of(codec: str) -> Path:
        if codec not in folders:
            folders[codec] = tmp_path_factory.mktemp(codec)
            write_two(folders[codec], codec)
        return folders[codec]

    return store_of


@pytest.fixture
def two_runs(written: Callable[[str], Path]) -> TwoRuns:
    """Return what puts runs `one` and `other` into a folder, and gives the folder of `one`."""

    def copied(folder: Path, codec: str) -> Path:
        shutil.copytree(written(codec), folder, dirs_exist_ok=True)
        return folder / "runs/one"

    return copied


def write_two(folder: Path, codec: str) -> None:
    """Write runs `one` and `other` of the same plan and other rows."""
    layers = [LayerArray("a", 4, "float16"), LayerArray("b", 4, "float16")]
    for run_id, factor in (("one", 1.0), ("other", 5.0)):
        plan = RunPlan(rows=32, rows_per_unit=8, documents=1, layers=layers, codec=codec)
        writer = ZarrStore(folder).write_run(run_id, plan)
        for unit in plan.units():
            rows = torch.arange(unit.start, unit.stop)
            values = (rows[:, None] * factor).expand(-1, 4).half()
            with writer.open_unit(unit) as writing:
                block = RowBlock(
                    tokens=rows,
                    documents=rows * 0,
                    positions=rows,
                    layers={"a": values, "b": -values},
                )
                writing.append(block)
                writing.commit({})
        writer.finish()


def exchange(one: Path, other: Path) -> None:
    """Have each of two files or folders stand in the other's place."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a file of metadata, which has no checksum of its own."""
    found = json.loads(path.read_text())
    change(found)
    path.write_bytes(to_json(found))


def another_dtype(found: dict[str, Any]) -> None:
    """Say that the bits are those of another dtype of the same size."""
    found["attributes"]["torch_dtype"] = "bfloat16"


def fewer_rows(found: dict[str, Any]) -> None:
    """Say that there are fewer rows."""
    found["shape"][0] = 24


def narrower(found: dict[str, Any]) -> None:
    """Say that rows are half as wide, in every place that says how wide they are."""
    found["shape"][1] = 2
    found["chunk_grid"]["configuration"]["chunk_shape"][1] = 2
    found["codecs"][0]["configuration"]["chunk_shape"][1] = 2


def other_chunks(found: dict[str, Any]) -> None:
    """Say that chunks are half as long."""
    found["codecs"][0]["configuration"]["chunk_shape"][0] = 4


def big_endian(found: dict[str, Any]) -> None:
    """Say that the bytes of each number stand the other way round."""
    found["codecs"][0]["configuration"]["codecs"][0]["configuration"]["endian"] = "big"


def another_type(found: dict[str, Any]) -> None:
    """Say to zarr that the bits are those of whole numbers."""
    found.update(data_type="int16", fill_value=0)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another dtype": lambda run: edited(run / LAYER / "zarr.json", another_dtype),
    "fewer rows": lambda run: edited(run / LAYER / "zarr.json", fewer_rows),
    "narrower": lambda run: edited(run / LAYER / "zarr.json", narrower),
    "other chunks": lambda run: edited(run / LAYER / "zarr.json", other_chunks),
    "big endian": lambda run: edited(run / LAYER / "zarr.json", big_endian),
    "another type": lambda run: edited(run / LAYER / "zarr.json", another_type),
    "another run's shard": lambda run: shutil.copy(
        run.parent / "other" / LAYER / "c/1/0", run / LAYER / "c/1/0"
    ),
    "exchanged shards": lambda run: exchange(run / LAYER / "c/0", run / LAYER / "c/1"),
    "exchanged layers": lambda run: exchange(run / LAYER, run / "arrays/layers/b"),
    "another run's layer": lambda run: exchange(run / LAYER, run.parent / "other" / LAYER),
    "another run's plan": lambda run: (run / "plan.json").write_bytes(
        sealed({**_facts(run / "plan.json"), "spec": {"model": "another"}})
    ),
    "another unit's record": lambda run: exchange(
        run / "commits/000001.json", run / "commits/000002.json"
    ),
    "an empty record": lambda run: (run / "commits/000001.json").write_bytes(b""),
}


def _facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    found.pop("crc32c")
    return found


WAYS: dict[str, Callable[[Run], object]] = {
    "slice": lambda run: run["a"][:],
    "rows": lambda run: run["a"][[9, 3, 17, 12]],
    "loader": lambda run: list(run.loader("a", 8, buffer_rows=16, block_rows=4)),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_files_of_another_place(tmp_path: Path, two_runs: TwoRuns, codec: str, damage: str) -> None:
    """Whatever way rows are read by, those that were not committed there raise `DamagedStore`."""
    run = two_runs(tmp_path, codec)
    DAMAGE[damage](run)
    for read in WAYS.values():
        opened = ZarrStore(tmp_path).run("one")
        with pytest.raises(DamagedStore, match=r"runs/one/(arrays|commits|plan)"):
            read(opened)
    assert ZarrStore(tmp_path).verify_run("one")


def test_a_shard_that_is_exchanged_later(tmp_path: Path, two_runs: TwoRuns) -> None:
    """A file that was looked at and is another one now is looked at again."""
    run = two_runs(tmp_path, "none")
    rows = ZarrStore(tmp_path).run("one")["a"]
    assert rows[8:16].shape == (8, 4)
    shutil.copy(run.parent / "other" / LAYER / "c/1/0", run / LAYER / "c/1/0")
    with pytest.raises(DamagedStore, match=r"c/1/0: its checksums are not what was written"):
        rows[8:16]


@pytest.mark.parametrize("codec", CODECS)
def test_records_without_the_checksums_of_chunks(
    tmp_path: Path, two_runs: TwoRuns, codec: str
) -> None:
    """Records of earlier versions lack them; what they sign is compared with the file's own."""
    run = two_runs(tmp_path, codec)
    for path in (run / "commits").iterdir():
        facts = _facts(path)
        for array in facts["arrays"].values():
            for shard in array["shards"]:
                del shard["chunks"]
        path.write_bytes(sealed(facts))
    rows = ZarrStore(tmp_path).run("one")["a"]
    assert torch.equal(rows[:].float()[:, 0], torch.arange(32.0))
    assert ZarrStore(tmp_path).verify_run("one") == []
    exchange(run / LAYER / "c/0", run / LAYER / "c/1")
    with pytest.raises(DamagedStore, match=r"c/[01]/0: its ch(ecksums|unks end)"):
        ZarrStore(tmp_path).run("one")["a"][:]


def test_rows_that_nobody_wrote(tmp_path: Path) -> None:
    """A record alone has no room made for its rows."""
    plan = RunPlan(
        rows=2**40, rows_per_unit=2**30, documents=1, layers=[LayerArray("a", 128, "int8")]
    )
    ZarrStore(tmp_path).write_run("one", plan)
    (tmp_path / "runs/one/commits/000000.json").write_bytes(sealed({"unit": 0}))
    with pytest.raises(
        DamagedStore, match=r"(commits/000000.json: this is no record|c/0/0: this file is gone)"
    ):
        ZarrStore(tmp_path).run("one")["a"][: 10**9]


def test_records_of_other_names_count_for_nothing(tmp_path: Path) -> None:
    """A unit has one record of one name; what else is among the records is named by `verify`."""
    plan = a_plan()
    writer = ZarrStore(tmp_path).write_run("one", plan)
    write(writer, plan.units())
    commits = tmp_path / "runs/one/commits"
    (commits / "000002.json").rename(commits / "0000002.json")
    for name in ("000000000.json", "999999.json", f"{10**40}.json", "notes.txt"):
        (commits / name).write_bytes(b"x")
    run = ZarrStore(tmp_path).run("one")
    assert run.committed == {0, 1}
    assert run.missing == (2,)
    found = {Path(each.file).name: each.unit for each in ZarrStore(tmp_path).verify_run("one")}
    odd = {"0000002.json": None, "000000000.json": None, "999999.json": 999999, "notes.txt": None}
    assert found.items() >= odd.items()


def test_a_unit_is_not_done_because_something_has_its_name(tmp_path: Path) -> None:
    """What stands where its record belongs is read, and told of, rather than the unit dropped."""
    plan, store = a_plan(), ZarrStore(tmp_path)
    write(store.write_run("r", plan), plan.units()[:1])
    at = tmp_path / "runs/r/commits/000001.json"
    at.mkdir()
    with pytest.raises(DamagedStore, match=r"000001\.json: this is a folder and no file"):
        write(store.write_run("r", plan), [plan.unit(1)])
    at.rmdir()
    shutil.copyfile(at.with_name("000000.json"), at)
    with pytest.raises(DamagedStore, match=r"000001\.json"):
        write(store.write_run("r", plan), [plan.unit(1)])
    at.unlink()
    write(store.write_run("r", plan), [*plan.units()[1:], plan.unit(1)])  # twice is once
    run = store.run("r")
    assert run.is_complete
    assert torch.equal(run["h.0"][:], rows_of(plan, 0, plan.rows).layers["h.0"])


@pytest.mark.parametrize("array", ["../../outside/tensors/secret/ARRAY", "/ARRAY", "..", "c"])
def test_a_tensor_of_another_place(tmp_path: Path, array: str) -> None:
    """The record of a tensor names a folder beside it, and no path."""
    outside = ZarrStore(tmp_path / "outside")
    outside.save_tensor("secret", torch.ones(2))
    (theirs,) = (tmp_path / "outside/tensors/secret").glob("array-*")
    store = ZarrStore(tmp_path / "store")
    store.save_tensor("mine", torch.zeros(2))
    named = array.replace("ARRAY", theirs.name)
    facts = {
        "name": "mine",
        "array": named,
        "metadata": checksum((theirs / "zarr.json").read_bytes()),
    }
    (tmp_path / "store/tensors/mine/current.json").write_bytes(sealed(facts))
    with pytest.raises(DamagedStore, match=r"tensors/mine/current.json: this is no record of ours"):
        store.load_tensor("mine")


def test_another_tensor_under_the_name(tmp_path: Path) -> None:
    """A tensor's folder that stands in another's place is not that tensor."""
    store = ZarrStore(tmp_path)
    store.save_tensor("a", torch.ones(2))
    store.save_tensor("b", torch.zeros(2))
    os.rename(tmp_path / "tensors/a", tmp_path / "tensors/c")
    with pytest.raises(DamagedStore, match=r"c/current.json: it is of the tensor 'a'"):
        store.load_tensor("c")
    with pytest.raises(UnknownTensor, match="No tensor 'a'"):
        store.load_tensor("a")
