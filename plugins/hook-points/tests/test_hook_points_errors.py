"""Errors carry their facts, through copies and pickles too."""

import copy
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_hook_points import AmbiguousName, NotAGPT, UnknownActivation, UnknownHookPoint

ERRORS = [
    (UnknownHookPoint("embd", ("embed",), "Odd."), "No hook point 'embd' .* Odd. Closest: 'embed'"),
    (UnknownActivation(("q", 7), {"blocks.0.hook_q": 0}), "Closest: 'blocks.0.hook_q'. It holds 1"),
    (AmbiguousName("q", ["a.q", "b.q"]), "'q' may mean any of 'a.q', 'b.q'"),
    (NotAGPT("bert", "it is a BertModel."), "'bert' cannot be loaded with hook points: it is a"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=lambda each: type(each).__name__)
def test_error(error: TenterhookError, message: str) -> None:
    """An error says its facts, and so do its copy and what a pickle gives back, with its notes."""
    error.add_note("in a process of its own")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        with pytest.raises(type(error), match=message):
            raise again
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again != error
    assert error in {error}
