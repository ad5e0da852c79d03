"""Selections by step, by a mask, and by positions for each row."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import Selection
from tenterhook.errors import HookError


class _Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(self.embed(input_ids))
        return out


IDS = torch.arange(12).reshape(3, 4)
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """A model of texts."""
    torch.manual_seed(0)
    return tenterhook.attach(_Texts())


def test_positions_for_each_row(model: tenterhook.HookedModel) -> None:
    """Each row's own positions, of its real tokens."""
    with model.capture("line", tokens=[[0, -1], [1], []]) as captured:
        model(IDS, MASK)
    assert captured.where("line")[0].tolist() == [[0, 0], [0, 1], [1, 1]]


def test_a_mask(model: tenterhook.HookedModel) -> None:
    """Columns as the model is given them; padding is never selected."""
    chosen = torch.zeros(3, 4, dtype=torch.bool)
    chosen[0, 1:] = chosen[2, 0] = True
    with model.capture("line", tokens=chosen) as captured:
        model(IDS, MASK)
    assert captured.where("line")[0].tolist() == [[0, 0], [0, 1], [2, 0]]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([[0], [1]], "selected in 2 rows, and the model was given 3"),
        (torch.ones(3, 5, dtype=torch.bool), "a mask of 5 columns, and the model was given 4"),
    ],
)
def test_of_another_batch(model: tenterhook.HookedModel, tokens: Any, said: str) -> None:
    """What was made for another batch is an error."""
    with pytest.raises(ValueError, match=said), model.capture("line", tokens=tokens):
        model(IDS, MASK)


@pytest.mark.parametrize("tokens", [torch.ones(3), torch.ones(2, 2), [[0], [1.5]]], ids=str)
def test_no_mask(tokens: Any) -> None:
    """Only bool masks of two axes, and lists of ints."""
    with pytest.raises(ValueError, match=r"takes a bool mask|not positions for each row"):
        Selection(tokens=tokens)


@pytest.mark.parametrize(
    ("step", "wanted"), [(1, [1]), ([0, 3], [0, 3]), ("2:", [2, 3]), (slice(0, 3, 2), [0, 2])]
)
def test_steps(model: tenterhook.HookedModel, step: Any, wanted: list[int]) -> None:
    """Forwards in this scope are counted from 0."""
    with model.capture("line", tokens=":", step=step) as captured:
        for _ in range(4):
            model(IDS, MASK)
    assert [at for at, call in enumerate(captured["line"]) if len(call)] == wanted


def test_a_step_is_steered(model: tenterhook.HookedModel) -> None:
    """And it alone."""
    with model.steer("line", torch.zeros_like, step=1):
        outputs = [model(IDS, MASK) for _ in range(3)]
    assert [bool(out.any()) for out in outputs] == [True, False, True]


@pytest.mark.parametrize("step", [-1, "-2:", [0, -1]])
def test_no_step_from_the_end(step: Any) -> None:
    """Where it ends is not known while it runs."""
    with pytest.raises(ValueError, match=r"step=.*counts from the end.*Count from 0"):
        Selection(step=step)


def test_steps_of_a_layer_that_is_called_by_itself(model: tenterhook.HookedModel) -> None:
    """Where no forward of the model runs, they are the layer's calls."""
    line = model.module.get_submodule("line")
    given = [torch.full((1, 2, 8), float(at)) for at in range(4)]
    with (
        model.capture("line", step=1) as one,
        model.capture("line", step="2:", inputs=True) as later,
        model.steer("line", torch.zeros_like, step=[0, 3]),
        model.capture("line") as steered,
    ):
        for each in given:
            line(each)
    assert [len(call) for call in one["line"]] == [0, 1, 0, 0]
    assert [len(call) for call in later["line"]] == [0, 0, 1, 1]
    assert torch.equal(later["line"][3], given[3])
    assert [bool(call.any()) for call in steered["line"]] == [False, True, True, False]


def test_rows_on_the_meta_device() -> None:
    """They need no numbers, only a first axis."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        given = torch.empty(5, 3, 8, 8)
    attached = tenterhook.attach(net)
    with (
        attached.capture("0", rows=[0, 2]) as captured,
        attached.capture("0", rows="1:", features=[0]) as features,
        attached.steer("0", lambda h: 2 * h, rows=-1, features=[1, 2]) as receipt,
    ):
        net(given)
    assert captured["0"][0].shape == (2, 4, 6, 6)
    assert features["0"][0].shape == (4, 4, 6, 1)
    assert receipt.calls == 1


def test_rows_that_are_not_of_this_layer(model: tenterhook.HookedModel) -> None:
    """What is put back has as many features."""
    said = r"Rows of \(7,\) are put back, and those of this layer are \(8,\)"
    with pytest.raises(HookError, match=said), model.steer("line", torch.ones(3, 7), tokens=0):
        model(IDS, MASK)
