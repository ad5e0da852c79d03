"""Who may read what is written: whoever may read a file that `open` makes, whatever wrote it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tenterhook.plugins import default_manager
from tenterhook_capture import save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_sae import RunBatches, TopKSae, TrainingSettings, save_sae, train_sae
from tenterhook_store import find_exporter
from tenterhook_zarr import ZarrStore

TEXTS = ["a b c", "d e", "a a a a"] * 20


@pytest.fixture(params=[0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What others may not do with new files."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="there are no such modes")
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """Stores, exports, SAEs and their checkpoints are first written by another name."""
    place = tmp_path / "place"
    store = ZarrStore(place / "store")
    run = store.run(
        save_activations(WordModel(), "head", TEXTS, store, reduce=("mean",), keep_rows=True)
    )
    store.save_tensor("t", torch.ones(3))
    store.set_attribute(run.id, "note", 1)
    for name in default_manager().extensions("exporters"):
        find_exporter(name)(run, place / "exports" / name)
    save_sae(TopKSae(16, 32, 4), place / "sae")
    settings = TrainingSettings(steps=2, checkpoint_every=1)
    features = run["head"].shape[1]
    batches = RunBatches(run, "head", batch_size=16)
    train_sae(TopKSae(16, features, 4), batches, settings, out=place / "trained")
    for path in place.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert (place / "trained/checkpoint.safetensors").exists()
