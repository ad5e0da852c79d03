"""Units whose rows a store would keep in chunks of a few are rounded, and it is said."""

import warnings

import attrs
import pytest

from tenterhook_capture import (
    CaptureOptions,
    UnitsRounded,
    begin_run,
    prepare_capture,
    save_activations,
)
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_capture.unit_rows import rounded_rows
from tenterhook_store import MemoryStore

TEXTS = [f"word{number} and others" for number in range(200)]


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (1, 1),
        (101, 101),
        (251, 251),
        (256, 256),
        (257, 512),
        (500, 500),
        (1009, 1024),
        (2000, 2000),
        (32_767, 32_767),
        (32_768, 32_768),
        (50_001, 50_176),
        (100_001, 100_096),
    ],
)
def test_a_unit_is_chunks_of_many_rows(asked: int, rows: int) -> None:
    """It is one chunk, or has a divisor from 64 to 256, or is rounded up to one that has."""
    assert rounded_rows(asked) == rows
    assert rounded_rows(rows) == rows


def test_the_rounded_number_belongs_to_the_run() -> None:
    """It is in the plan, the spec and the recipe, and asking for either is the same run."""
    store = MemoryStore()
    match = r"rows_per_unit=257 would be stored in chunks of a few rows.* rounded to 512, a multi"
    with pytest.warns(UnitsRounded, match=match) as warned:
        run_id = save_activations(WordModel(), "head", TEXTS, store, rows_per_unit=257)
    assert len(warned) == 1
    run = store.run(run_id)
    assert run.plan.rows_per_unit == run.plan.spec["rows_per_unit"] == 512
    assert run.metadata["recipe"]["options"]["rows_per_unit"] == 512
    assert save_activations(WordModel(), "head", TEXTS, store, rows_per_unit=512) == run_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is there, so nothing is rounded now
        assert save_activations(WordModel(), "head", TEXTS, store, rows_per_unit=257) == run_id


@pytest.mark.parametrize("run_name", [None, "run"])
def test_a_run_that_was_begun_with_an_odd_number_goes_on(run_name: str | None) -> None:
    """Units of an earlier version stay as they are, by name or by the id that follows from them."""
    store = MemoryStore()
    options = CaptureOptions(rows_per_unit=257)
    capture = prepare_capture(WordModel(), "head", TEXTS, options=options)
    run_id = run_name or capture.spec.run_id()
    writer = store.write_run(run_id, capture.plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = save_activations(
            WordModel(), "head", TEXTS, store, rows_per_unit=257, run_name=run_name
        )
    assert found == run_id
    assert store.runs() == [run_id]
    assert writer.committed() == {0, 1, 2}
    assert store.run(run_id).plan == attrs.evolve(capture.plan, rows_per_unit=257)


def test_a_plan_is_rounded_too() -> None:
    """Whoever plans a run for others is told, and they do units of the rounded number."""
    store = MemoryStore()
    capture = prepare_capture(WordModel(), "head", TEXTS, options=CaptureOptions(rows_per_unit=263))
    with pytest.warns(UnitsRounded, match="rows_per_unit=263"):
        writer = begin_run(store, capture, "run")
    assert writer.plan.rows_per_unit == 512
