"""Layers that do not carry the text, though their sizes may agree with it."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.compiling import hooks_changed

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
    """What has the batch first again behind them is right, also in a batch as long as wide."""
    model = tenterhook.attach(_SequenceFirst().eval())
    with model.capture("head") as whole:
        model(IDS, MASK)
    expected = torch.stack([whole.last("head")[row, at] for row, at in LAST])
    with scope(model, "head", kind) as opened, model.capture("head") as after:
        model(IDS, MASK)
    if kind == "capture":
        assert torch.equal(opened.last("head"), expected)
    else:
        found = torch.stack([after.last("head")[row, at] for row, at in LAST])
        assert torch.equal(found, -expected)


class _Own(nn.Module):
    """A layer of one's own, whose axes a function turns."""

    def __init__(self, turn: Any, width: int = 8) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, width), nn.Linear(width, width)
        self.turn = turn

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(self.turn(self.embed(input_ids)))
        return out


class _Turns(_Own):
    def __init__(self) -> None:
        super().__init__(lambda x: x.transpose(0, 1))


def _by_hand(x: Tensor) -> Tensor:
    out = torch.empty_like(x).reshape(x.shape[1], x.shape[0], -1)
    for row in range(x.shape[0]):
        for at in range(x.shape[1]):
            out[at, row] = x[row, at]
    return out


TURNS = {
    "transpose": lambda x: x.transpose(0, 1),
    "getattr": lambda x: getattr(x, "trans" + "pose")(0, 1),
    "operator": lambda x: torch.ops.aten.permute(x, [1, 0, 2]),
    "vmap": lambda x: torch.vmap(lambda row: row, in_dims=1)(x),
    "strides": lambda x: x.as_strided((x.shape[1], x.shape[0], 8), (8, 8 * x.shape[1], 1)),
    "product": lambda x: torch.tensordot(torch.eye(x.shape[1]), x, ([1], [1])),
    "by hand": _by_hand,
}
"""Ways of turning axes round. No look at code would find them all."""


class _Channels(nn.Module):
    """Convolutions, with an activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.act = nn.Embedding(50, 4), nn.Conv1d(4, 4, 1), nn.GELU()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.act(self.conv(self.embed(input_ids).mT)).mT
        return out


class TestAsMany:
    """Own layers, and as many rows as tokens."""

    @KINDS
    @pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
    def test_turned(self, turn: Any, kind: str) -> None:
        """Where axes are turned, however that is done, it is refused."""
        model = tenterhook.attach(_Own(turn))
        said = r"'line'.*as many rows as tokens, 4, and this Linear does not have the rows first"
        with pytest.raises(REFUSED, match=said), scope(model, "line", kind):
            model(IDS, MASK)

    def test_other_sizes(self) -> None:
        """With other sizes it is refused by these, and nothing else is learned from it."""
        model = tenterhook.attach(_Turns())
        said = "does not have the axes of batch and tokens"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS[:3], MASK[:3])
        said = "does not have the rows first and then their tokens"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS, MASK)

    def test_not_tried(self) -> None:
        """What cannot run on another size is refused, until a batch of one is seen."""

        def straight(x: Tensor) -> Tensor:
            assert x.shape[0] in allowed
            return x

        allowed, model = [4], tenterhook.attach(_Own(straight))
        said = r"'line'.*it is not known .*a trial on two rows of 3 raised AssertionError.*another"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS, MASK)
        allowed.append(3)
        with model.capture("line", tokens="last"):
            model(IDS[:3], MASK[:3])
        with model.capture("line", tokens="last") as captured:
            model(IDS, MASK)
        assert captured.where("line")[0].tolist() == LAST

    def test_both_ways(self) -> None:
        """A layer that is called with either axis first is not taken for one of them."""

        class Both(_Own):
            def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
                hidden = self.line(self.embed(input_ids))
                out: Tensor = self.line(hidden.transpose(0, 1))
                return out

        model = tenterhook.attach(Both(None))
        for rows, said in ((3, "does not have the axes"), (4, "does not have the rows first")):
            with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
                model(IDS[:rows], MASK[:rows])

    def test_a_flag(self) -> None:
        """What a flag says of one forward is not taken to hold for others."""

        class Asked(_Own):
            def forward(
                self,
                input_ids: Tensor,
                attention_mask: Tensor | None = None,
                time_major: bool = False,
            ) -> Tensor:
                hidden = self.embed(input_ids)
                out: Tensor = self.line(hidden.transpose(0, 1) if time_major else hidden)
                return out

        model = tenterhook.attach(Asked(None))
        with model.capture("line", tokens="last") as captured:
            model(IDS, MASK)
        assert captured.where("line")[0].tolist() == LAST
        said = "does not have the rows first"
        with pytest.raises(ValueError, match=said), scope(model, "line", "capture"):
            model(IDS, MASK, time_major=True)

    def test_a_trial_leaves_nothing(self) -> None:
        """It runs on a copy: hooks, states, random numbers and the model's memory are as before."""

        class Counts(_Own):
            calls = 0

            def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
                self.calls += 1
                out: Tensor = self.line(self.embed(input_ids)) + torch.rand(1)
                return out

        module = Counts(None)
        seen: list[Any] = []
        module.line.register_forward_hook(lambda *given: seen.append(given))
        model, gone = tenterhook.attach(module), weakref.ref(module.line.weight)
        torch.manual_seed(0)
        with model.capture("line", tokens="last"):
            model(IDS, MASK)
        first = torch.rand(1)
        torch.manual_seed(0)
        torch.rand(1)
        assert torch.equal(first, torch.rand(1))
        assert (module.calls, len(seen)) == (1, 1)
        gc.disable()
        try:
            seen.clear()
            del module, model
            assert gone() is None or hooks_changed()  # compiled code keeps what it was made for
        finally:
            gc.enable()

    def test_straight(self) -> None:
        """Where none does, the batch is first."""
        model = tenterhook.attach(_Own(torch.tanh))
        with model.capture("line", tokens="last") as captured:
            model(IDS, MASK)
        assert captured.where("line")[0].tolist() == LAST

    def test_as_many_features(self) -> None:
        """Channels before the tokens are told from tokens before as many features."""
        model = tenterhook.attach(_Own(torch.tanh, width=4))
        with model.capture("line", tokens="last") as captured:
            model(IDS[:2], MASK[:2])
        assert captured.where("line")[0].tolist() == LAST[:2]
        turned = tenterhook.attach(_Channels())
        said = r"'act'.*as many features as tokens, 4, and this GELU does not have the rows first"
        with pytest.raises(ValueError, match=said), scope(turned, "act", "capture"):
            turned(IDS[:2], MASK[:2])

    @KINDS
    def test_in_one_axis(self, kind: str) -> None:
        """Rows and tokens in one axis are right row by row, and refused in another order."""
        straight = tenterhook.attach(_Own(lambda x: x.reshape(-1, 8)))
        with straight.capture("line", tokens="last") as captured:
            straight(IDS[:3], MASK[:3])
        assert captured.where("line")[0].tolist() == LAST[:3]
        turned = tenterhook.attach(_Own(lambda x: x.transpose(0, 1).reshape(-1, 8)))
        said = "rows and tokens in one axis, and this Linear does not have the rows first"
        with pytest.raises(REFUSED, match=said), scope(turned, "line", kind):
            turned(IDS[:3], MASK[:3])

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


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize(
    ("module", "layer", "said"),
    [
        (_SequenceFirst, "blocks", "has the sequence before the batch"),
        (_Turns, "line", "is not the batch's|does not have the batch first"),
        (lambda: _Own(lambda x: x.mT.mT.transpose(0, 1).reshape(-1, 8)), "line", "batch first"),
    ],
    ids=["kind", "turned", "joined"],
)
def test_rows_behind_tokens(module: Any, layer: str, said: str, rows: int) -> None:
    """A layer whose first axis is the tokens has none of the batch's rows there."""
    model = tenterhook.attach(module().eval())
    with (
        pytest.raises(ValueError, match=rf"'{layer}': Rows are selected, and .*({said})"),
        model.capture(layer, rows=1),
    ):
        model(IDS[:rows], MASK[:rows])


def test_rows_of_anything() -> None:
    """Rows need no text."""
    model = tenterhook.attach(_TwoTowers())
    with model.capture("tower", rows=1) as captured:
        model(IDS, MASK, torch.ones(4, 4, 5))
    assert captured.last("tower").shape == (1, 4, 8)


class _Hears(nn.Module):
    """Reads text, and sound of `(batch, samples)`, of which it makes as many frames as may be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.text = nn.Embedding(30, 8), nn.Linear(8, 8)
        self.front, self.ear = nn.Linear(2, 8), nn.Linear(8, 8)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, wave: Tensor | None = None
    ) -> Tensor:
        out: Tensor = self.text(self.embed(input_ids))
        if wave is not None:
            out = out + self.ear(self.front(wave.reshape(len(wave), -1, 2))).mean(1, keepdim=True)
        return out


def test_sound_of_two_axes() -> None:
    """A layer that has as many frames as the text has tokens has none of them."""
    attached = tenterhook.attach(_Hears())
    ids, mask = torch.arange(8).reshape(2, 4), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    wave = torch.randn(2, 8)
    with attached.capture("text", tokens=":") as captured:
        attached(ids, mask, wave)
    assert captured.cat("text").shape == (6, 8)
    said = "the _Hears was given wave, too, and the layer was not shown to have the text"
    with pytest.raises(ValueError, match=said), attached.capture("ear", tokens=":"):
        attached(ids, mask, wave)
