"""Many numbers, most of them in a file: read as those of a list are."""

import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_capture.spilled import Numbers


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["i", "q"]),
    pieces=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), max_size=12),
    in_memory=st.integers(1, 20),
    data=st.data(),
)
def test_they_are_as_in_a_list(
    kind: Literal["i", "q"], pieces: list[list[int]], in_memory: int, data: st.DataObject
) -> None:
    """Whatever was added, and however much of it is in the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenterhook_capture.spilled.IN_MEMORY", in_memory)
        numbers, plain = Numbers(kind), list[int]()
        for piece in pieces:
            numbers.extend(piece)
            plain += piece
            key = data.draw(st.slices(len(plain)))
            assert numbers[key].tolist() == plain[key]
            assert len(numbers) == len(plain)
        assert list(numbers) == plain
        for at in range(-len(plain), len(plain)):
            assert numbers[at] == plain[at]
        with pytest.raises(IndexError):
            numbers[len(plain)]


def test_few_are_in_memory() -> None:
    """Of a hundred times as many as are kept in memory, the rest are in the file."""
    numbers = Numbers("q")
    for start in range(0, 100 << 17, 1 << 16):
        numbers.extend(range(start, start + (1 << 16)))
    assert len(numbers) == 100 << 17
    assert len(numbers._new) < 1 << 17
    assert numbers[7_777_777] == 7_777_777


def test_disk_that_fills_up(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder and the variable that says another."""
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    numbers = Numbers("q")
    with pytest.raises(OSError, match="No space left on device; set TMPDIR to a folder") as caught:
        numbers.extend(range(1 << 17))
    assert caught.value.filename == str(full_disk)
