"""Searching a run: what is found is what multiplying every row finds, and most is not read."""

from typing import Any

import pytest
import torch
from bounded_runs import DTYPES, written
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_store import (
    BadSetting,
    Hits,
    LayerArray,
    MemoryStore,
    NotCaptured,
    Run,
    RunPlan,
)


def every_score(run: Run, direction: Tensor, by: str) -> dict[int, float]:
    """Multiply every row in float64; those that have no product are left out."""
    numbers = torch.cat([torch.arange(part.start, part.stop) for part in run.ranges])
    rows = run["x"].take(numbers).double()
    scores = (rows * direction.double()).sum(1)
    if by == "cosine":
        unit = rows.abs().amax(1, keepdim=True)
        lengths = (rows / unit).square().sum(1).sqrt() * unit[:, 0]
        length = direction.double().norm()
        scores = (rows / unit * (direction.double() / length)).sum(1) * unit[:, 0] / lengths
    pairs = zip(numbers.tolist(), scores.tolist(), strict=True)
    return {row: score for row, score in pairs if score == score}


def check(found: Hits, scores: dict[int, float], k: int) -> None:
    """The scores are the highest, and each row has the score that is said of it."""
    highest = sorted(scores.values(), reverse=True)[:k]
    assert found.scores.tolist() == pytest.approx(highest, rel=1e-9, abs=1e-300)
    assert len(set(found.rows.tolist())) == len(highest)
    for hit in found:
        assert hit.score == pytest.approx(scores[hit.row], rel=1e-9, abs=1e-300)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_it_is_what_multiplying_all_rows_finds(data: st.DataObject) -> None:
    """Whatever the dtype, the lengths of rows, ties, NaN, infinities, missing units and bounds."""
    count, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator)
    scale = data.draw(st.sampled_from([0.0, 1.0, 4.0, 20.0]))
    rows *= (scale * torch.randn(count, 1, generator=generator)).exp()
    if data.draw(st.booleans()):  # ties
        rows[torch.randint(count, (count // 2,), generator=generator)] = rows[0].clone()
    for value in data.draw(st.lists(st.sampled_from([torch.nan, torch.inf, 0.0]), max_size=2)):
        rows[data.draw(st.integers(0, count - 1))] = value
    dtype = data.draw(st.sampled_from(DTYPES))
    chunk = data.draw(st.sampled_from([0, 1, 4, 7]))
    units = range(-(-count // 10))
    kept = data.draw(st.lists(st.sampled_from(units), min_size=1, unique=True).map(sorted))
    run = written(rows, dtype, chunk=chunk, units=kept)
    direction = torch.randn(width, generator=generator) * data.draw(st.sampled_from([1e-8, 1, 1e9]))
    k = data.draw(st.sampled_from([1, 3, 100]))
    by: Any = data.draw(st.sampled_from(["dot", "cosine"]))

    found = run.search(direction, k, by=by, threads=data.draw(st.integers(1, 2)))

    check(found, every_score(run, direction, by), k)


def test_equal_rows_come_in_their_order() -> None:
    """So that the same search gives the same rows."""
    run = written(torch.ones(40, 3), chunk=4)

    assert run.search(torch.ones(3), 5).rows.tolist() == [0, 1, 2, 3, 4]


def test_short_rows_are_not_read() -> None:
    """A few long rows, which are found; chunks without one are passed over."""
    rows = 0.01 * torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    rows[[17, 2345]] = 10.0
    run = written(rows, chunk=16, unit=1000)
    whole = written(rows, chunk=0, unit=1000)
    direction = torch.ones(8)

    found = run.search(direction, k=2)

    assert found.rows.tolist() == whole.search(direction, k=2).rows.tolist() == [17, 2345]
    assert found.rows_read < 400
    assert whole.search(direction, k=2).rows_read == 4000
    assert run.search(direction, k=2, by="cosine").rows_read == 4000


def test_what_a_hit_says() -> None:
    """Its row, its place, its token, and the text around it in its document alone."""
    run = written(torch.arange(40.0)[:, None])
    words = type("Words", (), {"decode": lambda _, ids: " ".join(map(str, ids))})()

    found = run.search([1.0], k=3)

    assert [(hit.row, hit.score) for hit in found] == [(39, 39.0), (38, 38.0), (37, 37.0)]
    assert (found[1].document, found[1].position, found[1].token) == (7, 3, 38)
    assert found[-1].around(1, words) == "36 37 38"
    assert found.texts(9, words) == ["35 36 37 38 39"] * 3
    assert [hit.row for hit in found[:2]] == [39, 38]
    assert repr(found) == "Hits('x', by='dot', 3 rows, best 39)"
    assert "score=39.0" in repr(found[0])


def test_missing_rows_are_not_in_a_text() -> None:
    """Those around a hit that are there."""
    run = written(torch.arange(40.0)[:, None], units=[1, 3], unit=7)
    words = type("Words", (), {"decode": lambda _, ids: " ".join(map(str, ids))})()

    found = run.search([-1.0], k=1)

    assert found[0].row == 7
    assert found[0].around(3, words) == "7 8 9"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"direction": [1.0]}, r"direction=\[1\] must be of shape \[3\], as wide as 'x'"),
        ({"direction": [0.0, 0.0, 0.0]}, "must be finite, and not all zeros"),
        ({"direction": [1.0, torch.nan, 0.0]}, "must be finite, and not all zeros"),
        ({"direction": [1j, 0, 0]}, "must be real"),
        ({"k": 0}, "k=0 must be a whole number, 1 or more"),
        ({"threads": 0}, "threads=0 must be"),
        ({"by": "angle"}, "by='angle' must be 'dot' or 'cosine'"),
    ],
)
def test_what_cannot_be_searched_for(given: dict[str, Any], match: str) -> None:
    """The value is named, and what it may be."""
    run = written(torch.ones(10, 3))

    with pytest.raises(BadSetting, match=match):
        run.search(**{"direction": [1.0, 0.0, 0.0], **given})


def test_the_layer_of_several() -> None:
    """It has to be named, and to be there."""
    run = written(torch.ones(10, 3))
    with pytest.raises(NotCaptured):
        run.search(torch.ones(3), layer="y")
    plan = RunPlan(
        rows=2,
        rows_per_unit=2,
        documents=1,
        layers=[LayerArray("a", 3, "float32"), LayerArray("b", 3, "float32")],
    )
    store = MemoryStore()
    store.write_run("run", plan)
    with pytest.raises(BadSetting, match="layer=None must be one of the run's: a, b"):
        store.run("run").search(torch.ones(3))
    assert len(store.run("run").search(torch.ones(3), layer="a")) == 0
