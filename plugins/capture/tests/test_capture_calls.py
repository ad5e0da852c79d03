"""Layers that a forward calls several times: the rows are those of the call that is asked for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenterhook_capture import BadArgument, SeveralCalls, resume_run, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, OtherRun, Run

TEXTS = ["one two three", "four", "five six", "seven eight nine ten"]


class Shared(WordModel):
    """Its two blocks are one module."""

    def __init__(self) -> None:
        super().__init__()
        blocks = self.module.get_submodule("blocks")
        assert isinstance(blocks, nn.ModuleList)
        blocks[1] = blocks[0]


class Looking(nn.Module):
    """Returns its input, and on every call but the first a pattern of its own beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take `(batch, seq, features)`; return it, and `(batch, 1, seq, seq)` or nothing."""
        self.calls += 1
        if self.calls % 3 == 1:
            return x, None
        share = (self.calls % 3 + 1) / 4
        return x, torch.full((x.shape[0], 1, x.shape[1], x.shape[1]), share)


class LooksThrice(nn.Module):
    """Embeds words and looks at them three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 4)
        self.look = Looking()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Take ids, `(batch, seq)`, and the mask of real tokens."""
        x: Tensor = self.embed(ids)
        for _ in range(3):
            x, _ = self.look(x)
        return x


class Attentive(WordModel):
    """Calls its attention layer three times."""

    def __init__(self) -> None:
        super().__init__()
        super(WordModel, self).__init__(LooksThrice().eval(), model_id="attentive")


def save(layers: Any, model: WordModel | None = None, **how: Any) -> Run:
    """Return a run of the layers, under the id that follows from them."""
    store = MemoryStore()
    return store.run(save_activations(model or Shared(), layers, TEXTS, store, **how))


def calls(inputs: bool = False) -> list[Tensor]:
    """Return what each call of the shared block gives, or is given, a row for each token."""
    model, found = Shared(), list[list[Tensor]]()
    for ids in model.token_ids(TEXTS):
        with model.capture("blocks.0", inputs=inputs) as captured:
            model.run_token_ids([ids])
        found.append([call[0] for call in captured["blocks.0"]])
    return [torch.cat(rows) for rows in zip(*found, strict=True)]


def test_a_layer_of_several_calls_is_refused() -> None:
    """Nothing is made; the error has the number of calls and says how to choose."""
    store = MemoryStore()
    match = (
        r"Layer 'blocks.0' is called 2 times in a forward, and a run keeps a row per token. Say "
        r"which call, counted from 0: 'blocks.0:call=0' is the first, 'blocks.0:call=1' the last"
    )
    with pytest.raises(SeveralCalls, match=match) as error:
        save_activations(Shared(), "blocks.0", TEXTS, store)
    assert (error.value.layer, error.value.calls, error.value.call) == ("blocks.0", 2, None)
    assert store.runs() == []
    with pytest.raises(SeveralCalls, match=r"'blocks.0:input:call=0' is the first"):
        save_activations(Shared(), "blocks.0:input", TEXTS, store)


@pytest.mark.parametrize("side", ["", ":input"])
def test_rows_are_those_of_the_call(side: str) -> None:
    """Each call has rows of its own, as `captured[layer]` counts them."""
    names = [f"blocks.0{side}:call={number}" for number in (1, 0)]
    run = save(names)
    assert run.layers == tuple(sorted(names))
    for number, wanted in enumerate(calls(inputs=bool(side))):
        assert torch.allclose(run[f"blocks.0{side}:call={number}"][:], wanted, atol=1e-6)
    assert run.metadata["recipe"]["layers"] == sorted(names)


def test_any_spelling_finds_them() -> None:
    """The side stands before the call or after it, and the layer goes by any of its names."""
    run = save(["layer_0:call=1:input", "blocks.0:output:call=0"])
    assert run.layers == ("blocks.0:input:call=1", "blocks.0:call=0")
    for name in ("layer_0:input:call=1", "layer_0:call=0", "blocks.0:output:call=0"):
        assert run[name].shape == (10, 12)
    assert torch.equal(run["layer_0:output:call=0"][:], run["blocks.0:call=0"][:])


def test_inputs_of_a_call() -> None:
    """`inputs=True` means the input of the call."""
    run = save("blocks.0:call=1", inputs=True)
    assert run.layers == ("blocks.0:input:call=1",)


def test_patterns_of_a_call() -> None:
    """A call that returns no pattern counts as one too."""
    run = save(["look:attention:call=1", "look:attention:call=2"], Attentive())
    assert run["look:attention:call=1"][0].tolist() == [0.75, 0.75, 0.75, 0.0]
    assert run["look:attention:call=2"][0].tolist() == [0.25, 0.25, 0.25, 0.0]
    with pytest.raises(ValueError, match="'look' returned no attention pattern"):
        save("look:attention:call=0", Attentive())


def test_a_call_belongs_to_what_the_run_is() -> None:
    """Two calls are two runs; one is no answer for the other."""
    assert save("blocks.0:call=0").id != save("blocks.0:call=1").id
    store = MemoryStore()
    save_activations(Shared(), "blocks.0:call=0", TEXTS, store, run_name="run")
    with pytest.raises(OtherRun, match="call=1"):
        save_activations(Shared(), "blocks.0:call=1", TEXTS, store, run_name="run")
    resume_run(store, "run")


@pytest.mark.parametrize(
    ("layer", "model", "match"),
    [
        (
            "blocks.0:call=2",
            Shared,
            r"Layer 'blocks.0' is called 2 times in a forward, so there is no call=2: .* call=1",
        ),
        ("blocks.0:call=1", WordModel, r"'blocks.0' is called once in a forward.* call=0"),
    ],
)
def test_calls_that_are_not_there(layer: str, model: Any, match: str) -> None:
    """The error says how many there are."""
    with pytest.raises(SeveralCalls, match=match):
        save(layer, model())


@pytest.mark.parametrize("layer", ["blocks.0:call=", "blocks.0:call=-1", "blocks.0:call=0:call=1"])
def test_what_says_no_call(layer: str) -> None:
    """A word after a layer is a side or a call."""
    with pytest.raises(BadArgument, match=r"one with :input, :attention, :output, :call=0 after"):
        save(layer)


def test_a_layer_of_one_call_needs_no_number() -> None:
    """`:call=0` of it is the same rows, in an array that says so."""
    run = save(["blocks.0", "blocks.0:call=0"], WordModel())
    assert torch.equal(run["blocks.0"][:], run["blocks.0:call=0"][:])
