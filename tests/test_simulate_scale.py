"""The simulation of a capture by many workers, held against what can be worked out by hand."""

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def scale() -> Any:
    """Import the benchmark."""
    path = HERE / "benchmarks" / "simulate_scale.py"
    found = importlib.util.spec_from_file_location("simulate_scale", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["simulate_scale"] = module
    found.loader.exec_module(module)
    return module


PLAIN: dict[str, Any] = {
    "units": 60,
    "unit_bytes": 0.0,
    "unit_seconds": 10.0,
    "spread": 0.0,
    "slow": 0.0,
    "disk": math.inf,
    "link": math.inf,
    "commit": 0.5,
    "planning": 100.0,
    "loading": 7.0,
    "listing": 0.0,
    "handing": 0.25,
    "life": math.inf,
}


def test_one_worker_that_never_dies(scale: Any) -> None:
    """The plan, the beginning, and the units one after the other."""
    found = scale.simulate(scale.Inputs(**PLAIN), 1)
    assert found.seconds == pytest.approx(100 + 7 + 60 * (0.25 + 10 + 0.5))
    assert (found.deaths, found.wasted, found.writing) == (0, 0, pytest.approx(0))
    assert found.computed == pytest.approx(600)
    assert found.efficiency == pytest.approx(600 / found.seconds)


@pytest.mark.parametrize(("workers", "rounds"), [(2, 30), (7, 9), (60, 1), (100, 1)])
def test_an_infinite_disk(scale: Any, workers: int, rounds: int) -> None:
    """As many rounds as the worker with the most units has."""
    found = scale.simulate(scale.Inputs(**PLAIN | {"handing": 0.0}), workers)
    assert found.seconds == pytest.approx(100 + 7 + rounds * (10 + 0.5))


@pytest.mark.parametrize("overlap", [True, False])
def test_a_disk_that_is_too_slow(scale: Any, overlap: bool) -> None:
    """However many workers there are, the bytes take their time."""
    slow = {"unit_bytes": 1e9, "disk": 1e8, "handing": 0.0, "commit": 0.0, "overlap": overlap}
    found = scale.simulate(scale.Inputs(**PLAIN | slow), 60)
    after = 0 if overlap else 10
    assert found.seconds == pytest.approx(100 + 7 + after + 60 * 1e9 / 1e8)
    assert found.writing == pytest.approx(60 * (600 - (10 - after)))


def test_a_link_that_is_too_slow(scale: Any) -> None:
    """Each writes at its own rate, whatever the disk has left."""
    slow = {"unit_bytes": 1e9, "disk": 1e12, "link": 1e8 / 2, "handing": 0.0, "commit": 0.0}
    found = scale.simulate(scale.Inputs(**PLAIN | slow), 60)
    assert found.seconds == pytest.approx(100 + 7 + 20)


def test_a_driver_that_is_too_slow(scale: Any) -> None:
    """Units are handed out one by one."""
    found = scale.simulate(scale.Inputs(**PLAIN | {"handing": 3.0}), 60)
    assert found.seconds == pytest.approx(100 + 7 + 60 * 3 + 10 + 0.5)


def test_deaths_alone(scale: Any) -> None:
    """A unit of T seconds that is begun anew at each death takes L (e^(T/L) - 1) in the mean."""
    own = {"units": 4000, "planning": 0.0, "loading": 0.0, "handing": 0.0, "commit": 0.0}
    inputs = scale.Inputs(**PLAIN | own | {"life": 8.0, "replacing": 0.0})
    found = scale.simulate(inputs, 1)
    each = 8.0 * math.expm1(10 / 8.0)
    assert found.seconds == pytest.approx(4000 * each, rel=0.06)
    assert found.wasted == pytest.approx(found.seconds - 40_000, rel=1e-6)
    assert found.deaths == pytest.approx(found.seconds / 8.0, rel=0.06)


def test_stragglers_hold_the_end(scale: Any) -> None:
    """A worker that is ten times as slow has the last unit."""
    slow = {"slow": 0.1, "slow_factor": 10.0, "units": 100, "seed": 1}
    fast = scale.simulate(scale.Inputs(**PLAIN | {"units": 100}), 50)
    found = scale.simulate(scale.Inputs(**PLAIN | slow), 50)
    assert found.seconds - fast.seconds > 70
    assert found.waiting > fast.waiting


def test_everything_at_once(scale: Any) -> None:
    """The same seed is the same run; all units are done, and no time is unaccounted for."""
    own = {"spread": 0.5, "slow": 0.2, "life": 60.0, "unit_bytes": 1e9, "disk": 5e9, "link": 1e9}
    for workers in (1, 3, 40, 200):
        inputs = scale.Inputs(**PLAIN | own | {"listing": 0.01, "replacing": 5.0})
        found = scale.simulate(inputs, workers)
        assert found == scale.simulate(inputs, workers)
        assert found.deaths > 0
        assert found.seconds > 107
        parts = ("computed", "planning", "starting", "writing", "waiting", "wasted")
        assert all(getattr(found, part) >= 0 for part in parts)
        assert sum(getattr(found, part) for part in parts) <= workers * found.seconds
        assert found.bytes_per_second <= 5e9


def test_times_that_were_measured(scale: Any) -> None:
    """They are drawn instead of those that follow from a formula."""
    inputs = scale.Inputs(**PLAIN | {"unit_times": (2.0,), "handing": 0.0})
    assert scale.simulate(inputs, 1).seconds == pytest.approx(100 + 7 + 60 * 2.5)


def test_the_page_has_what_it_gives(scale: Any) -> None:
    """Lines of its tables are those that the defaults give, to the letter."""
    page = (HERE / "docs" / "explanation" / "scale.md").read_text().splitlines()
    fast: dict[str, Any] = {"planning": 0.0, "disk": 500e9}
    for given in ({}, fast):
        head, line = scale.table([scale.simulate(scale.Inputs(**given), 1000)]).splitlines()
        assert page.count(line) == 1
        assert head in page
    (change,) = (line for line in page if "--loading 2120" in line and line.startswith("|"))
    found = scale.simulate(scale.Inputs(**fast, loading=2120.0), 1000)
    cells = f"{found.seconds / 3600:.2f} h, {100 * found.efficiency:.0f} %"
    assert change.split(" | ")[2] == cells
