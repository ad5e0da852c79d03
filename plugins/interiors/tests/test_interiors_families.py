"""Which names each family of models has, and that looking at all of them changes no bit.

The table in the docs is what this test found. `TENTERHOOK_TABLE=write` beside `TENTERHOOK_WHOLE=1`
writes it anew; else each family is compared with its row there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES

import tenterhook
from tenterhook_interiors.inputs import small_inputs

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "interiors.md"
BEGIN, END = "<!-- begin: written by test_interiors_families -->", "<!-- end -->"
STREAM = ["embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
ATTENTION = ["q_pre", "k_pre", "v", "q", "k", "scores", "pattern", "z"]
REST = ["mlp_pre", "mlp_act", "router", "experts", "final_norm", "unembed", "logits"]
WORDS = [*STREAM, *ATTENTION, *REST]
REASONS = {
    "a": "both read the block's input",
    "b": "The block has no experts",
    "c": "The block has experts",
    "d": "goes through transformers' attention functions",
    "e": "No layer returns what rotary positions are given",
    "f": "Its cache keeps something else",
    "g": "No two layers inside the block",
    "h": "No linear layer gives what the MLP adds",
    "i": "No module is its nonlinearity",
    "j": "No one layer gives it",
    "k": "The model has no layer that gives logits",
    "l": "No layer gives logits whose largest",
    "m": "They enter several products",
    "n": "experts are called with no ids",
}
"""What refusals say, by the letter that stands for them in the table."""


def row_of(name: str, model: tenterhook.HookedModel) -> str:
    """Return a family's row of the table: of its last block, and of a hybrid's the block before."""
    points = model.layers.index.points()
    last = max(
        int(each.partition(".")[2].partition(":")[0]) for each in points.refused if "." in each
    )
    marks = []
    for word in WORDS:
        key = f"{word}.{last}"
        key = word if word in points.layers or word in points.refused else key
        if key in points.layers:
            marks.append("✓")
        else:
            why = points.refused[key]
            marks.append(next(letter for letter, text in REASONS.items() if text in why))
    return f"| {name} ({FAMILIES[name].kind}) | {' | '.join(marks)} |"


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """Collect the rows, and write the table if asked to."""
    found: dict[str, str] = {}
    yield found
    if os.environ.get("TENTERHOOK_TABLE") == "write":
        text = PAGE.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        head = (
            f"| | {' | '.join(f'`{word}`' for word in WORDS)} |\n|{' --- |' * (len(WORDS) + 1)}\n"
        )
        table = "".join(f"{found[name]}\n" for name in FAMILIES if name in found)
        PAGE.write_text(f"{before}{BEGIN}\n{head}{table}{END}{after}")


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_a_family(name: str, rows: dict[str, str]) -> None:
    """They are those of the table; reading them all changes no bit and leaves nothing."""
    module: Any = FAMILIES[name].make()
    model = tenterhook.attach(module)
    implementation = module.config._attn_implementation
    inputs = small_inputs(module)
    names = [each for each in model.layers.index.points().layers if each != "logits"]
    with torch.no_grad():
        plain = module(**inputs)
        with model.capture(*names, missing="ignore") as captured:
            read = module(**inputs)
        again = module(**inputs)
    for found in (read, again):
        for key, value in plain.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[key], value), key
    assert all(captured[each] for each in names if each.partition(".")[0] != "embed")
    assert module.config._attn_implementation == implementation
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    tenterhook.assert_clean(model)

    rows[name] = row_of(name, model)
    if os.environ.get("TENTERHOOK_TABLE") != "write":
        assert rows[name] in PAGE.read_text().splitlines()


def test_there_are_forty() -> None:
    """Whose attention has all its names."""
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    attention = [at for at, word in enumerate(WORDS, 2) if word in ("q", "scores", "pattern", "z")]
    lines = [line.split(" | ") for line in text.strip().splitlines()[2:]]
    assert sum(all("✓" in line[at - 1] for at in attention) for line in lines) >= 40
