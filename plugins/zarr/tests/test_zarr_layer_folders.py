"""The folders of layers are found by readers that take a path for a URL."""

import json
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
import torch
import zarr

from tenterhook_store import DamagedStore, LayerArray, Run, RunPlan
from tenterhook_store.testing import rows_of, write
from tenterhook_zarr import ZarrStore

ODD = {
    "h.1:attention": "h.1~3Aattention",
    "h.1:input": "h.1~3Ainput",
    "blocks/0": "blocks~2F0",
    "100 %": "100~20~25",
    "~/x": "~7E~2Fx",
    "é": "~C3~A9",
    ".hidden": "~.hidden",
    "_orig_mod": "~_orig_mod",
    "con": "~con",
    "end.": "end.~",
    "same": "same",
    "SAME": "SAME~2",
}
"""Names of layers, and the folders that they have."""


def a_plan() -> RunPlan:
    """Return the plan of a run of such layers."""
    layers = [LayerArray(name, 3, "float32") for name in ODD]
    return RunPlan(rows=20, rows_per_unit=8, documents=5, layers=layers)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run of such layers, in the folder `store`."""
    store = ZarrStore(tmp_path / "store")
    write(store.write_run("one", a_plan()), a_plan().units())
    return store.run("one")


def test_they_are_what_a_url_says(run: Run, tmp_path: Path) -> None:
    """Escaped for a URL or decoded from one, each is the same."""
    names = [path.name for path in (tmp_path / "store/runs/one/arrays/layers").iterdir()]
    assert sorted(set(names) - {"zarr.json"}) == sorted(ODD.values())
    for name in names:
        assert quote(name) == name == unquote(name)


def test_rows_are_read(run: Run) -> None:
    """Each layer has its own."""
    for name, rows in rows_of(a_plan(), 0, 20).layers.items():
        assert torch.equal(run[name][:], rows), name


def test_zarr_reads_them_by_a_url(run: Run, tmp_path: Path) -> None:
    """The true name is in the array."""
    fsspec = pytest.importorskip("fsspec")
    url = (tmp_path / "store/runs/one/arrays").as_uri()
    assert fsspec.filesystem("file").exists(unquote(url))
    layers = zarr.open_group(f"{url}/layers", mode="r")
    assert sorted(str(array.attrs["layer"]) for _, array in layers.arrays()) == sorted(ODD)
    values = zarr.open_array(f"{unquote(url)}/layers/h.1~3Ainput", mode="r")[:]
    assert np.array_equal(values, run["h.1:input"][:].numpy())


def test_tensorstore_reads_them_by_a_url(run: Run, tmp_path: Path) -> None:
    """It decodes what looks escaped."""
    tensorstore = pytest.importorskip("tensorstore")
    url = (tmp_path / "store/runs/one/arrays/layers/h.1~3Aattention").as_uri()
    array = tensorstore.open({"driver": "zarr3", "kvstore": url}, read=True).result()
    assert np.array_equal(array.read().result(), run["h.1:attention"][:].numpy())


def test_xarray_reads_them(run: Run, tmp_path: Path) -> None:
    """As variables of the group of layers."""
    xarray = pytest.importorskip("xarray")
    array = zarr.open_array(tmp_path / "store/runs/one/arrays/layers/h.1~3Ainput", mode="r")
    found = xarray.DataArray(array, dims=("row", "feature"))
    assert np.array_equal(found.values, run["h.1:input"][:].numpy())


EARLIER = {"h.1~3Aattention": "h.1%3Aattention", "h.1~3Ainput": "h.1%3Ainput"}


def as_earlier(folder: Path) -> None:
    """Give a run of two layers the folders that an earlier version gave them, records and all."""
    from tenterhook_zarr._records import sealed, unsealed

    layers = folder / "arrays/layers"
    for now, before in EARLIER.items():
        (layers / now).rename(layers / before)
    for path in (folder / "commits").glob("*.json"):
        record = unsealed(path.read_bytes(), str(path))
        text = json.dumps(record)
        for now, before in EARLIER.items():
            text = text.replace(now, before)
        path.write_bytes(sealed(json.loads(text)))


def test_runs_of_earlier_versions_have_theirs(tmp_path: Path) -> None:
    """They are read, verified, and gone on with, in the folders that they have."""
    plan = RunPlan(
        rows=20,
        rows_per_unit=8,
        documents=5,
        layers=[LayerArray("h.1:attention", 3, "float32"), LayerArray("h.1:input", 3, "float32")],
    )
    write(ZarrStore(tmp_path).write_run("one", plan), plan.units()[:2])
    as_earlier(tmp_path / "runs/one")
    store = ZarrStore(tmp_path)
    assert store.verify_run("one") == []
    write(store.write_run("one", plan), plan.units()[2:])
    run = store.run("one")
    for name, rows in rows_of(plan, 0, 20).layers.items():
        assert torch.equal(run[name][:], rows)
    names = {path.name for path in (tmp_path / "runs/one/arrays/layers").iterdir()}
    assert names == {*EARLIER.values(), "zarr.json"}
    assert store.verify_run("one") == []


def test_a_folder_under_both_names_is_damage_and_no_other_rows(run: Run, tmp_path: Path) -> None:
    """What stands under an earlier name beside the new one is not read."""
    layers = tmp_path / "store/runs/one/arrays/layers"
    shutil.copytree(layers / "h.1~3Ainput", layers / "h.1%3Aattention")
    opened = ZarrStore(tmp_path / "store").run("one")
    assert torch.equal(opened["h.1:attention"][:], run["h.1:attention"][:])
    for now in ODD.values():
        shutil.rmtree(layers / now)
    with pytest.raises(DamagedStore):
        ZarrStore(tmp_path / "store").run("one")["h.1:attention"][:]
