"""Rows in a dtype that does not hold all of their numbers: counted, told once, in the metadata."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tenterhook_capture import ValuesLost, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, Run


def captured(
    layers: Any, texts: Sequence[str] = ("a b c", "d"), model: WordModel | None = None, **how: Any
) -> Run:
    """Capture and open the run."""
    store = MemoryStore()
    return store.run(save_activations(model or WordModel(), layers, list(texts), store, **how))


def wide_model() -> WordModel:
    """Return a model whose word `a` is embedded as what float16 does not hold."""
    model = WordModel()
    with torch.no_grad():
        weight = model.module.state_dict()["embed.weight"]
        (a,), (b,) = model.token_ids(["a", "b"])
        weight[a, :3] = torch.tensor([1e6, -1e6, 1e-9])
        weight[b, 0] = torch.inf
    return model


@pytest.mark.parametrize("how", [{}, {"bucket": True}, {"rows_per_unit": 3}, {"tokens": "1:"}])
def test_numbers_that_do_not_fit_are_counted(how: dict[str, Any]) -> None:
    """The warning comes once, and the metadata has the sums over all units."""
    texts = ["b a c", "a", "c", "c a a b"]
    with pytest.warns(ValuesLost, match=r"layer 'embed': of \d+ numbers \d are too la") as warned:
        run = captured("embed", texts, model=wide_model(), dtype="float16", **how)
    rows = 5 if "tokens" in how else 9
    of_a = 3 if "tokens" in how else 4
    counts = {"values": rows * 12, "too_large": 2 * of_a, "too_small": of_a}
    assert run.metadata["out_of_range"] == {"embed": counts}
    assert len(warned) == 1
    assert f"{2 * of_a} are too large and became infinite and {of_a} are" in str(warned[0].message)


def test_statistics_of_what_does_not_fit() -> None:
    """They are of the cast rows, so what is lost is counted where no row is kept."""
    with pytest.warns(ValuesLost, match="2 are too large and became infinite"):
        run = captured("embed", ["a c"], model=wide_model(), dtype="float16", reduce="mean")
    assert run.layers == ()
    assert run.metadata["out_of_range"]["embed"]["too_large"] == 2


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_what_is_wide_enough_counts_nothing(dtype: str | None) -> None:
    """An infinity that the layer gave is no loss, and costs no word."""
    run = captured("embed", ["a b"], model=wide_model(), dtype=dtype)
    assert "out_of_range" not in run.metadata


def test_a_few_numbers_near_zero_are_counted_without_a_word() -> None:
    """Activations are near 0 by nature: one in a thousand may become 0."""
    texts = ["a", *["c d e f g h i j k l"] * 20]
    model = wide_model()
    with torch.no_grad():
        (a,) = model.token_ids(["a"])[0]
        model.module.state_dict()["embed.weight"][a, :2] = 1
    run = captured("embed", texts, model=model, dtype="float16")
    counts = {"values": 201 * 12, "too_large": 0, "too_small": 1}
    assert run.metadata["out_of_range"] == {"embed": counts}


def test_a_run_that_holds_all_says_so() -> None:
    """The counts of a cast that lost nothing are there, and are zeros."""
    run = captured("blocks.0", dtype="bfloat16")
    counts = run.metadata["out_of_range"]["blocks.0"]
    assert counts == {"values": 4 * 12, "too_large": 0, "too_small": 0}
