"""Architectures x ways of generating x padding: the rows are those of the texts alone, or refused.

The table in the docs is what this test found. `TENTERHOOK_TABLE=write` beside `TENTERHOOK_WHOLE=1`
writes it anew; else each case is compared with what stands there.
"""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokens_oracle as oracle
from small_architectures import ARCHITECTURES

from tenterhook.errors import TenterhookError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "generation.md"
BEGIN, END = "<!-- begin: written by test_tokens_matrix -->", "<!-- end -->"

RIGHT, IMPOSSIBLE = "✓", "–"
IMPOSSIBLE_HERE = AttributeError, NotImplementedError, RuntimeError, ValueError
"""What transformers raises of ways that it does not have for a model."""
REASONS = {
    "a": "prompts are padded on the right",
    "b": "lets padding into its state",
    "c": "does not go on from its state",
    "d": "padding in the middle",
    "e": "forget which tokens of its encoder",
    "f": "counts padding on the left as places",
    "g": "look at later ones",
    "h": "holds what its encoder read before",
    "i": "does not exchange its states",
    "j": "does not have the axes of batch and tokens",
}
"""What refusals say, by the letter that stands for them in the table."""

CASES = [
    (name, way, side) for name in ARCHITECTURES for way in oracle.WAYS for side in oracle.SIDES
]


def mark_of(name: str, way: str, side: str) -> str:
    """Return what stands in the table for a case, or raise `AssertionError` where it is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers has to say of small models
        try:
            case = oracle.case_of(ARCHITECTURES[name], way, side)
            case.generate()
        except IMPOSSIBLE_HERE:  # nothing of ours is there
            return IMPOSSIBLE
        marks = [_mark(case, steered=steered) for steered in (False, True)]
    assert marks[0] == marks[1], marks
    return marks[0]


def _mark(case: oracle.Case, *, steered: bool) -> str:
    try:
        found = oracle.captured(case, steered=steered)
    except (TenterhookError, ValueError) as error:
        said = str(error)
        (letter,) = (letter for letter, words in REASONS.items() if words in said)
        return letter
    wrong = oracle.difference(case, found, steered=steered)
    assert wrong is None, f"{'steered, ' if steered else ''}{wrong}"
    return RIGHT


@pytest.fixture(scope="module")
def marks() -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    """What was found by now; written to the page at the end where that was asked for."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    yield found
    if os.environ.get("TENTERHOOK_TABLE") == "write":
        text = PAGE.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        for case, sides in on_the_page().items():  # where not all was run
            found[case] = sides | found.get(case, {})
        PAGE.write_text(f"{before}{BEGIN}\n{table(found)}{END}{after}")


def table(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the table of the docs; a case that was not run is a question mark."""
    lines = [["", *oracle.WAYS], ["---"] * (len(oracle.WAYS) + 1)]
    for name, architecture in ARCHITECTURES.items():
        row = [f"{name} ({architecture.kind})"]
        for way in oracle.WAYS:
            sides = found.get((name, way), {})
            row.append(" ".join(sides.get(side, "?") for side in oracle.SIDES))
        lines.append(row)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def on_the_page() -> dict[tuple[str, str], dict[str, str]]:
    """Return what the table says."""
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    head, _, *lines = [re.split(r" *\| *", line)[1:-1] for line in text.strip().splitlines()]
    return {
        (line[0].partition(" (")[0], way): dict(zip(oracle.SIDES, cell.split(), strict=True))
        for line in lines
        for way, cell in zip(head[1:], line[1:], strict=True)
    }


@pytest.mark.matrix(sample=32)
@pytest.mark.parametrize(("name", "way", "side"), CASES, ids=lambda value: str(value))
def test_rows_and_texts(
    name: str, way: str, side: str, marks: dict[tuple[str, str], dict[str, str]]
) -> None:
    """Rows and steered text are those of the texts alone, or refused, as the table says."""
    mark = mark_of(name, way, side)
    marks.setdefault((name, way), {})[side] = mark
    if os.environ.get("TENTERHOOK_TABLE") != "write":
        assert on_the_page()[name, way][side] == mark


def test_the_table_is_whole() -> None:
    """Each case stands in the table of the docs, and each reason below it."""
    said = on_the_page()
    assert set(said) == {(name, way) for name, way, _ in CASES}
    found = {mark for cell in said.values() for mark in cell.values()}
    assert found == {RIGHT, IMPOSSIBLE, *REASONS}
    for letter in REASONS:
        assert f"\n- `{letter}`: " in PAGE.read_text()
