"""Rows of several batches in one capture: each batch has rows of its own, and a text goes on."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.selections import generating


class _Texts(nn.Module):
    """Takes ids, or embeddings in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        out: Tensor = self.line(hidden)
        return out


FIRST, SECOND = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]), torch.tensor([[11, 12, 13]])


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """A small model of texts."""
    torch.manual_seed(0)
    return tenterhook.attach(_Texts())


def test_batches(model: tenterhook.HookedModel) -> None:
    """The rows of one batch come after those of the other, and none is made of two."""
    with model.capture("line", tokens=":") as captured:
        model(FIRST)
        model(SECOND)
    first, second = captured["line"]
    rows = captured.by_row("line")
    assert [len(row) for row in rows] == [5, 5, 3]
    assert torch.equal(torch.cat(rows), torch.cat([first, second]))


def test_embeddings(model: tenterhook.HookedModel) -> None:
    """So it is where embeddings are given."""
    embed: Any = model.module.get_submodule("embed")
    with model.capture("line", tokens=":") as captured, torch.no_grad():
        model(inputs_embeds=embed(FIRST))
        model(inputs_embeds=embed(SECOND))
    assert [len(row) for row in captured.by_row("line")] == [5, 5, 3]


@pytest.mark.parametrize("said", [True, False])
def test_a_loop(said: bool, model: tenterhook.HookedModel) -> None:
    """A loop that gives all tokens again goes on with its texts, whatever ran in between."""
    ids = FIRST
    scope = generating([5, 5]) if said else torch.no_grad()
    with model.capture("line", tokens=":") as captured, scope:
        for _ in range(3):
            model(ids)
            ids = torch.cat([ids, ids[:, :1] + 20], 1)
    assert [len(row) for row in captured.by_row("line")] == [7, 7]
    with model.capture("line", tokens=":") as captured:
        for _ in range(2):
            with generating([5, 5], model=model.module):
                model(FIRST)
                model(torch.cat([FIRST, FIRST[:, :1]], 1))
            model(SECOND)
    assert [len(row) for row in captured.by_row("line")] == [6, 6, 3, 6, 6, 3]


class _Past:
    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


class _Cached(_Texts):
    def forward(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: Any = None
    ) -> Tensor:
        return super().forward(input_ids)


def test_after_a_cache() -> None:
    """A text that begins with the last token of the one before is another."""
    model = tenterhook.attach(_Cached())
    with model.capture("line", tokens=":") as captured:
        for ids in (SECOND, SECOND[:, 2:].repeat(1, 2)):
            model(ids)
            model(ids[:, :1], past_key_values=_Past(ids.shape[1]))
            model(ids[:, 1:2], past_key_values=_Past(ids.shape[1] + 1))
    assert [len(row) for row in captured.by_row("line")] == [5, 4]
