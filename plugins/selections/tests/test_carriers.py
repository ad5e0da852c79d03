"""Layers that do not carry the text, though their sizes may agree with it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook

IDS = torch.arange(16).reshape(4, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
LAST = [[0, 2], [1, 1], [2, 3], [3, 3]]


class _SequenceFirst(nn.Module):
    """As many rows as tokens, and blocks that take the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 50)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.blocks(self.embed(input_ids).transpose(0, 1))
        out: Tensor = self.head(hidden.transpose(0, 1))
        return out


class _Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(x))
        return out


class _Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        out: Tensor = self.line(pixel_values)
        return out


class _TwoTowers(nn.Module):
    """Text and images, as many patches as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.text, self.tower = nn.Embedding(50, 8), nn.Linear(8, 8), _Tower()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        out: Tensor = self.text(self.embed(input_ids)) + self.tower(pixel_values)
        return out


def scope(model: tenterhook.HookedModel, layer: str, kind: str) -> Any:
    """Return a scope with a selection of tokens at a layer."""
    if kind == "capture":
        return model.capture(layer, tokens="last")
    return model.steer(layer, torch.neg, tokens="last")


KINDS = pytest.mark.parametrize("kind", ["capture", "steer"])
REFUSED = (ValueError, tenterhook.HookError)


@KINDS
@pytest.mark.parametrize("layer", ["blocks", "blocks.layers.0", "blocks.layers.1.linear1"])
def test_sequence_first(layer: str, kind: str) -> None:
    """Blocks with `batch_first=False` have another axis first."""
    model = tenterhook.attach(_SequenceFirst().eval())
    said = rf"'{layer}'.*batch_first=False has the sequence before the batch"
    with pytest.raises(REFUSED, match=said), scope(model, layer, kind):
        model(IDS, MASK)


def test_before_them() -> None:
    """Embeddings of the ids as they were given have the batch first, as those have."""
    model = tenterhook.attach(_SequenceFirst().eval())
    with model.capture("embed", tokens="last") as captured:
        model(IDS, MASK)
    assert captured.where("embed")[0].tolist() == LAST


@KINDS
def test_behind_them(kind: str) -> None:
    """Which axis is first behind them, a batch of another size shows."""
    model = tenterhook.attach(_SequenceFirst().eval())
    said = r"'head'.*as many rows as tokens, 4, and the code of _SequenceFirst turns axes round"
    with pytest.raises(REFUSED, match=said), scope(model, "head", kind):
        model(IDS, MASK)
    with model.capture("head", tokens="last"):
        model(IDS[:3], MASK[:3])
    with model.capture("head", tokens="last") as captured:
        model(IDS, MASK)
    assert captured.where("head")[0].tolist() == LAST


class _Own(nn.Module):
    """Layers of one's own, with the tokens first or not, as a helper says."""

    def __init__(self, turn: Any) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.turn = turn

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(self.turned(self.embed(input_ids)))
        return self.turned(out)

    def turned(self, x: Tensor) -> Tensor:
        found: Tensor = self.turn(x)
        return found


class _Turns(_Own):
    def __init__(self) -> None:
        super().__init__(None)

    def turned(self, x: Tensor) -> Tensor:
        return _around(x)


def _around(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


class TestAsMany:
    """Own layers, and as many rows as tokens."""

    @KINDS
    @pytest.mark.parametrize(
        "own", [_Turns, lambda: _Own(lambda x: x.movedim(0, 1))], ids=["code", "given"]
    )
    def test_turned(self, own: Any, kind: str) -> None:
        """Where the code turns axes, however far away, it is refused."""
        model = tenterhook.attach(own())
        said = r"'line'.*the code of _(Turns|Own) turns axes.*module\.batch_first = True"
        with pytest.raises(REFUSED, match=said), scope(model, "line", kind):
            model(IDS, MASK)

    def test_other_sizes(self) -> None:
        """With other sizes it is refused by these, and nothing is learned from it."""
        model = tenterhook.attach(_Turns())
        said = "does not have the axes of batch and tokens"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS[:3], MASK[:3])
        said = "turns axes round"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS, MASK)

    def test_straight(self) -> None:
        """Where none does, the batch is first."""
        model = tenterhook.attach(_Own(torch.tanh))
        with model.capture("line", tokens="last") as captured:
            model(IDS, MASK)
        assert captured.where("line")[0].tolist() == LAST

    @pytest.mark.parametrize("first", [True, False])
    def test_said(self, first: bool) -> None:
        """A module may say it, for itself and what it holds."""
        module: Any = _Turns()
        module.batch_first = first
        model = tenterhook.attach(module)
        if first:
            with model.capture("line", tokens="last") as captured:
                model(IDS, MASK)
            assert captured.where("line")[0].tolist() == LAST
        else:
            said = "has the sequence before the batch"
            with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
                model(IDS, MASK)


@KINDS
@pytest.mark.parametrize(
    ("layer", "said"),
    [("conv", "a Conv2d has its channels before the places"), ("relu", "on cannot be told")],
)
def test_channels_first(layer: str, said: str, kind: str) -> None:
    """Channels are no tokens."""
    model = tenterhook.attach(_Images())
    with pytest.raises(REFUSED, match=rf"'{layer}'.*{said}"), scope(model, layer, kind):
        model(torch.ones(2, 3, 8, 8))


@KINDS
@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("tower", "the layer is part of a _Tower, which is given pixel_values"),
        ("tower.line", "the layer is part of a _Tower, which is given pixel_values"),
        ("text", "was given pixel_values, too, and it cannot be told whose tokens"),
    ],
)
def test_another_tower(layer: str, said: str, kind: str) -> None:
    """Patches are no tokens, and of what nothing tells nothing is said."""
    model = tenterhook.attach(_TwoTowers())
    with pytest.raises(REFUSED, match=rf"'{layer}'.*{said}"), scope(model, layer, kind):
        model(IDS, MASK, torch.ones(4, 4, 5))


def test_embeddings_of_the_text() -> None:
    """What is given the ids has the text."""
    model = tenterhook.attach(_TwoTowers())
    with model.capture("embed", tokens="last") as captured:
        model(IDS, MASK, torch.ones(4, 4, 5))
    assert captured.where("embed")[0].tolist() == LAST


def test_rows_of_anything() -> None:
    """Rows need no text."""
    model = tenterhook.attach(_TwoTowers())
    with model.capture("tower", rows=1) as captured:
        model(IDS, MASK, torch.ones(4, 4, 5))
    assert captured.last("tower").shape == (1, 4, 8)
