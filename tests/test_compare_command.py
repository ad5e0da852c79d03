"""`tenterhook runs compare` on runs of a model, captured in the ways that people capture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_capture.loading import load_model
from tenterhook_store import LayerArray, LocalStore, RowBlock, RunPlan
from tenterhook_transformers import LanguageModel

Th = Callable[..., tuple[object, str, str]]


TEXTS = [
    "In the beginning was the word.",
    "A cat",
    "The whale swam under the ship, and nobody on board had seen it come.",
    "Once upon a time",
    "She opened the door and looked into the garden for a while.",
    "Rain",
]


@pytest.fixture
def lm() -> LanguageModel:
    """Return the small model, of floats of 32 bits."""
    found = load_model("tiny:")
    assert isinstance(found, LanguageModel)
    return found


def save(lm: LanguageModel, place: Path, name: str, **options: Any) -> str:
    """Capture two blocks; return the run as the command line names it."""
    settings: dict[str, Any] = {"batch_size": 4, **options}
    lm.activations.save(
        ["layer_1", "layer_2"], TEXTS, store=LocalStore(place), run_name=name, **settings
    )
    return str(place / "runs" / name)


def test_two_batch_sizes_are_alike(th: Th, lm: LanguageModel, tmp_path: Path) -> None:
    """Of two stores too; the last bits differ, and that is said."""
    one = save(lm, tmp_path / "one", "alone", batch_size=1)
    other = save(lm, tmp_path / "other", "together", batch_size=6)
    code, out, err = th("runs", "compare", one, other)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("A alone, B together: ")
    assert "transformer.h.1: close, 0 of " in out
    assert "found" not in out
    assert out.splitlines()[-1] == "alike"


def test_another_dtype_is_alike_and_named(th: Th, lm: LanguageModel, tmp_path: Path) -> None:
    """What is stored has fewer bits."""
    one, other = save(lm, tmp_path, "wide"), save(lm, tmp_path, "narrow", dtype="bfloat16")
    code, out, _ = th("runs", "compare", one, other)
    assert code == 0
    assert "another dtype: float32 in A and bfloat16 in B; rounding explains all" in out


def test_left_padding_without_a_mask_is_named(th: Th, lm: LanguageModel, tmp_path: Path) -> None:
    """Captured by hand in batches padded on the left, with positions that count the padding."""
    one = save(lm, tmp_path, "ours")
    run = LocalStore(tmp_path).run("ours")
    ids = [run.tokens[run.documents.rows(at)].tolist() for at in range(len(TEXTS))]
    model = lm.module
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in run.layers}
    for start in range(0, len(ids), 3):
        batch = ids[start : start + 3]
        longest = max(map(len, batch))
        padded = torch.tensor([[0] * (longest - len(each)) + each for each in batch])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in batch])
        with torch.inference_mode(), lm.capture(*run.layers) as captured:
            model(input_ids=padded, attention_mask=mask, position_ids=torch.arange(longest)[None])
        for name, found in rows.items():
            values = captured[name][0]
            found += [values[at, longest - len(each) :] for at, each in enumerate(batch)]
    plan = RunPlan(
        rows=len(run),
        rows_per_unit=len(run),
        documents=len(TEXTS),
        layers=[LayerArray(name, run[name].shape[1], "float32") for name in run.layers],
    )
    writer = LocalStore(tmp_path).write_run("by-hand", plan)
    with writer.open_unit(plan.unit(0)) as writing:
        layers = {name: torch.cat(found).contiguous() for name, found in rows.items()}
        writing.append(
            RowBlock(
                tokens=run.tokens[:],
                documents=run.documents.index[:],
                positions=run.documents.position[:],
                layers=layers,
            )
        )
        writing.commit({})
    code, out, _ = th("runs", "compare", one, str(tmp_path / "runs" / "by-hand"))
    assert code == 1
    assert "another padding side: documents that are padded differ" in out
    assert out.splitlines()[-1] == "different"


def test_as_json(th: Th, lm: LanguageModel, tmp_path: Path) -> None:
    """All that the Python call returns."""
    one = save(lm, tmp_path, "one")
    code, out, _ = th("runs", "compare", one, one, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["alike"] is True
    assert [each["verdict"] for each in found["layers"]] == ["equal", "equal"]
    assert found["recognised"] == []


def test_a_run_that_is_not_there(th: Th, lm: LanguageModel, tmp_path: Path) -> None:
    """The nearest name is the hint."""
    one = save(lm, tmp_path, "first")
    code, _, err = th("runs", "compare", one, str(tmp_path / "runs" / "frist"))
    assert code == 2
    assert "frist" in err
    assert "first" in err
