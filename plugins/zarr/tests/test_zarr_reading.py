"""Reading a run of the zarr store: any rows, by any way, and what damage is noticed."""

import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_store import DamagedStore, RunPlan
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore

DTYPES = ["float32", "bfloat16", "float16", "float64", "int8", "uint16", "float8_e5m2", "bool"]


def written(path: Path, plan: RunPlan) -> Path:
    """Write a run; return its folder."""
    writer = ZarrStore(path).write_run("one", plan)
    write(writer, plan.units(), step=61)
    writer.finish()
    return path / "runs/one"


def large_plan() -> RunPlan:
    """Return a plan of several chunks a shard, and several shards."""
    return a_plan(2500, 1024, layers=[("h", 6, "float32")])


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_rows_of_any_run(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever the sizes of units, chunks and shards and the dtype: any rows are what they were."""
    per_unit = data.draw(st.sampled_from([1, 5, 64, 200, 256, 512, 651, 768]), "rows_per_unit")
    rows = data.draw(st.integers(1, 3 * per_unit), "rows")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    plan = a_plan(rows, per_unit, layers=[("h", data.draw(st.integers(1, 5)), dtype)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenterhook_zarr._layout.SHARD_BYTES", 2048)
        folder = tmp_path_factory.mktemp("store")
        writer = ZarrStore(folder).write_run("one", plan)
        write(writer, plan.units(), step=97)
    run = ZarrStore(folder).run("one")
    expected = rows_of(plan, 0, rows)
    some = data.draw(st.lists(st.integers(-rows, rows - 1), max_size=40), "some")
    part = data.draw(st.slices(rows), "part")
    check = data.draw(st.booleans(), "check")
    one, number = expected.layers["h"], expected.tokens
    bits = one.contiguous().view(torch.uint8)
    some_bits = bits[torch.tensor(some, dtype=torch.int64)]
    assert torch.equal(run["h"].take(some, check=check).view(torch.uint8), some_bits)
    assert torch.equal(run["h"][some].view(torch.uint8), some_bits)
    picked = torch.arange(rows)[list(range(*part.indices(rows)))]
    assert torch.equal(run["h"][part].contiguous().view(torch.uint8), bits[picked])
    assert run.tokens[some].tolist() == number[some].tolist()
    shutil.rmtree(folder)


def test_zarr_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shards are not read directly, zarr reads the same rows, in every way."""
    plan = large_plan()
    written(tmp_path, plan)
    direct = ZarrStore(tmp_path).run("one")["h"]
    monkeypatch.setattr("tenterhook_zarr._arrays.is_plain", lambda _: False)
    by_zarr = ZarrStore(tmp_path).run("one")["h"]
    for key in (slice(1000, 2100), [2499, 0, 0, 1024, -3], 7, slice(None, None, 100)):
        assert same_bits(by_zarr[key], direct[key])


def test_rows_are_in_memory_of_their_own(tmp_path: Path) -> None:
    """What is read holds no more memory than its rows, and is no part of a map."""
    written(tmp_path, large_plan())
    rows = ZarrStore(tmp_path).run("one")["h"]
    for found in (rows[3], rows[250:260], rows[[5, 1]]):
        assert found.untyped_storage().nbytes() % (6 * 4) == 0
        assert found.untyped_storage().nbytes() <= 10 * 6 * 4
        found.fill_(-1)
    assert rows[3].min() >= 0


# Chunks of 256 rows of 24 bytes, each with 4 of checksum; the index of 4 entries is at the end.
CHUNK = 256 * 24 + 4


@pytest.mark.parametrize("check", ["slice", "rows"])
@pytest.mark.parametrize(
    "at", [0, 256 * 24 + 1, CHUNK + 100, 4 * CHUNK + 3, -1], ids=lambda at: f"byte {at}"
)
def test_flipped_bit(tmp_path: Path, at: int, check: str) -> None:
    """A changed bit of a chunk, a checksum or the index is an error that names the file."""
    path = written(tmp_path, large_plan()) / "arrays/layers/h/c/1/0"
    flip(path, at)
    rows = ZarrStore(tmp_path).run("one")["h"]
    with pytest.raises(DamagedStore, match=r"layers/h/c/1/0: .*not what (was|were) written") as e:
        rows[1024:2048] if check == "slice" else rows[[1030, 1300, 2047]]
    assert e.value.path == str(path)
    assert rows[:1024].shape == (1024, 6)
    assert rows[[0, 1023, 2048]].shape == (3, 6)


def test_damage_elsewhere_in_the_file_hides_no_rows(tmp_path: Path) -> None:
    """Chunks beside a damaged one can be read."""
    path = written(tmp_path, large_plan()) / "arrays/layers/h/c/1/0"
    flip(path, CHUNK + 100)
    rows = ZarrStore(tmp_path).run("one")["h"]
    with pytest.raises(DamagedStore, match="rows 256 to 512 of this file"):
        rows[1024 + 256]
    assert rows[1024 : 1024 + 256].shape == rows[1536:1792].shape == (256, 6)


def test_unchecked_rows_are_not_checked(tmp_path: Path) -> None:
    """`check=False` means it: the row that was changed is handed out."""
    path = written(tmp_path, large_plan()) / "arrays/layers/h/c/1/0"
    flip(path, 2)
    rows = ZarrStore(tmp_path).run("one")["h"]
    assert rows.take([1024], check=False)[0, 0] != 102400
    with pytest.raises(DamagedStore):
        rows.take([1024])


@pytest.mark.parametrize("how", ["gone", "cut", "longer", "a folder", "no array"])
def test_files_that_are_not_there(tmp_path: Path, how: str) -> None:
    """A shard that is gone or of another size is an error, for rows here and there too."""
    folder = written(tmp_path, large_plan()) / "arrays/layers/h"
    path = folder / "c/1/0"
    rows = ZarrStore(tmp_path).run("one")["h"]
    assert len(rows[0:10]) == 10
    if how == "cut":
        os.truncate(path, 100)
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "no array":
        shutil.rmtree(folder)
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    for key in (slice(1030, 1040), [1030]):
        with pytest.raises(DamagedStore, match=r"c/1/0: this (file (is gone|has)|is a folder)"):
            rows[key]


def test_store_that_is_removed_under_its_reader(tmp_path: Path) -> None:
    """What was mapped before stays readable or is an error, and nothing else."""
    written(tmp_path / "store", large_plan())
    rows = ZarrStore(tmp_path / "store").run("one")["h"]
    first = rows[[0, 1]]
    shutil.rmtree(tmp_path / "store")
    assert same_bits(rows[[0, 1]], first)
    with pytest.raises(DamagedStore, match="gone"):
        rows[0:2]


def test_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share one run, with fewer maps than shards."""
    monkeypatch.setattr("tenterhook_zarr._direct.MAPS", 2)
    plan = a_plan(3000, 256, layers=[("h", 6, "bfloat16")])
    written(tmp_path, plan)
    run = ZarrStore(tmp_path).run("one")
    expected = rows_of(plan, 0, 3000).layers["h"]
    wrong: list[Any] = []

    def read(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(30):
            some = torch.randint(0, 3000, (50,), generator=generator)
            if not same_bits(run["h"][some], expected[some]):
                wrong.append(some)
            if not same_bits(
                run["h"][seed * 100 : seed * 150 + 9], expected[seed * 100 : seed * 150 + 9]
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_run_goes_to_other_processes(tmp_path: Path) -> None:
    """A run pickles as its place and id, and has the same rows there though more were written."""
    plan = large_plan()
    store = ZarrStore(tmp_path)
    writer = store.write_run("one", plan)
    write(writer, plan.units()[:2])
    sent = pickle.dumps(store.run("one"))
    write(writer, plan.units()[2:])
    run = pickle.loads(sent)
    assert len(run) == 2048
    assert not run.is_complete
    assert len(store.run("one")) == 2500
    assert same_bits(run["h"][[2047]], rows_of(plan, 2047, 2048).layers["h"])
    assert len(sent) < 2000
