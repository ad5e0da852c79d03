"""Rows are indexed as a numpy array is."""

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tenterhook_store import DocumentMap, MemoryStore, RowOutOfRange, Rows, WrongIndex
from tenterhook_store.testing import a_plan, same_bits, write

ROWS, FEATURES = 700, 5
VALUES = torch.arange(ROWS * FEATURES).reshape(ROWS, FEATURES)


def the_rows(values: Tensor = VALUES) -> Rows:
    """Return rows that are read from a tensor, with nothing but slices."""
    return Rows("h", tuple(values.shape), values.dtype, lambda a, b: values[a:b].clone())


def indices(length: int) -> st.SearchStrategy[Any]:
    """Return everything that numpy takes as an index of one axis and we do."""
    row = st.integers(-length, length - 1)
    mask = st.lists(st.booleans(), min_size=length, max_size=length)
    many = st.lists(row, max_size=30)
    return st.one_of(
        row,
        st.slices(length),
        mask,
        many,
        many.map(lambda rows: np.array(rows, dtype=np.int32)),
        many.map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
        mask.map(np.array),
        mask.map(torch.tensor),
        st.lists(row, min_size=6, max_size=6).map(lambda rows: np.array(rows).reshape(2, 3)),
    )


@settings(max_examples=150, deadline=None)
@given(key=indices(40), features=st.none() | st.integers(-5, 4) | st.slices(5))
def test_any_index_is_numpys(key: Any, features: Any) -> None:
    """Whatever the index, and of features with it, the rows are those that numpy gives."""
    values = VALUES[:40]
    plain = key.numpy() if isinstance(key, Tensor) else key
    if isinstance(key, list):
        plain = np.array(key, dtype=None if key else np.int64)
    if features is None:
        found, expected = the_rows(values)[key], values.numpy()[plain]
    else:
        found = the_rows(values)[key, features]
        expected = values.numpy()[plain][..., features]
    assert list(found.shape) == list(expected.shape)
    assert found.tolist() == expected.tolist()
    if found.numel():
        assert found.untyped_storage().nbytes() == found.numel() * 8


@pytest.mark.parametrize(
    "key",
    [..., (3, ...), (..., 2), (slice(2, 9), ..., slice(None, None, -2)), (), (slice(None, 4),)],
    ids=str,
)
def test_dots(key: Any) -> None:
    """`...` stands for the axes that are left out."""
    assert the_rows()[key].tolist() == VALUES.numpy()[key].tolist()


def test_numbers_have_one_axis() -> None:
    """A number per row is indexed in the same ways."""
    numbers = the_rows(VALUES[:, 0])
    assert numbers[[3, -1]].tolist() == [15, 3495]
    assert numbers[..., 1].item() == 5
    with pytest.raises(WrongIndex, match="it has 1 axes, and 2 are indexed"):
        numbers[1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint16, torch.float8_e5m2, torch.bool])
def test_any_dtype(dtype: torch.dtype) -> None:
    """Rows of dtypes that torch itself cannot index come by their bits."""
    bits = torch.randint(0, 2, (600, 4 * dtype.itemsize), dtype=torch.uint8)
    rows = the_rows(bits.view(dtype))
    found = rows[[599, 0, 0, 300]]
    assert found.dtype is dtype
    assert torch.equal(found.view(torch.uint8), bits[[599, 0, 0, 300]])
    assert torch.equal(rows[::-1].view(torch.uint8), bits.flip(0))


def test_each_piece_is_read_once() -> None:
    """Rows here and there are found in pieces, however they are ordered."""
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return VALUES[start:stop]

    rows = Rows("h", (ROWS, FEATURES), torch.int64, read)
    assert rows[[699, 1, 698, 2, 1]][:, 0].tolist() == [3495, 5, 3490, 10, 5]
    assert asked == [(0, 256), (512, 700)]


def test_far_apart_rows_are_found_by_themselves() -> None:
    """A slice of wide steps reads what is around each row, and not all that is between."""
    asked: list[int] = []
    values = torch.arange(100_000.0)[:, None].expand(100_000, 2)

    def read(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return values[start:stop]

    rows = Rows("h", (100_000, 2), torch.float32, read)
    assert torch.equal(rows[5:90_000:3000], values[5:90_000:3000])
    assert torch.equal(rows[::-3000, 1], values.flip(0)[::3000, 1])
    assert sum(asked) < 20_000


def test_wide_slices_of_features_do_not_read_it_whole() -> None:
    """One feature of all rows is read in blocks."""
    asked: list[int] = []
    values = torch.arange(20_000.0)[:, None].expand(20_000, 2)

    def read(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return values[start:stop]

    rows = Rows("h", (20_000, 2), torch.float32, read)
    assert torch.equal(rows[:, 1], values[:, 1])
    assert max(asked) <= 8192


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (700, RowOutOfRange, "Row 700 is not among the 700 rows of 'h'"),
        ([0, -701], RowOutOfRange, "Row -701 is not among"),
        (torch.tensor([3, 700]), RowOutOfRange, "Row 700"),
        ([True, False], WrongIndex, "one value for each of its 700 rows, and this one is [2]"),
        (np.ones((700, 5), dtype=bool), WrongIndex, "this one is [700, 5]"),
        (np.array([1.0]), WrongIndex, "ints or bools, and these are float64"),
        (torch.tensor([1.5]), WrongIndex, "ints or bools, and these are float32"),
        ([1.5], WrongIndex, "ints or bools, and these are float32"),
        ([True, 3], WrongIndex, "bools and ints do not mix"),
        ((1, 2, 3), WrongIndex, "it has 2 axes, and 3 are indexed"),
        ((..., ...), WrongIndex, "'...' may stand in it once"),
        ((0, 5), WrongIndex, "it has 5 features, and 5 is not among them"),
        ((0, [1, 2]), TypeError, "Features are read by an int or a slice, not by a list"),
        ("a", TypeError, "read by an int or a slice, a mask of one bool a row, or a list"),
        (torch.tensor(True), WrongIndex, "this one is []"),
        (None, TypeError, "not by None"),
        (True, TypeError, "not by True"),
        (["a"], TypeError, "Rows are read by"),
        ({1}, TypeError, "not by a set"),
    ],
    ids=str,
)
def test_what_is_no_index(key: Any, error: type[Exception], match: str) -> None:
    """A mistake names the value and what would do."""
    with pytest.raises(error) as caught:
        the_rows()[key]
    assert match in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_run_of_a_memory_store_stays_in_its_process() -> None:
    """A run in memory cannot go to another process; the error says what can."""
    store = MemoryStore()
    plan = a_plan()
    write(store.write_run("one", plan), plan.units())
    with pytest.raises(TypeError, match="Use a LocalStore, or workers that are forked"):
        pickle.dumps(store.run("one"))
    with pytest.raises(TypeError):
        copy.deepcopy(store)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40), block=st.integers(1, 20))
def test_rows_of_documents(lengths: list[int], block: int) -> None:
    """Whatever the documents, and wherever blocks end, each has its rows; those without have none.

    They are asked for backwards, then in order.
    """
    numbers = [at for at, length in enumerate(lengths) for _ in range(length)]
    index = the_rows(torch.tensor(numbers, dtype=torch.int64))
    expected, at = [], 0
    for length in lengths:
        expected.append(slice(at, at + length))
        at += length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenterhook_store.document_map.BLOCK", block)
        documents = DocumentMap(index, index, len(lengths))
        backwards = [documents.rows(at) for at in range(-1, -len(lengths) - 1, -1)]
        assert backwards == expected[::-1]
        assert [documents.rows(at) for at in range(len(lengths))] == expected


def test_documents_are_found_in_little_memory() -> None:
    """One document is found by a few looks; one after the other reads each row once or so."""
    asked: list[int] = []
    values = torch.arange(10**6) // 100

    def read(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return values[start:stop]

    index = Rows("document", (10**6,), torch.int64, read)
    documents = DocumentMap(index, index, 10**4)
    assert documents.rows(7000) == slice(700_000, 700_100)
    assert sum(asked) < 20_000
    asked.clear()
    assert all(documents.rows(at) == slice(100 * at, 100 * at + 100) for at in range(10**4))
    assert sum(asked) < 1.1 * 10**6
    assert max(asked) <= 8192


def test_documents_are_one_object() -> None:
    """What was looked up stays known to the run."""
    store, plan = MemoryStore(), a_plan()
    write(store.write_run("one", plan), plan.units())
    run = store.run("one")
    assert run.documents is run.documents


def test_runs_are_let_go_of() -> None:
    """A run that nobody holds is freed at once, with the files that it has mapped."""
    store, plan = MemoryStore(), a_plan()
    write(store.write_run("one", plan), plan.units())
    run = store.run("one")
    loader = run.loader(run.layers[0], 2)
    next(iter(loader))
    gone = weakref.ref(run)
    gc.collect()
    gc.disable()
    try:
        run.documents.rows(0)
        del run, loader
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int32, torch.bool], ids=str
)
def test_torch_takes_them_for_a_tensor(dtype: torch.dtype) -> None:
    """All rows at once, bit for bit, in the dtype that was stored, or in another."""
    values = (VALUES % 3).to(dtype)
    for take in (torch.as_tensor, torch.asarray, torch.tensor, from_dlpack):
        found = take(the_rows(values))
        assert found.dtype is dtype
        assert same_bits(found, values)
    assert torch.as_tensor(the_rows(values), dtype=torch.float64).equal(values.double())
    assert torch.as_tensor(the_rows(values)[:0]).shape == (0, FEATURES)


def test_what_torch_makes_of_them_is_the_callers_own() -> None:
    """Writing to it changes nothing in the store."""
    rows = the_rows()
    torch.as_tensor(rows)[:] = 0
    assert rows[:].equal(VALUES)
