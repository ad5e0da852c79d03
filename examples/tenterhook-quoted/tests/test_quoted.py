from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook.loading import load_model
from tenterhook.testing.selectors import SelectorContract
from tenterhook_quoted.selector import quoted, quotes_of
from tenterhook_selections import Seen

TEXTS = ['And he said, "Let there be light" and it was.', 'He cried "Behold"']
INSIDE = [" Let there be light", "Behold"]


class TestQuoted(SelectorContract):
    """It does what every selector does."""

    @pytest.fixture(autouse=True)
    def _quotes(self) -> Iterator[None]:
        with quotes_of(Letters()):
            yield

    def select(self, tokens: Seen) -> Tensor:
        """Call the selector."""
        return quoted(tokens)


class Letters:
    """Stands for a tokenizer: each third id is a quote."""

    def __len__(self) -> int:
        return 30

    def decode(self, ids: list[int]) -> str:
        """Return a quote or a letter."""
        return '"' if ids[0] % 3 == 1 else "a"


@pytest.fixture(scope="module")
def lm() -> Any:
    """The small model."""
    return load_model("tiny:")


def words_at(lm: Any, ids: list[list[int]], where: Tensor) -> list[str]:
    """Return the words of each row at these places."""
    rows: list[list[int]] = [[] for _ in ids]
    for row, position in where.tolist():
        rows[row].append(ids[row][position])
    return [lm.tokenizer.decode(row).strip() for row in rows]


def test_it_selects_what_is_inside_quotes(lm: Any) -> None:
    """In a padded batch."""
    with quotes_of(lm.tokenizer), lm.capture("layer_1", tokens="quoted") as captured:
        lm.inference.execute_inference(TEXTS)
    found = words_at(lm, lm.token_ids(TEXTS), captured.where("layer_1")[0])
    assert found == [words.strip() for words in INSIDE]


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=["cache", "no cache"])
def test_it_looks_back_while_a_model_generates(lm: Any, settings: dict[str, bool]) -> None:
    """A quote that the prompt opened is open in what the model says."""
    prompts = ['And he said, "Let there', "And he said"]
    with quotes_of(lm.tokenizer), lm.capture("layer_1", tokens="quoted") as captured:
        made = lm.generate(prompts, max_new_tokens=4, do_sample=False, **settings)
    texts = [text.split('"')[1] if '"' in text else "" for text in made.texts]
    where = torch.cat(captured.where("layer_1"))
    where = torch.unique(where, dim=0)
    assert words_at(lm, made.token_ids, where) == [text.strip() for text in texts]


def test_what_is_not_known_is_an_error(lm: Any) -> None:
    """Beams are exchanged while they grow."""
    with (
        pytest.raises(ValueError, match="Generate without beams, or with use_cache=False"),
        quotes_of(lm.tokenizer),
        lm.capture("layer_1", tokens="quoted"),
    ):
        lm.generate('He said "', num_beams=2, max_new_tokens=4)
