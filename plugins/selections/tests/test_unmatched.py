"""Why a selection matched nothing: the report names the likeliest cause."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.errors import HookWarning


class _Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(self.embed(input_ids))
        return out


IDS = torch.arange(8).reshape(2, 4)


@pytest.mark.parametrize(
    ("selected", "given", "said"),
    [
        ({"tokens": 9}, {}, r"longest row had 4 tokens and the model got no attention mask"),
        (
            {"tokens": 3},
            {"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])},
            r"matched no token at 'line'\. The longest row had 3 tokens\.",
        ),
        (
            {"tokens": ":"},
            {"attention_mask": torch.zeros(2, 4)},
            r"All that it was given was padding, or of rows that had ended",
        ),
        ({"phase": "generated"}, {}, r"Nothing was generated: the model was called"),
    ],
    ids=["short", "padded", "padding", "phase"],
)
def test_why(selected: dict[str, Any], given: dict[str, Any], said: str) -> None:
    """What the model was given says it."""
    model = tenterhook.attach(_Texts())
    with pytest.warns(HookWarning, match=said), model.capture("line", **selected):
        model(IDS, **given)
    with pytest.warns(HookWarning, match=said), model.steer("line", torch.neg, **selected):
        model(IDS, **given)


def test_another_object() -> None:
    """A part that was called by itself is not what was attached."""
    model = tenterhook.attach(_Texts())
    said = "The _Texts that was attached was not called, but a part of it"
    with pytest.warns(HookWarning, match=said), model.capture("line", tokens=9):
        model.module.get_submodule("line")(torch.ones(2, 4, 8))
