"""Between which lengths the rows of a chunk lie: no row beyond, in any dtype, of any size."""

import math
from typing import Any

import pytest
import torch
from bounded_runs import DTYPES, written
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_store import (
    NORM_CHUNK,
    NORM_ROWS,
    DamagedStore,
    LayerArray,
    MemoryStore,
    NormBound,
    NotCaptured,
    RowBlock,
    Run,
    RunPlan,
)


def length(row: Tensor) -> float:
    """Return the length of a row, as exactly as floats of 64 bits tell it."""
    return math.hypot(*row.double().tolist())


def check(run: Run, slack: float) -> None:
    """See that every row is within the bounds of its chunk, which are not wider than they say."""
    bounds = run.norm_bounds("x")
    assert bounds is not None
    covered: list[int] = []
    for each in bounds:
        lengths = [length(row) for row in run["x"][each.start : each.stop]]
        covered += range(each.start, each.stop)
        finite = [found for found in lengths if math.isfinite(found)]
        assert all(each.smallest <= found <= each.largest for found in finite), each
        if len(finite) < len(lengths):
            assert each.largest == math.inf
        elif max(finite) <= torch.finfo(torch.float32).max / 2:
            assert each.largest <= max(finite) * (1 + slack) + 1e-44
        if finite:
            limited = min(min(finite), torch.finfo(torch.float32).max)
            assert each.smallest >= limited * (1 - slack) - 1e-44
    wanted = [row for part in run.ranges for row in range(part.start, part.stop)]
    assert covered == wanted
    assert torch.equal(bounds.is_bounded, torch.isfinite(bounds.largest))


def scaled(rows: int, features: int, seed: int) -> Tensor:
    """Return rows of every size that float64 has, zeros, infinities and NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-330, 310, (rows, 1), generator=generator).double()
    found = torch.randn(rows, features, generator=generator).double() * 10.0**exponent
    usual = torch.rand(rows, generator=generator) < 0.5
    found[usual] = torch.randn(int(usual.sum()), features, generator=generator).double()
    kind = torch.rand(rows, generator=generator)
    found[kind < 0.05] = 0
    found[(kind > 0.9) & (kind < 0.95), 0] = torch.nan
    found[kind > 0.95, -1] = -torch.inf
    return found


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    features=st.sampled_from([1, 2, 7, 64]),
    dtype=st.sampled_from(DTYPES),
    chunk=st.integers(1, 12),
    blocks=st.integers(1, 11),
    seed=st.integers(0, 2**20),
)
def test_every_row_lies_within(
    rows: int, features: int, dtype: str, chunk: int, blocks: int, seed: int
) -> None:
    """However rows come in blocks, in every dtype, at every size that it has."""
    found = scaled(rows, features, seed)
    run = written(found, dtype, chunk=chunk, blocks=blocks)
    check(run, 2 * (features + 10) * 2.0**-23)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows_in_large_blocks(dtype: str) -> None:
    """As a capture has them: the bounds are tight, to a thousandth."""
    torch.manual_seed(0)
    rows = torch.randn(600, 1024) * torch.rand(600, 1) * 30
    run = written(rows, dtype, chunk=NORM_CHUNK, unit=600, blocks=500)
    check(run, 1e-3)
    bounds = run.norm_bounds("x")
    assert bounds is not None
    assert [(each.start, each.stop) for each in bounds] == [(0, 256), (256, 512), (512, 600)]
    assert len(bounds) == 3
    assert bounds.is_bounded.all()


@pytest.mark.parametrize("dtype", ["complex64", "int64", "bool", "float8_e4m3fn"])
def test_numbers_that_are_no_usual_floats(dtype: str) -> None:
    """What else a layer may return."""
    torch.manual_seed(0)
    rows = 5 * torch.randn(20, 33, dtype=torch.complex64 if "complex" in dtype else torch.float32)
    run = written(rows, dtype)
    bounds = run.norm_bounds("x")
    assert bounds is not None
    for each in bounds:
        stored = run["x"][each.start : each.stop]
        wide = torch.complex128 if stored.is_complex() else torch.float64
        norms = stored.to(wide).abs().square().sum(1).sqrt()
        assert each.smallest <= float(norms.min()) <= each.smallest * 1.001
        assert each.largest * 0.999 <= float(norms.max()) <= each.largest


def test_what_is_in_a_bound() -> None:
    """Numbers told by hand; a row that is not finite leaves its chunk without a bound."""
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0]])
    bounds = written(rows, "float32", chunk=2, unit=4).norm_bounds("x")
    assert bounds is not None

    first, second, last = bounds
    assert isinstance(first, NormBound)
    assert (first.smallest, first.largest) == pytest.approx((1, 5), rel=1e-5)
    assert (second.smallest, second.largest) == (0, math.inf)
    assert last.largest == math.inf
    assert bounds.is_bounded.tolist() == [True, False, False]


def test_a_run_that_lacks_units() -> None:
    """Chunks of the units that are there, by their rows."""
    run = written(torch.randn(28, 3), "float32", units=(0, 2))
    check(run, 1e-5)
    bounds = run.norm_bounds("x")
    assert bounds is not None
    assert bounds.start.tolist() == [0, 4, 8, 20, 24]
    assert bounds.stop.tolist() == [4, 8, 10, 24, 28]


@pytest.mark.parametrize("said", [0, -3, None, "256", 2.5, True])
def test_a_run_without_bounds(said: Any) -> None:
    """One of an earlier version reads as before, and says that there are none."""
    run = written(torch.randn(10, 3), "float32", chunk=0)
    run.plan.about[NORM_ROWS] = said  # type: ignore[index]
    assert run.norm_bounds("x") is None
    with pytest.raises(NotCaptured):
        run.norm_bounds("y")


def test_a_run_with_nothing_committed() -> None:
    """There are no rows to have bounds of."""
    assert written(torch.randn(10, 3), "float32", units=()).norm_bounds("x") is None


def test_chunks_larger_than_a_unit() -> None:
    """One to a unit, however large a plan says they are."""
    bounds = written(torch.randn(25, 3), "float32", chunk=2**62).norm_bounds("x")
    assert bounds is not None
    assert bounds.stop.tolist() == [10, 20, 25]


def test_bounds_that_are_none() -> None:
    """What a unit keeps under that name has the shape and dtype that it must have."""
    plan = RunPlan(
        rows=4,
        rows_per_unit=4,
        documents=1,
        layers=[LayerArray("x", 1, "float32")],
        about={NORM_ROWS: 2},
    )
    store = MemoryStore()
    with store.write_run("run", plan).open_unit(plan.unit(0)) as writing:
        part = torch.arange(4)
        layers = {"x": torch.ones(4, 1)}
        writing.append(RowBlock(tokens=part, documents=part, positions=part, layers=layers))
        writing.keep("norms/x", torch.ones(3, 2))
        writing.commit({})
    with pytest.raises(DamagedStore, match=r"unit 0 of run 'run'.*'norms/x' is no bound of each 2"):
        store.run("run").norm_bounds("x")
