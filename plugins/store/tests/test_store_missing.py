"""Runs that lack units: all that is committed is read, loaded and exported, and nothing else."""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_capture import UnitsFailed, run_status, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import (
    BadSetting,
    MemoryStore,
    MissingRows,
    OtherLoader,
    RowOutOfRange,
    RowRanges,
    Run,
    WrongIndex,
    to_datasets,
    to_npy,
    to_safetensors,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write

TEXTS = ["a b c", "d e", "f g h i j", "k l", "m n o"]
SETTINGS: dict[str, Any] = {"batch_size": 1, "rows_per_unit": 5}  # 15 rows, 3 units
LAYERS = [("h.0", 3, "float32"), ("h.1", 5, "bfloat16")]

each_writer = pytest.mark.parametrize(
    "to", [to_npy, to_safetensors, to_datasets], ids=lambda to: to.__name__
)


class Poisoned(WordModel):
    """Fails on a document of five tokens."""

    def run_token_ids(self, documents: Any) -> Any:
        """Raise, or run."""
        if [len(each) for each in documents] == [5]:
            raise ValueError("no such word")
        return super().run_token_ids(documents)


def poisoned(**more: Any) -> tuple[Run, Run]:
    """Return a run whose unit 1 of 3 failed, and the run that it would be."""
    store, whole = MemoryStore(), MemoryStore()
    with pytest.raises(UnitsFailed):
        save_activations(Poisoned(), "head", TEXTS, store, run_name="run", **SETTINGS, **more)
    save_activations(WordModel(), "head", TEXTS, whole, run_name="run", **SETTINGS, **more)
    return store.run("run"), whole.run("run")


def a_run(rows: int, per_unit: int, units: Any) -> Run:
    """Return a run of which these units are committed."""
    plan = a_plan(rows, per_unit, layers=LAYERS)
    store = MemoryStore()
    write(store.write_run("one", plan), [plan.unit(at) for at in units], step=per_unit)
    return store.run("one")


HOLED = a_run(1000, 64, [0, 1, 3, 4, 5, 9, 15])
THERE = [row for row in range(1000) if row // 64 in HOLED.committed]


def small(run: Run = HOLED, **more: Any) -> Any:
    """Return a loader of rows that says which they are."""
    about = {"buffer_rows": 128, "block_rows": 20, "also": ["rows"], "threads": 2}
    return run.loader("h.1", 24, **{**about, **more})


# --- reading


def test_a_unit_that_failed_hides_no_other() -> None:
    """Rows after it are read by their own numbers, and the run says what is missing."""
    run, whole = poisoned()
    assert same_bits(run["head"][10:15], whole["head"][10:15])
    assert same_bits(run["head"][12], whole["head"][12])
    assert run.tokens[10:].tolist() == whole.tokens[10:].tolist()
    assert (len(run), run.rows_committed, run.missing) == (5, 10, (1,))
    assert list(run.ranges) == [slice(0, 5), slice(10, 15)]
    assert (run.metadata["rows_committed"], run.metadata["complete"]) == (10, False)
    assert "10 of 15 rows" in repr(run)
    status = run_status(run)
    assert (status.rows_done, status.missing, list(status.failed)) == (10, [[1, 1]], [1])


def test_a_row_of_a_missing_unit_is_an_error_that_says_so() -> None:
    """The unit, what the run has, and the way out; it pickles, and is a row out of range."""
    run, _ = poisoned()
    rows = run["head"]
    with pytest.raises(MissingRows) as caught:
        rows[7]
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, MissingRows)
    assert issubclass(MissingRows, RowOutOfRange)
    assert (error.row, error.unit, error.unit_rows, error.run_id) == (7, 1, (5, 10), "run")
    assert str(error) == str(caught.value)
    assert "Row 7 is of unit 1 of run 'run' (rows 5 to 10), which is missing: 10 of" in str(error)
    assert "missing='skip'" in str(error)
    for key in (slice(0, 15), slice(7, None), slice(14, 3, -1), slice(0, 15, 6), [0, 12, 6]):
        with pytest.raises(MissingRows, match=r"Row [5-9] is of unit 1"):
            rows[key]
    with pytest.raises(MissingRows):
        rows.take([5])
    with pytest.raises(RowOutOfRange, match="Row 15 is not among the 15 rows"):
        rows[15]


def test_an_index_within_the_first_rows_is_as_before() -> None:
    """Open slices and negative numbers are of the first rows, as in a list of them."""
    run, whole = poisoned()
    rows, expected = run["head"], whole["head"][:5]
    assert rows.shape == expected.shape
    for key in (slice(None), slice(2, None), slice(-3, -1), -1, [-1, 0]):
        assert same_bits(rows[key], expected[key])
    assert same_bits(rows[::-2], expected[[4, 2, 0]])
    assert rows[5:].shape[0] == 0
    assert len(list(rows)) == 5


def test_masks() -> None:
    """A mask has a value for each of the first rows, or for each row planned."""
    run, whole = poisoned()
    mask = torch.zeros(15, dtype=torch.bool)
    mask[[1, 11, 14]] = True
    assert same_bits(run["head"][mask], whole["head"][mask])
    assert same_bits(run["head"][mask[:5]], whole["head"][[1]])
    mask[8] = True
    with pytest.raises(MissingRows, match="Row 8 "):
        run["head"][mask]
    with pytest.raises(WrongIndex, match="each of its 5 or 15 rows"):
        run["head"][mask[:7]]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_slice_is_what_is_there_or_an_error(data: Any) -> None:
    """Whatever units there are, a slice gives its own rows or `MissingRows`, and no other."""
    units = data.draw(st.sets(st.integers(0, 9), max_size=10))
    run = a_run(48, 5, sorted(units))
    there = [row for row in range(48) if row // 5 in units]
    start = data.draw(st.integers(0, 50))
    stop = data.draw(st.integers(0, 50))
    step = data.draw(st.sampled_from([-7, -1, 1, 2, 7]))
    # As a list: of all rows where one beyond the first ones is named, otherwise of these.
    length = max(there, default=-1) + 1 if max(start, stop) > len(run) else len(run)
    asked = list(range(length))[start:stop:step]
    if set(asked) <= set(there):
        assert run.tokens[start:stop:step].tolist() == [7 * row for row in asked]
    else:
        with pytest.raises(MissingRows):
            run.tokens[start:stop:step]
    some = data.draw(st.lists(st.sampled_from(there or [0]))) if there else []
    assert run.tokens[some].tolist() == [7 * row for row in some]


@given(st.sets(st.integers(0, 9)))
@settings(max_examples=50, deadline=None)
def test_documents_of_what_is_there(units: set[int]) -> None:
    """The slice of a document is its rows that are there, wherever they are."""
    run = a_run(48, 5, sorted(units))
    expected: dict[int, list[int]] = {}
    for row in range(48):
        if row // 5 in units:
            expected.setdefault(row // 4, []).append(row)
    for document in range(len(run.documents)):
        rows, there = run.documents.rows(document), expected.get(document, [])
        assert [row for row in range(48)[rows] if row // 5 in units] == there


def test_int8_and_statistics() -> None:
    """Rows kept as int8 are read beyond a hole; statistics are of all units that are there."""
    run, whole = poisoned(dtype="int8")
    assert same_bits(run["head"][10:15], whole["head"][10:15])
    run, whole = poisoned(reduce="mean", keep_rows=True)
    expected = torch.cat([whole["head"][:5], whole["head"][10:]]).double().mean(0)
    assert torch.allclose(run.reduced("head", "mean"), expected)


# --- loading


@pytest.mark.parametrize(
    "more", [{}, {"mixing": "exact"}, {"shuffle": False}], ids=["blocks", "exact", "in order"]
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_row_that_is_there_comes_once(more: Any, world_size: int) -> None:
    """Over all ranks, with its own number and values."""
    seen = []
    for rank in range(world_size):
        for batch in small(missing="skip", rank=rank, world_size=world_size, **more):
            rows = batch["rows"]
            seen += rows.tolist()
            assert same_bits(batch["h.1"], rows_of(HOLED.plan, 0, 1000).layers["h.1"][rows])
    assert sorted(seen) == THERE


def test_in_workers(tmp_path: Path) -> None:
    """Workers of a DataLoader share the rows that are there between them."""
    loader = torch.utils.data.DataLoader(small(missing="skip"), batch_size=None, num_workers=2)
    assert sorted(row for batch in loader for row in batch["rows"].tolist()) == THERE


def test_unless_said_the_first_rows_are_loaded_with_a_warning() -> None:
    """As before, but said; `missing="stop"` is silent, and so is a run with no rows after it."""
    with pytest.warns(UserWarning, match=r"lacks unit 2, and the 296 rows .* are left out"):
        loader = small()
    first = list(range(128))
    assert sorted(row for batch in loader for row in batch["rows"].tolist()) == first
    assert len(HOLED.dataset("h.0", missing="stop")) == 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(a_run(1000, 64, [0, 1]))
        small(missing="stop")
        small(rows=slice(0, 100))


def test_a_part_of_the_run() -> None:
    """`rows` are numbers of rows: any that are there, and with "skip" what of them is."""
    found = small(rows=slice(200, 300))
    assert sorted(row for batch in found for row in batch["rows"].tolist()) == [*range(200, 300)]
    found = small(rows=slice(100, 600), missing="skip")
    rows = sorted(row for batch in found for row in batch["rows"].tolist())
    assert rows == [row for row in THERE if 100 <= row < 600]
    with pytest.raises(MissingRows, match="Row 128 "):
        small(rows=slice(100, 600))
    with pytest.raises(BadSetting, match="missing='leave' must be 'stop' or 'skip'"):
        small(missing="leave")


@pytest.mark.parametrize("mixing", ["blocks", "exact"])
def test_going_on(mixing: Any) -> None:
    """A state goes on bit for bit, and only with the same rows."""
    loader = small(missing="skip", mixing=mixing)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    again = small(missing="skip", mixing=mixing)
    again.load_state_dict(state)
    left = [batch["rows"].tolist() for batch in again]
    assert left == [batch["rows"].tolist() for batch in batches]
    for other in ([0, 1, 3, 4, 5, 9, 10, 15], range(16), [0, 1, 4, 5, 6, 9, 15]):
        with pytest.raises(OtherLoader, match="rows is"):
            small(a_run(1000, 64, other), missing="skip", mixing=mixing).load_state_dict(state)


def test_dataset() -> None:
    """Row `i` of it is the `i`-th that is there."""
    dataset = HOLED.dataset("h.0", also=["rows"], missing="skip")
    assert len(dataset) == len(THERE)
    assert [dataset[at]["rows"].item() for at in (0, 128, -1)] == [0, 192, 999]
    assert dataset[100:].pop("rows").tolist() == THERE[100:]
    assert [each["rows"].item() for each in dataset.__getitems__([200, 3])] == [THERE[200], 3]


# --- exporting


@each_writer
@pytest.mark.parametrize("first", [0, 2], ids=["from the first", "without the first"])
def test_exports(tmp_path: Path, to: Any, first: int) -> None:
    """With "skip" all that is there is written, and what was left out is said."""
    units = [first, 3, 4, 7]
    run = a_run(100, 13, units)
    there = [row for row in range(100) if row // 13 in units]
    told: list[tuple[int, int]] = []
    more: Any = {"file_bytes": 600} if to is to_safetensors else {}
    to(run, tmp_path / "out", missing="skip", progress=lambda *at: told.append(at), **more)
    mark = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert [row for start, stop in mark["rows"] for row in range(start, stop)] == there
    assert mark["missing_units"] == ([[1, 2], [5, 6]] if first == 0 else [[0, 1], [5, 6]])
    assert told[-1] == (5 * len(there), 5 * len(there))
    assert exported_tokens(tmp_path / "out", to) == [7 * row for row in there]


@each_writer
def test_exports_of_the_first_rows(tmp_path: Path, to: Any) -> None:
    """Unless said, the rows before the first that is missing are written, with a warning."""
    run = a_run(100, 13, [0, 1, 3])
    with pytest.warns(UserWarning, match="lacks unit 2") as caught:
        to(run, tmp_path / "out")
    assert caught[0].filename == __file__
    assert exported_tokens(tmp_path / "out", to) == [7 * row for row in range(26)]
    mark = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (mark["rows"], mark["missing_units"]) == ([[0, 26]], [[2, 2], [4, 7]])


def exported_tokens(folder: Path, to: Any) -> list[int]:
    """Read the tokens of an export with other people's tools."""
    if to is to_npy:
        return list(np.load(folder / "token.npy").tolist())
    if to is to_datasets:
        datasets = pytest.importorskip("datasets")
        return list(datasets.load_from_disk(str(folder))["token"])
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return [token for file in files for token in load_file(file)["token"].tolist()]


def test_many_ranges() -> None:
    """Of a hundred thousand stretches each place is its row, and what is between is missing."""
    ranges = RowRanges(
        ((at * 10, at * 10 + 5) for at in range(10**5)), planned=10**6, rows_per_unit=5
    )
    rows = ranges.numbers(torch.arange(0, 5 * 10**5, 7))
    assert rows[:3].tolist() == [0, 12, 24]
    ranges.check(rows)
    with pytest.raises(MissingRows, match="Row 25 is of unit 5"):
        ranges.check(torch.tensor([31, 25, 40]))
