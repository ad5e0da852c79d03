"""What every selector of tokens does, and every detector that counts: contracts to inherit.

class TestMySelector(SelectorContract):
    def select(self, tokens):
        return my_package.select(tokens)


class TestMyDetector(CountingDetectorContract):
    def make(self):
        return MyDetector()

    def result(self, detector):
        return detector.mean
"""

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Detector
from tenterhook_selections.generation import RunningGeneration
from tenterhook_selections.tokens import Seen

__all__ = ["CountingDetectorContract", "SelectorContract"]

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

    The ids of those before are known, too. `mask` says which tokens are real, past ones included;
    `prompt` how many of a row were given.
    """
    real = torch.tensor(mask)
    seq = real.shape[1] if seq is None else seq
    given = None if prompt is None else RunningGeneration(torch.full((len(mask),), prompt))
    ids = torch.arange(real.numel()).reshape(real.shape)
    past = real.shape[1] - seq
    before = torch.where(real.bool(), ids, -1)[:, :past]
    seen = Seen.read(real, seq, generation=given)
    return attrs.evolve(seen, ids=ids[:, past:], earlier=lambda: before)


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


class ReadsText(nn.Module):
    """A model that takes ids and a mask: an embedding, features of which are negative, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.embed.weight.copy_(torch.randn(50, 8, generator=generator))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return `(batch, seq, 8)`."""
        found: Tensor = self.embed(input_ids)
        return found


TEXTS = [
    [at + 1 + (7 * step) % 40 for step in range(length)]
    for at, length in enumerate((5, 1, 3, 8, 2, 6, 4, 7))
]
"""Texts of unequal length, as ids."""

PAD = 49
"""Fills batches."""


class CountingDetectorContract:
    """Inherit and give `make`, a fresh detector, and `result`, what it has found, as a tensor.

    It is for detectors that sum up over tokens: how texts are put into batches makes no difference,
    nor does which threads run them.
    """

    @abstractmethod
    def make(self) -> Detector:
        """Return a fresh detector."""

    @abstractmethod
    def result(self, detector: Detector) -> Tensor:
        """Return what it has found."""

    def found(
        self, batches: list[list[list[int]]], *, side: str = "right", threads: int = 1
    ) -> Tensor:
        """Return what a detector finds in batches of texts, run in so many threads."""
        model = tenterhook.attach(ReadsText())
        detector = self.make()
        model.layers.register_hook("embed", detector)

        def run(batch: list[list[int]]) -> None:
            longest = max(map(len, batch))
            padding = [[PAD] * (longest - len(text)) for text in batch]
            ones = [[1] * len(text) for text in batch]
            zeros = [[0] * len(each) for each in padding]
            left = side == "left"
            pairs = list(zip(padding, batch, strict=True))
            ids = [pad + text if left else text + pad for pad, text in pairs]
            mask = [z + o if left else o + z for z, o in zip(zeros, ones, strict=True)]
            with torch.no_grad():
                model(torch.tensor(ids), attention_mask=torch.tensor(mask))

        if threads == 1:
            for batch in batches:
                run(batch)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, batches))
        return self.result(detector)

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("size", [2, 3, 8])
    def test_the_size_of_a_batch_makes_no_difference(self, size: int, side: str) -> None:
        """Padding is not counted."""
        batches = [TEXTS[at : at + size] for at in range(0, len(TEXTS), size)]
        one_by_one = self.found([[text] for text in TEXTS])
        torch.testing.assert_close(self.found(batches, side=side), one_by_one)

    def test_threads_lose_nothing(self) -> None:
        """Hooks run in whichever thread calls the model."""
        batches = [TEXTS[at : at + 2] for at in range(0, len(TEXTS), 2)] * 50
        torch.testing.assert_close(self.found(batches, threads=8), self.found(batches))
