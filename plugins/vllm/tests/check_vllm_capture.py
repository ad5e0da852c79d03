"""Captures through vLLM itself: the run of everywhere else, with the rows of transformers."""

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")  # what it imports warns of much

from tenterhook_capture import save_activations  # noqa: E402
from tenterhook_capture.loading import load_model  # noqa: E402
from tenterhook_store import LocalStore  # noqa: E402
from tenterhook_vllm.engine_errors import BadEngineOption, ChangesNothing  # noqa: E402
from tenterhook_vllm.model_loader import load  # noqa: E402

BOUND = 2e-5
"""Of rows in float32, through how large the largest is."""


@pytest.fixture(scope="module")
def model(llama: Path) -> Any:
    """Return the model, run in steps of so few tokens that texts are cut."""
    options = "max_num_batched_tokens=48&max_num_seqs=6&block_size=32"
    return load_model(f"vllm:{llama}?{options}")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return texts of unequal length, one longer than the model takes."""
    generator = Random(0)
    lengths = [1, 2, *(generator.randrange(3, 90) for _ in range(20)), 127, 128, 200]
    return [" ".join(f"w{generator.randrange(250)}" for _ in range(n)) for n in lengths]


def test_a_run_is_that_of_transformers(
    model: Any, llama: Path, texts: list[str], tmp_path: Path
) -> None:
    """The same documents, tokens and units; rows within the bound that is printed."""
    other = load_model(str(llama))
    names = ["attn_out.0", "mlp_out.2", "resid_post.0", "resid_post.3"]
    store = LocalStore(tmp_path / "store")
    made = save_activations(model, [*names, "resid_mid.1", "logits"], texts, store, run_name="v")
    expected = save_activations(other, [*names, "lm_head"], texts, store, run_name="t")
    one, two = store.run(made), store.run(expected)
    assert torch.equal(one.tokens[:], two.tokens[:])
    assert one.plan.rows == two.plan.rows
    assert one.plan.rows_per_unit == two.plan.rows_per_unit
    assert not store.verify_run(made)
    pairs = [("logits", "lm_head"), *((name, name) for name in names)]
    for mine, theirs in pairs:
        rows, others = one[mine][:], two[theirs][:]
        off = ((rows - others).abs().max() / others.abs().max()).item()
        print(f"{mine} is off by {off:.1e} of its largest number, {BOUND} at most")
        assert off <= BOUND


def test_a_run_that_was_ended_goes_on(model: Any, texts: list[str], tmp_path: Path) -> None:
    """Units that are there are not made again, and the run is whole at the end."""
    store = LocalStore(tmp_path / "store")

    def capture(progress: Any = None) -> None:
        save_activations(
            model,
            ["resid_post.1"],
            texts,
            store,
            run_name="r",
            rows_per_unit=256,
            progress=progress,
        )

    def stop(_: Any) -> None:
        if store.runs() and len(store.run("r")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(stop)
    assert 0 < len(store.run("r")) < store.run("r").plan.rows
    capture()
    assert len(store.run("r")) == store.run("r").plan.rows
    assert not store.verify_run("r")


def test_other_points_are_refused(model: Any) -> None:
    """The points there are have standard names."""
    with pytest.raises(ValueError, match="resid_pre"), model.capture("resid_pre.0"):
        pass


def test_hooks_that_change_are_refused(model: Any) -> None:
    """What they return would reach nobody: the engine computes elsewhere."""
    with (
        pytest.raises(ChangesNothing, match=r"Ask for the change in a request"),
        model.steer("resid_post.1", lambda rows: rows + 1),
    ):
        model.run_token_ids([[5, 6]])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("?enforce_eager=false", "enforce_eager is no option here: it is always on"),
        ("?max_modle_len=4", "did you mean 'max_model_len'"),
    ],
)
def test_options_that_are_none(llama: Path, name: str, why: str) -> None:
    """They are refused before an engine is started."""
    with pytest.raises(BadEngineOption, match=why):
        load(f"{llama}{name}")
