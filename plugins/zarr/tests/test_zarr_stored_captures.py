"""Captures that an earlier version made and that lie in the repository: each must stay readable.

Beside the rows: int8 and its scales, several layers and sides, selections, documents that were
split, statistics, and every dtype that a store keeps. What was read when they were made is in
`expected.json`, as hashes; the rest follows from the rows themselves.

`python test_zarr_stored_captures.py FOLDER` makes them anew, for a format that is new; those that
are there stay as they are.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tenterhook_zarr._layout
from tenterhook_capture import CaptureRecipe, run_status, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import LayerArray, RowBlock, Run, RunPlan, flat_bytes
from tenterhook_store.testing import same_bits
from tenterhook_zarr import ZarrStore
from tenterhook_zarr._records import sealed

DATA = Path(__file__).with_name("data")
STORES = sorted(DATA.glob("captures-*"))

TEXTS = [" ".join(f"w{(at * at + i) % 31}" for i in range(at % 40)) for at in range(64)]
LAYERS = ["blocks.0", "blocks.1.mlp:input", "embed"]
CAPTURES: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "int8"},
    "bits": {"dtype": "bfloat16", "tokens": "0,-1", "codec": "zstd"},
    "split": {"dtype": "float16", "long_documents": "split", "codec": "blosc"},
    "reduced": {
        "reduce": "mean,var,cov,quantiles,topk",
        "keep_rows": True,
        "top_k": 5,
        "long_documents": "split",
        "rows_per_unit": 768,
    },
}
KINDS = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
KIND_ROWS = 70


def kind_rows(start: int, stop: int) -> RowBlock:
    """Return rows of every dtype: their bytes count up, but for bools."""
    rows = torch.arange(start, stop)
    layers = {}
    for kind in KINDS:
        dtype: torch.dtype = getattr(torch, kind)
        width = 2 * dtype.itemsize
        content = ((rows[:, None] * width + torch.arange(width)) * 7 % 256).to(torch.uint8)
        layers[kind] = content % 2 == 1 if kind == "bool" else content.view(dtype)
    return RowBlock(tokens=rows, documents=rows // 3, positions=rows % 3, layers=layers)


def digest(tensor: Tensor) -> str:
    """Return the hash of a tensor's bytes."""
    return hashlib.sha256(flat_bytes(tensor.contiguous()).numpy().tobytes()).hexdigest()


def seen(run: Run) -> dict[str, Any]:
    """Return what reading a run gives, as hashes."""
    arrays = {name: run[name] for name in run.layers}
    arrays |= {name: run[name] for name in (each.name for each in run.plan.layers)}
    numbers = {
        "token": run.tokens,
        "document": run.documents.index,
        "position": run.documents.position,
    }
    return {
        "rows": len(run),
        "documents": len(run.documents),
        "arrays": {
            name: [list(rows.shape), str(rows.dtype), digest(rows[:])]
            for name, rows in {**arrays, **numbers}.items()
        },
        "kept": {
            f"{unit}/{name}": digest(run.unit_tensor(unit, name))
            for unit in sorted(run.committed)
            for name in run.unit_tensors(unit)
        },
    }


def make(folder: Path) -> None:
    """Make the captures, with several shards a unit, and note what reading them gives."""
    tenterhook_zarr._layout.SHARD_BYTES = 4096
    store = ZarrStore(folder)
    for run_id, how in CAPTURES.items():
        settings = {"rows_per_unit": 256, "run_name": run_id, **how}
        save_activations(WordModel(width=4), LAYERS, TEXTS, store, **settings)
    plan = RunPlan(
        rows=KIND_ROWS,
        rows_per_unit=32,
        documents=24,
        layers=[LayerArray(kind, 2, kind) for kind in KINDS],
    )
    writer = store.write_run("kinds", plan)
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            writing.append(kind_rows(unit.start, unit.stop))
            writing.commit({})
    for path in folder.glob("runs/*/sessions/*.json"):  # which would say whose machine it was
        path.unlink()
        facts = {"start": "2026-01-01T00:00:00+00:00", "end": "2026-01-01T00:01:00+00:00"}
        path.with_name("s1.json").write_bytes(sealed(facts))
    found = {run_id: seen(store.run(run_id)) for run_id in store.runs()}
    (folder / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


each_store = pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)


def test_there_is_one() -> None:
    """At least one was made by a version before this one."""
    assert STORES


@each_store
@pytest.mark.parametrize("run_id", [*CAPTURES, "kinds"])
def test_stored_capture_is_read(folder: Path, run_id: str) -> None:
    """Every array and every small tensor is what it was when it was made, to the bit."""
    store = ZarrStore(folder, create=False)
    run = store.run(run_id)
    assert seen(run) == json.loads((folder / "expected.json").read_bytes())[run_id]
    assert run.is_complete
    assert store.verify_run(run_id) == []


@each_store
@pytest.mark.parametrize("run_id", CAPTURES)
def test_rows_are_read_in_every_way(folder: Path, run_id: str) -> None:
    """By index, as documents, by loaders: the same rows; and the run says what made it."""
    run = ZarrStore(folder, create=False).run(run_id)
    tokens = WordModel(max_tokens=None).token_ids(TEXTS)
    for document, ids in enumerate(tokens):
        where = run.documents.rows(document)
        positions = run.documents.position[where].tolist()
        assert run.tokens[where].tolist() == [ids[at] for at in positions]
    some = torch.tensor([len(run) - 1, 0, 5, 5])
    for name in run.layers:
        rows = run[name][:]
        assert same_bits(run[name][some], rows[some])
        assert same_bits(run[name][3:90:7], rows[3:90:7])
        for mixing in ("blocks", "exact"):
            settings: dict[str, Any] = {"mixing": mixing, "also": ["rows"]}
            for batch in run.loader(name, 64, **settings):
                assert same_bits(batch[name], rows[batch["rows"]])
    assert run.metadata["counts"]["documents"] == 64
    assert set(CaptureRecipe.of_run(run).layers) == set(LAYERS)
    assert run_status(run).state == "complete"
    assert ("int8" in run.metadata) == (run_id == "int8")


@each_store
@pytest.mark.parametrize("run_id", [*CAPTURES, "kinds"])
def test_stored_captures_have_no_bounds_of_norms(folder: Path, run_id: str) -> None:
    """They were made before there were any."""
    run = ZarrStore(folder, create=False).run(run_id)
    assert [run.norm_bounds(layer) for layer in run.layers] == [None] * len(run.layers)


@each_store
def test_statistics_are_those_of_the_rows(folder: Path) -> None:
    """Those that were merged from the units are those of all rows, computed in one go."""
    run = ZarrStore(folder, create=False).run("reduced")
    assert run.plan.unit_count > 1
    for layer in run.layers:
        rows = run[layer][:].double().numpy()
        assert np.allclose(run.reduced(layer, "mean"), rows.mean(0), atol=1e-12)
        assert np.allclose(run.reduced(layer, "var", ddof=1), rows.var(0, ddof=1), atol=1e-12)
        assert np.allclose(run.reduced(layer, "cov"), np.cov(rows.T, bias=True), atol=1e-12)
        found = run.reduced(layer, "quantiles", q=[0.1, 0.5, 0.9]).numpy()
        error = run.quantile_error(layer)
        for share, values in zip((0.1, 0.5, 0.9), found, strict=True):
            assert ((rows < values).mean(0) <= share + error).all()
            assert ((rows <= values).mean(0) >= share - error).all()
        top = run.reduced(layer, "topk")
        assert np.allclose(top.scores, -np.sort(-rows, axis=0)[:5].T)
        assert same_bits(top.tokens, run.tokens[top.rows])


@each_store
def test_int8_is_what_its_parts_say(folder: Path) -> None:
    """A row is its steps times its scale, near to what the model gives."""
    run = ZarrStore(folder, create=False).run("int8")
    other = ZarrStore(folder, create=False).run("reduced")
    for layer in run.layers:
        assert run[layer].dtype is torch.float32
        scale = run[f"{layer}:scale"][:]
        assert scale.shape == (len(run), 1)
        steps = run[layer][:] / scale.clamp(min=1e-30)
        assert (steps - steps.round()).abs().max() < 1e-3
        assert steps.abs().max() < 127.001
        first = min(len(run.documents.index[run.documents.rows(7)]), 7)
        mine, theirs = (each[layer][each.documents.rows(7)][:first] for each in (run, other))
        assert (mine - theirs).abs().max() <= run.metadata["int8"][layer]["max_error"] + 1e-5


@each_store
def test_every_dtype_is_what_was_written(folder: Path) -> None:
    """The bytes of each kind of number, whatever order they are read in."""
    run = ZarrStore(folder, create=False).run("kinds")
    expected = kind_rows(0, KIND_ROWS).layers
    assert set(run.layers) == set(KINDS)
    for kind in KINDS:
        assert same_bits(run[kind][:], expected[kind])
        backwards = list(range(KIND_ROWS - 1, -1, -1))
        found = flat_bytes(run[kind][backwards]).reshape(KIND_ROWS, -1)
        assert torch.equal(found, flat_bytes(expected[kind]).reshape(KIND_ROWS, -1).flip(0))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
