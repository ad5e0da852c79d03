"""The units of a plan are a sequence that makes each when it is asked for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenterhook_store import RunPlan, Unit, fold
from tenterhook_store.plan import Units
from tenterhook_store.unit_numbers import UnitNumbers


def a_plan(rows: int, rows_per_unit: int) -> RunPlan:
    """Return a plan of no layers."""
    return RunPlan(rows=rows, rows_per_unit=rows_per_unit, documents=1, layers=())


@given(rows=st.integers(1, 60), size=st.integers(1, 25), part=st.slices(8))
def test_they_are_like_a_tuple_of_them(rows: int, size: int, part: slice) -> None:
    """Indexed, sliced, compared and looked through."""
    plan = a_plan(rows, size)
    expected = tuple(plan.unit(number) for number in range(plan.unit_count))
    units = plan.units()
    assert units == expected
    assert tuple(units) == expected
    assert tuple(units[part]) == expected[part]
    assert units[-1] == expected[-1]
    assert all(unit in units for unit in expected)
    assert Unit(0, 0, rows + 1) not in units
    assert all(other != units[:1] for other in ((), [expected[0]] * 2))
    assert sum(unit.rows for unit in units) == rows
    assert (units == 3) is False


def test_any_number_of_them_takes_no_memory() -> None:
    """Nothing is made before it is asked for."""
    units = a_plan(2**60, 1).units()
    assert len(units) == 2**60
    assert units[2**59] == Unit(2**59, 2**59, 2**59 + 1)
    assert list(itertools.islice(units[5:], 2)) == [Unit(5, 5, 6), Unit(6, 6, 7)]
    assert repr(units) == "Units(1,152,921,504,606,846,976 of 1 rows)"
    with pytest.raises(IndexError):
        units[2**60]


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_folded_as_any_text(name: str) -> None:
    """The way that is short leads to the same."""
    assert fold(name) == fold(f"{name}é").removesuffix("é")


def test_units_of_any_numbers() -> None:
    """They may be those that are missing, and say how many rows they have without being made."""
    plan = a_plan(rows=10**12 + 3, rows_per_unit=8)
    assert plan.units().rows == plan.rows
    last = plan.unit_count - 1
    missing = Units(plan, UnitNumbers.missing(frozenset({1, 5}), plan.unit_count, 2))
    assert [unit.number for unit in missing[:4]] == [2, 3, 4, 6]
    assert (len(missing), missing.rows) == (last - 2, plan.rows - 3 * 8)
    assert missing[-1] == plan.unit(last)
    assert missing[-1].rows == 3
    assert plan.unit(5) not in missing
    assert Units(plan, range(0)).rows == 0
    assert len(UnitNumbers.missing(frozenset({1, 5}), 4, 1)) == 2


@given(st.frozensets(st.integers(0, 12)), st.integers(0, 12), st.integers(0, 12))
def test_what_is_missing_of_any_part(committed: frozenset[int], count: int, first: int) -> None:
    """Whatever is committed, in the part and outside it."""
    expected = [number for number in range(first, count) if number not in committed]
    assert UnitNumbers.missing(committed, count, first) == expected
