"""Errors carry their facts, through copies and pickles too."""

import copy
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_tiny import NoRevisions, UnknownName

ERRORS = [
    (UnknownName("data set", "smple", ("sample",)), "no data set 'smple', only 'sample'. Did you"),
    (NoRevisions("main"), "^revision='main': the model in tenterhook-tiny has no revisions"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS)
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
