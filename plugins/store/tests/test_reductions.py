"""Statistics of parts, merged: the same as of all rows, whatever the parts and their order."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tenterhook_store.reductions import SKETCH, Moments, Sketch, Top

tables = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.integers(1, 4)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@st.composite
def split_tables(draw: Any) -> tuple[np.ndarray[Any, Any], list[tuple[int, int]]]:
    """Draw rows, cut into parts, in any order."""
    table = draw(tables)
    cuts = draw(st.lists(st.integers(1, len(table)), max_size=5, unique=True))
    ends = sorted({0, *cuts, len(table)})
    parts = list(itertools.pairwise(ends))
    return table, draw(st.permutations(parts))


@settings(deadline=None, max_examples=60)
@given(split_tables())
def test_moments(found: tuple[np.ndarray[Any, Any], list[tuple[int, int]]]) -> None:
    """Mean, variance and covariance do not depend on the parts but for rounding."""
    table, parts = found
    for products in (False, True):
        first, *rest = (
            Moments.of(torch.from_numpy(table[a:b]), products=products) for a, b in parts
        )
        for other in rest:
            first = first.merged(other)
        size = max(1.0, float(np.abs(table).max()))
        assert first.count == len(table)
        np.testing.assert_allclose(first.mean, table.mean(0), atol=1e-10 * size)
        np.testing.assert_allclose(first.squares / len(table), table.var(0), atol=1e-10 * size**2)
        if products:
            exact = np.cov(table.T, ddof=0).reshape(first.deviations.shape)
            np.testing.assert_allclose(first.deviations / len(table), exact, atol=1e-10 * size**2)


def test_moments_far_from_zero() -> None:
    """A mean that is large beside the spread does not swallow it."""
    table = 1e8 + torch.randn(1000, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    merged = Moments.of(table[:10])
    for at in range(10, 1000, 90):
        merged = merged.merged(Moments.of(table[at : at + 90]))
    np.testing.assert_allclose(merged.squares / 1000, table.numpy().var(0), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(split_tables(), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_of_small_parts_are_exact(
    found: tuple[np.ndarray[Any, Any], list[tuple[int, int]]], q: list[float]
) -> None:
    """Parts that are kept whole give numpy's own, in any order."""
    table, parts = found
    sketch = Sketch.merged(Sketch.of(torch.from_numpy(table[a:b])) for a, b in parts)
    assert sketch.error == 0
    exact = np.quantile(table, q, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(sketch.quantiles(q), exact)


@pytest.mark.parametrize("sizes", [[513], [5000], [1000, 700, 40, 3000]], ids=str)
@pytest.mark.parametrize("kind", ["normal", "heavy", "ties", "sorted"])
def test_quantiles_of_large_parts_are_within_their_error(sizes: list[int], kind: str) -> None:
    """A value's rank is off by no more than the sketch says, which is 0.2 % at most."""
    draw = torch.manual_seed(0)
    count = sum(sizes)
    table = torch.randn(count, 3, generator=draw)
    if kind == "heavy":
        table = table.pow(9)
    elif kind == "ties":
        table = table.mul(2).round()
    elif kind == "sorted":
        table = table.sort(0).values
    sketch = Sketch.merged(Sketch.of(part) for part in torch.split(table, sizes))
    assert 0 < sketch.error < 0.002
    assert int(sketch.weights.sum()) == count
    assert len(sketch.values) <= SKETCH * len(sizes)
    q = torch.linspace(0, 1, 101).tolist()
    found = sketch.quantiles(q)
    room = sketch.error * count + 1
    for feature in range(3):
        column = table[:, feature]
        for part, value in zip(q, found[:, feature], strict=True):
            assert (column <= value).sum() >= part * count - room
            assert (column < value).sum() <= part * count + room
    np.testing.assert_array_equal(found[0], table.amin(0))
    np.testing.assert_array_equal(found[-1], table.amax(0))


@settings(deadline=None, max_examples=60)
@given(split_tables(), st.integers(1, 6), st.booleans())
def test_top(
    found: tuple[np.ndarray[Any, Any], list[tuple[int, int]]], count: int, ties: bool
) -> None:
    """The highest values, of equal ones the earlier rows, whatever the parts."""
    table, parts = found
    if ties:
        table = np.sign(table)
    first, *rest = (Top.of(torch.from_numpy(table[a:b]), count, first=a) for a, b in parts)
    for other in rest:
        first = first.merged(other, count)
    order = np.argsort(-table, axis=0, kind="stable")[:count]
    np.testing.assert_array_equal(first.rows, order)
    np.testing.assert_array_equal(first.values, np.take_along_axis(table, order, 0))


def test_what_is_no_number_is_never_on_top() -> None:
    """NaN counts as lowest."""
    rows = torch.tensor([[1.0], [torch.nan], [3.0]])
    assert Top.of(rows, 2).rows.tolist() == [[2], [0]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_means_of_infinities(order: tuple[int, ...]) -> None:
    """Where float16 has overflowed the mean is what numpy gives, whatever the parts."""
    table = torch.tensor([[1e5, 1.0, -1e5], [2.0, 1e5, 1e5], [1e5, 3.0, 4.0]]).half()
    first, *rest = (Moments.of(table[[at]]) for at in order)
    for other in rest:
        first = first.merged(other)
    np.testing.assert_array_equal(first.mean, [np.inf, np.inf, np.nan])
    assert first.squares.isnan().all()
