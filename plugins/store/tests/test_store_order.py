"""Which rows come when: every row once, in orders that follow from their keys."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_store import order as ordering
from tenterhook_store.order import Bufferfuls, Cut, Permutation, ShuffledBlocks


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 300),
    batch_size=st.integers(1, 50),
    world_size=st.integers(1, 5),
    workers=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_every_place_belongs_to_one(
    rows: int, batch_size: int, world_size: int, workers: int, drop_last: bool
) -> None:
    """Ranks and workers share the places, in turn and in stretches, none twice and none left."""
    cut = Cut(rows=rows, batch_size=batch_size, drop_last=drop_last, world_size=world_size)
    in_turn: list[int] = []
    pieces: list[int] = []
    for rank in range(world_size):
        of_rank = 0
        for worker in range(workers):
            count = cut.of_worker(rank, worker, workers)
            of_rank += count
            for number in range(count):
                in_turn += range(*cut.in_turn(number, rank, worker, workers))
            start, stop = cut.in_one_piece(rank, worker, workers)
            assert -(-(stop - start) // batch_size) == count
            pieces += range(start, stop)
        assert of_rank == cut.of_rank(rank)
    given_rows = min(rows, cut.batches * batch_size)
    assert sorted(in_turn) == pieces == list(range(given_rows))
    counts = {cut.of_rank(rank) for rank in range(world_size)}
    assert max(counts) - min(counts) <= (0 if drop_last else 1)
    assert drop_last or given_rows == rows


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 200), size=st.integers(1, 40), key=st.integers())
def test_blocks_in_random_order(data: st.DataObject, rows: int, size: int, key: int) -> None:
    """The blocks are all there, and any stretch of their order is the same however it is cut."""
    blocks = ShuffledBlocks(rows, size, key)
    whole = [row for piece in blocks.stretch(0, rows) for row in range(*piece)]
    assert sorted(whole) == list(range(rows))
    pieces = list(blocks.stretch(0, rows))
    assert len(pieces) == -(-rows // size)
    assert all(first % size == 0 for first, _ in pieces)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    part = [row for piece in blocks.stretch(start, stop) for row in range(*piece)]
    assert part == whole[start:stop]


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(2, 5000), key=st.integers(), table=st.booleans())
def test_permutation(rows: int, key: int, table: bool) -> None:
    """Every row comes once, from a table and computed, and any stretch is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "TABLE_ROWS", 10**9 if table else 0)
        order = Permutation(rows, key)
        whole = order.stretch(0, rows)
        assert whole.sort().values.tolist() == list(range(rows))
        half = rows // 2
        assert torch.equal(torch.cat([order.stretch(0, half), order.stretch(half, rows)]), whole)
        assert torch.equal(Permutation(rows, key).stretch(0, rows), whole)


def test_computed_permutation_looks_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each row comes, and what follows it, is as evenly spread as it is by chance."""
    monkeypatch.setattr(ordering, "TABLE_ROWS", 0)
    rows, keys, parts = 1000, 400, 10
    places = torch.zeros(parts, parts)
    steps = torch.zeros(parts)
    fixed = 0
    for key in range(keys):
        order = Permutation(rows, key).stretch(0, rows)
        at, row = torch.arange(rows) * parts // rows, order * parts // rows
        places.view(-1).index_add_(0, at * parts + row, torch.ones(rows))
        step = (order.diff() % rows) * parts // rows
        steps.index_add_(0, step, torch.ones(rows - 1))
        fixed += int((order == torch.arange(rows)).sum())
    expected = rows * keys / parts**2
    # 81 degrees of freedom: above 130 by chance once in 2,000 times; the keys are fixed here.
    assert ((places - expected) ** 2 / expected).sum() < 130
    assert ((steps - steps.mean()) ** 2 / steps.mean()).sum() < 30
    assert 330 < fixed < 470  # one a permutation in the mean


def test_large_permutation_takes_no_memory() -> None:
    """Of a billion rows any part is there at once; parts that are apart share no row."""
    order = Permutation(10**9 + 7, "key")
    some = torch.cat([order.stretch(0, 50_000), order.stretch(10**9 - 50_000, 10**9)])
    assert len(set(some.tolist())) == 100_000
    assert 0 <= int(some.min()) < 10**5
    assert 10**9 - 10**5 < int(some.max()) < 10**9 + 7


@given(
    rows=st.integers(1, 3000),
    batch_size=st.integers(1, 70),
    buffer_rows=st.integers(1, 500),
)
def test_bufferfuls_are_equal(rows: int, batch_size: int, buffer_rows: int) -> None:
    """They are whole batches, the larger first, none larger than the buffer, all rows in one."""
    cut = Bufferfuls(rows, batch_size, buffer_rows)
    begins = [cut.begin(number) for number in range(cut.count + 1)]
    sizes = [-(-(last - first) // batch_size) for first, last in itertools.pairwise(begins)]
    assert (begins[0], begins[-1]) == (0, rows)
    assert all(begin % batch_size == 0 for begin in begins[:-1])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert sizes[0] <= max(1, buffer_rows // batch_size)
    for row in range(0, rows, batch_size):
        number = cut.of(row)
        assert begins[number] <= row < begins[number + 1]
