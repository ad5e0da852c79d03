"""A capture's forwards end after the last layer that is needed, and the rows are the same."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Detector
from tenterhook_capture import BadArgument, NotPerToken, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, Run
from tenterhook_store.testing import same_bits

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]


class Counting(Detector):
    """Counts calls."""

    calls = 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Count one."""
        self.calls += 1


def count_calls(module: nn.Module) -> list[int]:
    """Return a list that grows with each call of the module."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def captured(model: WordModel, layers: Any, **settings: Any) -> Run:
    """Capture in batches of one document and open the run."""
    store = MemoryStore()
    given = {"batch_size": 1, **settings}
    return store.run(save_activations(model, layers, TEXTS, store, **given))


def whole(layer: str, model: WordModel | None = None, *, inputs: bool = False) -> Tensor:
    """Return what a bare hook sees in whole forwards, one document each."""
    model = model or WordModel()
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        found = args[0] if inputs else output
        seen.append((found[0] if isinstance(found, tuple) else found)[0].detach().clone())

    handle = model.module.get_submodule(layer).register_forward_hook(keep)
    for document in model.token_ids(TEXTS):
        model.run_token_ids([document])
    handle.remove()
    return torch.cat(seen)


def test_later_layers_do_not_run() -> None:
    """Only the first forward, which shows the order, runs past the last captured layer."""
    model = WordModel()
    late, head = (count_calls(model.module.get_submodule(n)) for n in ("blocks.1", "head"))
    run = captured(model, ["blocks.0", "embed"])
    assert len(model.batches) == 7
    assert (len(late), len(head)) == (1, 1)
    for layer in ("blocks.0", "embed"):
        assert same_bits(run[layer][:], whole(layer))
    tenterhook.assert_clean(model)


class Backwards(WordModel):
    """Runs its second block first."""

    def __init__(self) -> None:
        super().__init__()
        blocks = self.module.get_submodule("blocks")
        order = [blocks.get_submodule("1"), blocks.get_submodule("0")]
        model = self.module

        def forward(ids: Tensor, mask: Tensor) -> Any:
            x = model.get_submodule("embed")(ids)
            for block in order:
                x, _ = block(x, mask)
            return model.get_submodule("head")(x)

        model.forward = forward


def test_the_order_is_that_of_the_forward() -> None:
    """Where a layer of a lower number runs later, the forward ends after that."""
    model = Backwards()
    head = count_calls(model.module.get_submodule("head"))
    run = captured(model, ["blocks.0", "blocks.1"])
    assert len(head) == 1
    for layer in ("blocks.0", "blocks.1"):
        assert same_bits(run[layer][:], whole(layer, Backwards()))


def test_a_block_ends_after_what_is_inside_it() -> None:
    """Of a block and a part of it, the block is the later one."""
    model = WordModel()
    head = count_calls(model.module.get_submodule("head"))
    run = captured(model, ["blocks.1.mlp", "blocks.1"])
    assert len(head) == 1
    assert same_bits(run["blocks.1"][:], whole("blocks.1"))


def test_a_layer_that_is_called_twice_has_whole_forwards() -> None:
    """Nobody knows which call would be the last, so the forward runs to its end."""

    class Twice(WordModel):
        def __init__(self) -> None:
            super().__init__()
            blocks = self.module.get_submodule("blocks")
            assert isinstance(blocks, nn.ModuleList)
            blocks[1] = blocks[0]

    model = Twice()
    head = count_calls(model.module.get_submodule("head"))
    run = captured(model, "blocks.0:call=1")
    assert len(head) == len(model.batches) == 7
    assert run["blocks.0:call=1"].shape == (22, 12)


def test_a_model_that_does_not_let_itself_be_stopped() -> None:
    """Where `run_token_ids` calls the module itself, forwards run whole; the rows are there."""

    class Stubborn(WordModel):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    model = Stubborn()
    run = captured(model, "blocks.0")
    assert same_bits(run["blocks.0"][:], whole("blocks.0"))
    tenterhook.assert_clean(model)


def test_order_that_changes_with_the_batch() -> None:
    """A model that comes to call its layers in another order runs whole from then on."""

    model = WordModel()
    blocks = [model.module.get_submodule(f"blocks.{at}") for at in (0, 1)]
    turns: list[int] = []

    def forward(ids: Tensor, mask: Tensor) -> Any:
        x = model.module.get_submodule("embed")(ids)
        turns.append(1)
        for block in blocks if len(turns) < 4 else blocks[::-1]:
            x, _ = block(x, mask)
        return model.module.get_submodule("head")(x)

    model.module.forward = forward
    run = captured(model, ["blocks.0", "blocks.1"])
    assert len(turns) == 7 + 1  # one was run again, whole
    assert len(run) == 22


def test_who_watches_sees_whole_forwards() -> None:
    """With a detector on the model, or a capture open around it, nothing is cut off."""
    model = WordModel()
    seen = Counting()
    model.layers.register_hook("head", seen)
    captured(model, "blocks.0")
    assert seen.calls == len(model.batches) == 7
    model.layers.unregister_hook(seen)
    with model.capture("head") as around:
        captured(model, "blocks.0")
    assert len(around["head"]) == 7
    scoped = Counting()
    with model.hooks(("head", scoped)):
        captured(model, "blocks.0")
    assert scoped.calls == 7


def test_controllers_do_not_keep_forwards_whole() -> None:
    """What changes an earlier layer is no reason to run the later ones."""
    model = WordModel()
    head = count_calls(model.module.get_submodule("head"))
    with model.steer("embed", lambda x: x + 1):
        run = captured(model, "blocks.0")
    assert len(head) == 1
    assert not torch.allclose(run["blocks.0"][:], whole("blocks.0"))


# --- inputs


@pytest.mark.parametrize(
    ("layers", "settings"),
    [("blocks.1.mlp:input", {}), ("blocks.1.mlp", {"inputs": True})],
    ids=["spelled", "all"],
)
def test_inputs(layers: str, settings: dict[str, Any]) -> None:
    """The input of a layer is kept under its name with `:input`, in every spelling."""
    model = WordModel()
    head = count_calls(model.module.get_submodule("head"))
    run = captured(model, layers, **settings)
    assert run.layers == ("blocks.1.mlp:input",)
    assert same_bits(run["blocks.1.mlp:input"][:], whole("blocks.1.mlp", inputs=True))
    assert len(head) == 1


def test_inputs_and_outputs_of_different_widths() -> None:
    """One forward serves both, in the model's order."""
    run = captured(WordModel(), ["head:input", "head", "layer_0:output", "blocks.0.mlp.2:input"])
    assert run.layers == ("blocks.0", "blocks.0.mlp.2:input", "head:input", "head")
    assert [each.features for each in run.plan.layers] == [12, 24, 12, 97]
    assert same_bits(run["head:input"][:], whole("head", inputs=True))
    assert same_bits(run["head"][:], whole("head"))
    assert same_bits(run["layer_0"][:], run["layer_0:output"][:])


def test_inputs_of_a_pattern() -> None:
    """A side after a pattern is of every layer that matches."""
    run = captured(WordModel(), "blocks.?:input")
    assert run.layers == ("blocks.0:input", "blocks.1:input")
    assert same_bits(run["layer_1:input"][:], whole("blocks.1", inputs=True))


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        ("head:inputs", BadArgument, "'head:inputs' must be a layer, or one with :input"),
        ("output:input", BadArgument, "the token ids are kept"),
        ("embed:input", NotPerToken, r"gave int64 \[2, 3\] \(token ids, which a run keeps"),
        ("input", NotPerToken, r"'input' gave int64 \[2, 3\] \(token ids, which a run keeps"),
        ("pooled:input", NotPerToken, r"'pooled:input' gave float32 \[2, 12\]"),
    ],
)
def test_points_that_cannot_be_kept(layers: str, error: type[Exception], match: str) -> None:
    """What has no row of numbers for each token is refused, with the reason."""
    with pytest.raises(error, match=match):
        captured(WordModel(), layers)


def test_output_of_four_axes() -> None:
    """An output with another axis is refused; it would not be a row."""

    class Heads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., None, :].expand(*x.shape[:2], 3, x.shape[2])

    model = WordModel()
    model.module.get_submodule("blocks.0.mlp").add_module("3", Heads())
    model.module.get_submodule("blocks.0.mlp").add_module("4", nn.Flatten(2))
    model.module.get_submodule("blocks.0.mlp").add_module("5", nn.Linear(36, 12))
    with pytest.raises(NotPerToken, match=r"float32 \[2, 3, 3, 12\].*must be \(batch, seq, feat"):
        captured(model, "blocks.0.mlp.3")
