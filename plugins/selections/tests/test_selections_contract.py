"""The words of this distribution do what every selector does."""

from collections.abc import Callable

import pytest
from torch import Tensor

from tenterhook_selections.testing import SelectorContract
from tenterhook_selections.tokens import Seen
from tenterhook_selections.words import generated, last, prompt

WORDS: dict[str, Callable[[Seen], Tensor]] = {
    "generated": generated,
    "last": last,
    "prompt": prompt,
}


@pytest.mark.parametrize("word", WORDS)
class TestWords(SelectorContract):
    """Each of them."""

    @pytest.fixture(autouse=True)
    def chosen(self, word: str) -> None:
        """Choose the word."""
        self.word = word

    def select(self, tokens: Seen) -> Tensor:
        """Ask the selector."""
        return WORDS[self.word](tokens)
