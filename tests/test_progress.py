"""Whatever may last shows in a terminal what it does and how far it is, whoever does it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_analysis import (
    contrast,
    integrated_gradients,
    logit_difference,
    logit_lens,
    mean_difference,
    patch_grid,
    probe,
    steered,
)
from tenterhook_capture import CaptureOptions, prepare_capture, reproduce
from tenterhook_capture.loading import load_model
from tenterhook_sae import (
    RunBatches,
    TopKSae,
    TrainingSettings,
    evaluate_in_model,
    evaluate_rows,
    find_examples,
    train_sae,
)
from tenterhook_store import LocalStore, Run, Store, compare
from tenterhook_store.exports import to_npy
from tenterhook_store.testing.terminal import terminal
from tenterhook_transformers import LanguageModel
from tenterhook_view import page
from tenterhook_view.pictures import save_picture

LAYER = "transformer.h.1"
TEXTS = ["A cat sat on the mat.", "The dog ran away."]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """The model that ships."""
    found = load_model("tiny:")
    assert isinstance(found, LanguageModel)
    return found


@pytest.fixture
def store(lm: LanguageModel, tmp_path: Path) -> Store:
    """A store with a run of two texts."""
    made = LocalStore(tmp_path / "store")
    lm.activations.save(LAYER, TEXTS, store=made, run_name="run")
    return made


def sae(run: Run) -> TopKSae:
    """An SAE that knows nothing."""
    return TopKSae(16, run[LAYER].shape[1], 4)


Work = Callable[[LanguageModel, Run, Path], Any]

WORK: dict[str, Work] = {
    "Capturing other: ": lambda lm, run, folder: lm.activations.save(
        LAYER, TEXTS, store=LocalStore(folder / "store"), run_name="other"
    ),
    "Reproducing run: ": lambda lm, run, folder: reproduce(
        LocalStore(folder / "store"),
        "run",
        capture=prepare_capture(lm, LAYER, TEXTS, options=CaptureOptions()),
    ),
    "Verifying run: 1 of 1 units": lambda lm, run, folder: LocalStore(folder / "store").verify_run(
        "run"
    ),
    "Deleting run: ": lambda lm, run, folder: LocalStore(folder / "store").delete_run("run"),
    "Exporting run: ": lambda lm, run, folder: to_npy(run, folder / "npy"),
    "Aligning run and run: ": lambda lm, run, _: run.align(run),
    "Comparing run and run: ": lambda lm, run, _: compare(run, run),
    f"Searching {LAYER}: ": lambda lm, run, _: run.search(torch.ones(run[LAYER].shape[1])),
    "Reading run run: ": lambda lm, run, _: page(run),
    "Reading run run:  ": lambda lm, run, folder: save_picture(run, folder / "a.svg"),
    "Logit lens: ": lambda lm, run, _: logit_lens(lm, run),
    "Patching: ": lambda lm, run, _: patch_grid(
        lm, "A cat sat", "A dog sat", logit_difference(lm, 5, 7)
    ),
    "Integrating gradients: ": lambda lm, run, _: integrated_gradients(
        lm, "A cat sat", "A dog sat", logit_difference(lm, 5, 7)
    ),
    f"Steering at {LAYER}: 2 of 2 scales": lambda lm, run, _: steered(
        lm, "A", LAYER, torch.ones(run[LAYER].shape[1]), (0, 1), max_new_tokens=1
    ),
    "Comparing means: ": lambda lm, run, _: mean_difference(run, run),
    "Contrasting: 2 of 2 texts": lambda lm, run, _: contrast(lm, TEXTS[:1], TEXTS[1:]),
    f"Probing {LAYER}: ": lambda lm, run, _: probe(run, LAYER, [0, 1], folds=2, most_passes=3),
    "Training an SAE: 3 of 3 steps": lambda lm, run, _: train_sae(
        sae(run), RunBatches(run, LAYER, batch_size=4), TrainingSettings(steps=3, log_every=1)
    ),
    "Evaluating: ": lambda lm, run, _: evaluate_rows(sae(run), run[LAYER][:]),
    "Evaluating in the model: 2 of 2 documents": lambda lm, run, _: evaluate_in_model(
        sae(run), lm, LAYER, TEXTS
    ),
    "Looking for latent 3: 2 of 2 documents": lambda lm, run, _: find_examples(
        sae(run), lm, 3, TEXTS, layer=LAYER
    ),
}


@pytest.mark.matrix(sample=8)
@pytest.mark.parametrize("says", WORK)
def test_it_says_what_is_done_and_how_far(
    says: str, lm: LanguageModel, store: Store, tmp_path: Path
) -> None:
    """The numbers are those of the end: all is done."""
    if "  " in says:
        pytest.importorskip("matplotlib")
    run = store.run("run")
    with terminal() as shown:
        WORK[says](lm, run, tmp_path)

    (text,) = shown
    assert says.strip() in text
    assert "100%" in text
