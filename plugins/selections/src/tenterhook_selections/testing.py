"""What every selector of tokens does: a contract to inherit.

class TestMySelector(SelectorContract):
    def select(self, tokens):
        return my_package.select(tokens)
"""

from abc import abstractmethod

import attrs
import pytest
import torch
from torch import Tensor

from tenterhook_selections.generation import RunningGeneration
from tenterhook_selections.tokens import Seen

__all__ = ["SelectorContract"]

REAL = {
    "no padding": [[1, 1, 1], [1, 1, 1]],
    "padding on the left": [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]],
    "padding on the right": [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]],
    "one token": [[1]],
    "a row of padding": [[0, 0], [1, 1]],
}
"""Which tokens of a batch are real."""


def tokens_of(mask: list[list[int]], *, seq: int | None = None, prompt: int | None = None) -> Seen:
    """Return the last `seq` tokens of a batch, with ids; of a generation where `prompt` is given.

    `mask` says which tokens are real, past ones included; `prompt` how many of a row were given.
    """
    real = torch.tensor(mask)
    seq = real.shape[1] if seq is None else seq
    given = None if prompt is None else RunningGeneration(torch.full((len(mask),), prompt))
    ids = torch.arange(real.numel()).reshape(real.shape)[:, real.shape[1] - seq :]
    return attrs.evolve(Seen.read(real, seq, generation=given), ids=ids)


class SelectorContract:
    """Inherit and give `select`: a fresh selector's answer, where it remembers what it has seen."""

    @abstractmethod
    def select(self, tokens: Seen) -> Tensor:
        """Call what the plugin declares."""

    @pytest.mark.parametrize("mask", REAL.values(), ids=list(REAL))
    def test_it_says_which_tokens(self, mask: list[list[int]]) -> None:
        """A bool for each, whatever is padding."""
        tokens = tokens_of(mask)
        found = self.select(tokens)
        assert isinstance(found, Tensor)
        assert (found.dtype, found.shape) == (torch.bool, tokens.real.shape)

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
    def test_batches_that_hold_nothing(self, shape: tuple[int, int]) -> None:
        """There is nothing to choose, and nothing fails."""
        ids = torch.zeros(shape, dtype=torch.int64)
        tokens = attrs.evolve(Seen.of_all(*shape), ids=ids)
        assert self.select(tokens).shape == shape

    def test_a_step_of_a_generation(self) -> None:
        """One token of each row after the prompt, of which five and three came before."""
        tokens = tokens_of([[1] * 6, [0, 0, 1, 1, 1, 1]], seq=1, prompt=3)
        found = self.select(tokens)
        assert (found.dtype, found.shape) == (torch.bool, (2, 1))

    @pytest.mark.parametrize("mask", REAL.values(), ids=list(REAL))
    def test_it_writes_to_nothing(self, mask: list[list[int]]) -> None:
        """Other selections read the same tokens."""
        tokens, before = tokens_of(mask), tokens_of(mask)
        self.select(tokens)
        for name in ("real", "position", "count", "prompt", "ids"):
            assert torch.equal(getattr(tokens, name), getattr(before, name)), name

    @pytest.mark.parametrize("mask", REAL.values(), ids=list(REAL))
    def test_it_says_the_same_of_the_same(self, mask: list[list[int]]) -> None:
        """A steered forward can be run again."""
        assert torch.equal(self.select(tokens_of(mask)), self.select(tokens_of(mask)))
