"""What every error of captures can do: go to another process and be told there."""

import copy
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_capture import (
    BadArgument,
    BadSlice,
    ChangedSince,
    MaskIgnored,
    NoPattern,
    NothingChosen,
    NothingToCapture,
    NotPerToken,
    NotRebuildable,
    SeveralCalls,
    UnitsFailed,
    WrongMask,
)
from tenterhook_capture.documents import NoDocuments, NoSuchData, UnknownField, UnreadableData
from tenterhook_capture.engine import UnknownEngine
from tenterhook_capture.errors import NotWhole
from tenterhook_capture.loading import BadModelName, NoAttentionChoice

ERRORS = [
    (BadArgument("top_k", 0, "1 or more"), "top_k=0 must be 1 or more."),
    (BadSlice("4/4"), "slice '4/4' must be i/n"),
    (BadSlice("RANK=1", "there is no count"), "RANK=1: there is no count. Say which part"),
    (BadModelName(" "), "' ' cannot name a model"),
    (ChangedSince("r", ["model"]), "Run 'r' cannot go on"),
    (MaskIgnored("out", 0.5, 1e-4), "The model does not honour its mask: at 'out'"),
    (NoAttentionChoice("tiny:", "eager"), "attn_implementation='eager': the loader of 'tiny:'"),
    (NoDocuments("a.txt", 2), "a.txt holds no document (2 empty ones were skipped)"),
    (NoPattern("head"), "Layer 'head' returned no attention pattern"),
    (NoSuchData("a.txt", ["b.txt"]), "There is no file 'a.txt'. Did you mean 'b.txt'?"),
    (NothingChosen("9", 3), "tokens='9' chooses no token"),
    (NotWhole("h.0.act", 2, 64), "Layer 'h.0.act' gives each of the 2 processes that hold the"),
    (NothingToCapture("a.txt", 2), "None of the 2 documents of a.txt has a token"),
    (NotPerToken("pooled", "[2, 3]", (2, 4)), "Layer 'pooled' gave [2, 3]"),
    (NotRebuildable("r", ["a model"]), "Run 'r' was made from a model, which"),
    (SeveralCalls("shared", 3), "Layer 'shared' is called 3 times in a forward"),
    (UnitsFailed("r", {3: "ValueError"}, 2), "1 unit failed, tried 2 times each"),
    (UnknownEngine("pol", ("local", "pool")), "Did you mean 'pool'?"),
    (UnknownField("txt", ["text"], "a.jsonl"), "it has 'text'. Did you mean 'text'?"),
    (UnreadableData("a.txt", "it is gone"), "a.txt: it is gone"),
    (WrongMask([1], [2]), "documents of [2] tokens and its mask marks [1]"),
]


@pytest.mark.parametrize(
    ("error", "shown"), ERRORS, ids=lambda each: type(each).__name__ if each else ""
)
def test_an_error_is_whole_wherever_it_goes(error: TenterhookError, shown: str) -> None:
    """Its sentence, its facts and its notes; it is equal to itself alone."""
    assert shown in str(error)
    error.add_note("The same command again does the rest.")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), str(other)) == (type(error), str(error))
        assert vars(other) == vars(error)
        assert other.__notes__ == ["The same command again does the rest."]
        assert other != error
    assert error in {error}
