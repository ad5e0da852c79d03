"""What a selection costs, in calls of Python functions: times differ from machine to machine."""

import gc
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel

IDS, MASK = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([[0, 1, 1], [1, 1, 1]])


class Texts(nn.Module):
    """A model of texts with as many layers as one likes, and modules that never run."""

    def __init__(self, layers: int, idle: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        self.idle = nn.ModuleList(nn.Linear(1, 1) for _ in range(idle))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the blocks one after the other."""
        x: Tensor = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


def calls(model: HookedModel, **selected: Any) -> int:
    """Return how many Python functions are called by a capture of all blocks, opened once."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    def run() -> None:
        with model.capture("blocks.*", **selected):
            model(IDS, attention_mask=MASK)

    for _ in range(2):  # what is remembered from one scope to the next is there
        run()
    before = sys.getprofile()
    gc.collect()
    gc.disable()  # what it frees may call functions, whenever it runs
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


@pytest.mark.parametrize("selected", [{"tokens": "last"}, {"rows": 0}], ids=["tokens", "rows"])
class TestCost:
    def test_modules(self, selected: dict[str, Any]) -> None:
        """Modules that no scope is on cost no call."""
        few, many = (tenterhook.attach(Texts(2, idle)) for idle in (0, 300))
        extra = calls(many, **selected) - calls(many)
        assert extra == calls(few, **selected) - calls(few)

    def test_layers(self, selected: dict[str, Any]) -> None:
        """Each layer more costs some forty calls more than it does without a selection."""
        few, many = tenterhook.attach(Texts(10)), tenterhook.attach(Texts(60))
        extra = [calls(model, **selected) - calls(model) for model in (few, many)]
        assert (extra[1] - extra[0]) / 50 <= 45
