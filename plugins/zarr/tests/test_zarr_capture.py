"""Captures into the default store: int8 rows, statistics, and what plain zarr sees of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tenterhook_capture import save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import DamagedStore, MemoryStore
from tenterhook_store.testing import same_bits
from tenterhook_zarr import ZarrStore

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]


def save(store: Any, layers: Any, **how: Any) -> Any:
    """Capture and open the run."""
    return store.run(save_activations(WordModel(), layers, TEXTS, store, rows_per_unit=8, **how))


def test_int8_with_plain_zarr(tmp_path: Path) -> None:
    """Both arrays are plain, and their product is what the run reads."""
    run = save(ZarrStore(tmp_path), "blocks.0", dtype="int8")
    arrays = [
        array
        for path in sorted((tmp_path / "runs" / run.id).rglob("zarr.json"))
        if isinstance(array := zarr.open(path.parent, mode="r"), zarr.Array)
    ]
    (steps,) = (a for a in arrays if a.dtype == "int8")
    (scale,) = (a for a in arrays if a.dtype == "float32")
    assert (steps.shape, scale.shape) == ((22, 12), (22, 1))
    floats = torch.as_tensor(np.asarray(steps[:]) * np.asarray(scale[:]))
    assert same_bits(run["blocks.0"][:], floats)
    assert same_bits(run["blocks.0"][[20, 3]], floats[[20, 3]])


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_bounds_of_norms(tmp_path: Path, dtype: str | None) -> None:
    """They are there when the store is opened again, and verified as all else is."""
    run_id = save(ZarrStore(tmp_path), ["blocks.0", "head"], dtype=dtype).id
    run = ZarrStore(tmp_path).run(run_id)
    for layer in run.layers:
        bounds = run.norm_bounds(layer)
        assert bounds is not None
        assert [(each.start, each.stop) for each in bounds] == [(0, 8), (8, 16), (16, 22)]
        for each in bounds:
            norms = run[layer][each.start : each.stop].double().norm(dim=1)
            assert each.smallest <= float(norms.min())
            assert float(norms.max()) <= each.largest

    path = tmp_path / "runs" / run_id / "kept" / "000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (problem,) = ZarrStore(tmp_path).verify_run(run_id)
    assert (problem.unit, problem.file) == (1, str(path))
    with pytest.raises(DamagedStore, match=r"000001\.safetensors: its checksum says"):
        ZarrStore(tmp_path).run(run_id).norm_bounds("head")


@pytest.mark.parametrize("keep_rows", [False, True])
@pytest.mark.parametrize("writing", ["inline", "thread"])
def test_statistics(tmp_path: Path, keep_rows: bool, writing: str) -> None:
    """They are those of a store in memory, to the bit, after the store is opened again."""
    how = {"reduce": "mean,cov,quantiles,topk", "keep_rows": keep_rows, "writing": writing}
    run = save(ZarrStore(tmp_path), ["blocks.0", "head"], **how)
    run, other = ZarrStore(tmp_path).run(run.id), save(MemoryStore(), ["blocks.0", "head"], **how)
    for layer in ("blocks.0", "layer_0", "head"):
        for what in ("mean", "cov", "quantiles"):
            assert same_bits(run.reduced(layer, what), other.reduced(layer, what))
        assert run.reduced(layer, "topk").tokens.equal(other.reduced(layer, "topk").tokens)
    assert run.layers == (("blocks.0", "head") if keep_rows else ())
    assert len(run.tokens[:]) == 22


def test_inputs_and_patterns_have_names_of_their_own(tmp_path: Path) -> None:
    """A layer's input and output stand side by side."""
    run = save(ZarrStore(tmp_path), ["head", "head:input"], bucket=True, tokens="last")
    assert run.layers == ("head:input", "head")
    assert (run["head:input"].shape, run["head"].shape) == ((6, 12), (6, 97))
    assert ZarrStore(tmp_path).verify_run(run.id) == []


def test_the_files_are_the_same_whoever_writes(tmp_path: Path) -> None:
    """Many small units, two of them open at a time, leave byte for byte what one thread leaves."""
    texts = [f"{number} b c d e" for number in range(60)]
    files = {}
    for writing in ("inline", "thread"):
        folder = tmp_path / writing
        how: dict[str, Any] = {"rows_per_unit": 16, "batch_size": 4, "writing": writing}
        run_id = save_activations(WordModel(), ["blocks.0"], texts, ZarrStore(folder), **how)
        assert ZarrStore(folder).verify_run(run_id) == []
        files[writing] = {
            path.relative_to(folder): path.read_bytes()
            for path in sorted((folder / "runs" / run_id).rglob("c/**/*"))
            if path.is_file()
        }
    assert len(files["inline"]) > 60
    assert files["inline"] == files["thread"]
