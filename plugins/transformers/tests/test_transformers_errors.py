"""Errors carry their facts, through copies and pickles too."""

import copy
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_transformers import EmptyText, TooLong, UnknownDataset, UnknownModel

ERRORS = [
    (
        UnknownModel("gpt3", "no such folder.", "Give one."),
        "^No model 'gpt3': no such folder. Give",
    ),
    (UnknownDataset("news", "it is gone"), "^No data set 'news': it is gone."),
    (EmptyText(), "^There are no texts to run the model on"),
    (EmptyText(3), "^Text 3 has no tokens"),
    (TooLong(1, 300, 128), "^Text 1 has 300 tokens and the model takes 128"),
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
