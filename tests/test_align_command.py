"""`tenterhook runs align` on runs of models, captured as people capture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenterhook_capture.loading import load_model
from tenterhook_store import LocalStore

Th = Callable[..., tuple[object, str, str]]

TEXTS = ["In the beginning was the word.", "A cat", "Once upon a time"]


def save(lm: Any, place: Path, name: str, texts: list[str]) -> str:
    """Capture a block; return the run as the command line names it."""
    lm.activations.save("layer_1", texts, store=LocalStore(place), run_name=name)
    return str(place / "runs" / name)


def test_runs_are_aligned_and_kept(th: Th, tmp_path: Path) -> None:
    """What is kept is verified; a document that is another text is named; so are other data."""
    lm = load_model("tiny:")
    one = save(lm, tmp_path / "one", "a", TEXTS)
    other = save(lm, tmp_path / "other", "b", [TEXTS[0], "A dog", *TEXTS[2:]])
    code, out, err = th("runs", "align", one, other)
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.startswith("A a, B b: ")
    assert first.endswith("2 documents are of the same characters")
    assert "left out, other texts in A and B: documents 1" in out
    assert last == f"kept as {tmp_path / 'one'}/alignments/a--b"

    code, out, _ = th("runs", "align", one, other, "--verify")
    assert (code, out.splitlines()[-1]) == (0, "as it was made")
    code, out, _ = th(
        "runs", "align", one, other, "--name", "x", "--to", str(tmp_path / "to"), "--json"
    )
    found = json.loads(out)
    assert (code, found["name"], found["different"], found["documents"]) == (0, "x", [1], 2)

    third = save(lm, tmp_path / "one", "c", ["Something else"])
    code, _, err = th("runs", "align", one, third)
    assert code == 2
    assert "Runs 'a' and 'c' cannot be aligned: they are of other data sets" in err
