"""`tenterhook runs reproduce`: a run beside what its model and data give now."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_capture.loading import load_model
from tenterhook_store import LocalStore
from tenterhook_transformers import LanguageModel

Th = Callable[..., tuple[object, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in a folder, and a run `r` of it in the store beside, of data beside it."""
    lm = load_model("tiny:")
    assert isinstance(lm, LanguageModel)
    lm.module.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    lm.tokenizer.save_pretrained(tmp_path / "model")
    texts = [f"In the beginning was word {at}" + " and more" * (at % 5) for at in range(30)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    save_activations(
        load_model(str(tmp_path / "model")),
        ["layer_1", "layer_2"],
        read_documents(str(tmp_path / "texts.txt")),
        LocalStore(tmp_path / "runs"),
        run_name="r",
        rows_per_unit=60,
    )
    return tmp_path


def test_equal(th: Th, folder: Path) -> None:
    """The same machine gives the same numbers; the run is named as everywhere."""
    store = str(folder / "runs")
    code, out, _ = th("runs", "reproduce", store)
    assert code == 0
    assert out.splitlines()[1:] == ["transformer.h.1: equal", "transformer.h.2: equal", "equal"]
    code, out, _ = th("runs", "reproduce", f"{store}/runs/r", "--units", "1", "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["units"]) == (0, "equal", [0])
    assert [each["verdict"] for each in found["layers"]] == ["equal", "equal"]


def test_different(th: Th, folder: Path) -> None:
    """Other weights under the same name, and where they are, is what was asked for."""
    shutil.copytree(folder / "model", folder / "other")
    lm = load_model(str(folder / "model"))
    with torch.no_grad():
        next(p for n, p in lm.context.model.named_parameters() if "h.2.mlp" in n).mul_(1.5)
    lm.context.model.save_pretrained(folder / "model")  # type: ignore[operator]
    store = str(folder / "runs")
    code, out, _ = th("runs", "reproduce", store, "r")
    assert code == 1
    assert "transformer.h.1: equal" in out
    assert "transformer.h.2: different, " in out
    assert "not as it was: the model: other weights" in out
    code, out, _ = th("runs", "reproduce", store, "r", "--model", str(folder / "other"))
    assert (code, out.splitlines()[-1]) == (0, "equal")


def test_another_dtype_of_the_computation(th: Th, folder: Path) -> None:
    """It is measured by the dtype that the model is computed in."""
    store = LocalStore(folder / "runs")
    lm = load_model(str(folder / "model"), dtype="bfloat16")
    documents = read_documents(str(folder / "texts.txt"))
    save_activations(lm, "layer_1", documents, store, run_name="half", dtype="float32")
    code, out, _ = th("runs", "reproduce", str(folder / "runs"), "half")
    assert (code, out.splitlines()[-1]) == (0, "equal")


def test_what_cannot_be_done(th: Th, folder: Path) -> None:
    """A run without names, an option that resumes take, and data that is gone."""
    store = str(folder / "runs")
    lm = load_model("tiny:")
    save_activations(lm, "layer_1", ["a text"], LocalStore(store), run_name="unnamed")
    code, _, err = th("runs", "reproduce", store, "unnamed")
    assert code == 2
    assert "documents that were not read by a name" in err
    code, _, err = th("runs", "reproduce", store, "r", "--tries", "2")
    assert (code, "No such option '--tries'" in err or "No such option: --tries" in err) == (
        2,
        True,
    )
    (folder / "texts.txt").unlink()
    code, _, err = th("runs", "reproduce", store, "r")
    assert code != 0
    assert "texts.txt" in err
