"""The errors of stores: what they keep, and that they cross processes."""

import copy
import errno
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_store import (
    AmbiguousRun,
    BadName,
    BadSetting,
    CannotKeep,
    DamagedStore,
    DeletedRun,
    IncompleteRun,
    MissingRows,
    NameTaken,
    NoStore,
    NotAStore,
    NotCaptured,
    NotKept,
    NoTokenizer,
    NotReduced,
    NotWritable,
    OtherLoader,
    OtherRun,
    PlaceTaken,
    ReplacedRun,
    RowOutOfRange,
    UnknownFormat,
    UnknownRun,
    UnknownTensor,
    Unreachable,
    WrongIndex,
    WrongRows,
)

ERRORS = [
    (BadName("run", "a/b", "it has a slash"), ValueError, "'a/b' cannot name a run: it has"),
    (NameTaken("run", "A", "a"), ValueError, "'A' cannot name a run: there is 'a'"),
    (CannotKeep("meta tensors", "Fill it."), TypeError, "keeps no meta tensors. Fill it."),
    (UnknownRun("rum", ["run"], "there"), LookupError, "No run 'rum' .* Did you mean 'run'"),
    (AmbiguousRun("there", ["a", "b"]), LookupError, "Name the run .* It holds a, b."),
    (UnknownTensor("a", [], "there"), LookupError, "No tensor 'a' in .* list_tensors"),
    (NotReduced("mean", [], "r"), LookupError, "Run 'r' has no 'mean': it was captured without"),
    (NotReduced("cov", ["mean"], "r"), LookupError, "Run 'r' has no 'cov'. It has mean."),
    (NotKept("a", 3, [], "r"), LookupError, "Unit 3 of run 'r' has no tensor 'a'. It has none."),
    (NotCaptured("heat", ["head"], "r"), KeyError, "Run 'r' has no layer 'heat'. Did you mean"),
    (RowOutOfRange(9, 3, "head"), IndexError, "Row 9 is not among the 3 rows of 'head'"),
    (MissingRows(9, 1, (8, 16), 8, 20, "r"), IndexError, "Row 9 is of unit 1 .*rows 8 to 16"),
    (WrongIndex("head", "it is odd"), IndexError, "This does not index 'head': it is odd."),
    (NoTokenizer("r", "it is mute"), LookupError, "No tokenizer for run 'r': it is mute."),
    (BadSetting("rows", 3, "a slice"), ValueError, "rows=3 must be a slice."),
    (UnknownFormat("csv", ["npy"]), LookupError, "exports runs as 'csv'. There are npy."),
    (OtherLoader(["seed is 1 there"]), ValueError, "gives other batches .seed is 1 there"),
    (OtherRun("r", ["a", "b", "c", "d"]), ValueError, "another one .a; b; c; and 1 more"),
    (ReplacedRun("r", ["a"]), ValueError, "not the one that was opened: .*.a.. Open it again"),
    (IncompleteRun("r", [4, 5]), RuntimeError, "lacks 2 units, the first of them 4"),
    (DeletedRun("r"), RuntimeError, "Run 'r' is gone"),
    (WrongRows("head", "3 rows", "2 rows"), ValueError, "planned as 3 rows and given 2 rows"),
    (DamagedStore("file", "it is gone"), RuntimeError, "file: it is gone"),
    (NotAStore("place", "it is a file"), FileExistsError, "place: it is a file"),
    (PlaceTaken("place", "it is full"), FileExistsError, "place: it is full"),
    (NoStore("place", "it is empty"), FileNotFoundError, "place: it is empty"),
    (NotWritable("place", "it is shut"), PermissionError, "place: it is shut"),
    (Unreachable("place", "it is far"), ConnectionError, "place: it is far"),
]

each_error = pytest.mark.parametrize(
    ("error", "kind", "match"), ERRORS, ids=[type(error).__name__ for error, _, _ in ERRORS]
)


@each_error
def test_errors_say_what_and_are_a_builtin_kind(
    error: TenterhookError, kind: type[Exception], match: str
) -> None:
    """Whoever knows Python's own errors can catch them."""
    with pytest.raises(kind, match=match) as caught:
        raise error
    assert caught.value is error


@each_error
def test_errors_survive_pickling(error: TenterhookError, kind: type[Exception], match: str) -> None:
    """With their facts and notes, as they come from another process; a copy too."""
    error.add_note("It was found in a worker.")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert again != error
        assert len({error, again}) == 2


def test_facts_are_attributes() -> None:
    """By the names that they have always had."""
    error = MissingRows(9, 1, (8, 16), 8, 20, "r")
    assert (error.row, error.unit, error.unit_rows, error.there) == (9, 1, (8, 16), 8)
    assert (error.rows, error.run_id, error.name) == (20, "r", "r")
    assert error.args == (9, 1, (8, 16), 8, 20, "r")
    place = NotWritable("place", "it is shut")
    assert (place.path, place.reason, place.errno) == ("place", "it is shut", errno.EACCES)
    assert place.filename == "place"
