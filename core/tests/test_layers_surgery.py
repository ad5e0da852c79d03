"""What a name means after a model was changed: as a fresh look at it says, whoever changed it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tenterhook
from tenterhook.errors import UnknownLayer
from tenterhook.layers import LayerIndex

SPELLINGS: list[Any] = [
    *("layer_0", "layer_1", "layer_3", "model.h.1", "model.h.2.mlp", "model.extra", "input", ""),
    *("output", "model.*", "*.mlp", "*h.1*", "model.h", 0, 3, -1, 7),
]


class Block(nn.Module):
    """Attention and an MLP."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Linear(width, width)


class Model(nn.Module):
    """A stack of blocks in a module, and what is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Identity()
        self.model = nn.Module()
        self.model.h = nn.ModuleList([Block() for _ in range(4)])
        self.model.norm = nn.Identity()


def replace(model: Any) -> None:
    """Put another block in the place of one."""
    if len(model.model.h) > 1:
        model.model.h[1] = Block()


def append(model: Any) -> None:
    """Have one block more."""
    model.model.h.append(Block())


def insert(model: Any) -> None:
    """Have one block more, before the others: torch tells nobody."""
    model.model.h.insert(0, Block())


def remove(model: Any) -> None:
    """Have one block less, the others moving up."""
    if len(model.model.h):
        del model.model.h[0]


def pop(model: Any) -> None:
    """Have one block less, the last."""
    if len(model.model.h):
        model.model.h.pop(-1)


def add(model: Any) -> None:
    """Have one module more."""
    model.model.extra = nn.Identity()


def take(model: Any) -> None:
    """Have one module less."""
    if hasattr(model.model, "extra"):
        del model.model.extra


def rename(model: Any) -> None:
    """Behind torch's back, in its own dictionary."""
    modules = model._modules
    names = ("embed", "embedding")
    old, new = names if "embed" in modules else names[::-1]
    modules[new] = modules.pop(old)


def swap(model: Any) -> None:
    """Behind torch's back, two blocks."""
    blocks = model.model.h._modules
    if len(blocks) > 1:
        blocks["0"], blocks["1"] = blocks["1"], blocks["0"]


def share(model: Any) -> None:
    """Have one block at two places."""
    if len(model.model.h):
        model.model.h.append(model.model.h[0])


def outgrow(model: Any) -> None:
    """Have another stack, with more parameters."""
    model.tower = nn.ModuleList([Block(16), Block(16)])


def fell(model: Any) -> None:
    """Have that stack no more."""
    if hasattr(model, "tower"):
        del model.tower


def fill(model: Any) -> None:
    """Behind torch's back, in what was a leaf."""
    model.model.norm._modules["inner"] = nn.Identity()


def shadow(model: Any) -> None:
    """Have a submodule called as the whole model is."""
    model.output = nn.Identity()


SURGERY = [
    *(replace, append, insert, remove, pop, add, take, rename, swap, share, outgrow, fell, fill),
    shadow,
]


def meant(index: LayerIndex, spelling: Any) -> Any:
    """Return names and modules, or what is wrong."""
    try:
        return [(layer.name, id(layer.module)) for layer in index.expand([spelling])]
    except UnknownLayer as error:
        return str(error)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(SURGERY), min_size=1, max_size=6))
def test_every_spelling_means_what_a_fresh_look_says(steps: list[Any]) -> None:
    """After each change, in a scope that looked before it."""
    model = Model()
    index = LayerIndex(model)
    for step in [lambda _: None, *steps]:
        step(model)
        fresh = LayerIndex(model)
        for spelling in SPELLINGS:
            assert meant(index, spelling) == meant(fresh, spelling), (step, spelling)


def test_a_capture_follows_surgery() -> None:
    """A scope by `layer_N` keeps what the block that is there now gives."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    hooked = tenterhook.attach(model)
    x = torch.ones(1, 2)
    for _ in range(2):
        with hooked.capture("layer_1") as captured:
            hooked(x)
        assert torch.equal(captured.last("layer_1"), model[1](model[0](x)))

    del model[0]
    with hooked.capture("layer_1") as captured:
        hooked(x)

    assert torch.equal(captured.last("layer_1"), model(x))


@pytest.mark.parametrize("layer", ["*", "a[0]", "what?"])
def test_a_module_that_is_called_like_a_pattern(layer: str) -> None:
    """Its own name comes first."""
    model = nn.ModuleDict({layer: nn.Identity(), "other": nn.Identity()})
    hooked = tenterhook.attach(model)

    assert hooked.layers.index.resolve(layer).module is model[layer]
    assert [la.name for la in hooked.layers.index.expand([layer])] == [layer]


@pytest.mark.parametrize("asked", ["layr_1", "Layer_1", "layer1"])
def test_a_slip_in_an_alias(asked: str) -> None:
    """The nearest spelling is named, aliases among them."""
    hooked = tenterhook.attach(Model())

    with pytest.raises(UnknownLayer, match="Closest: 'layer_1'"):
        hooked.capture(asked)


def test_a_pattern_where_one_layer_is_wanted() -> None:
    """Says what takes patterns."""
    hooked = tenterhook.attach(Model())

    with pytest.raises(UnknownLayer, match="patterns are for scopes"):
        hooked.layers.index.resolve("model.h.*.mlp")


def test_another_stack_is_chosen() -> None:
    """`layer_N` counts in the stack with the most parameters, or in the one that was named."""
    model = Model()
    outgrow(model)
    hooked = tenterhook.attach(model)
    index = hooked.layers.index

    assert list(hooked.layers.stacks()) == ["tower", "model.h"]
    assert index.resolve("layer_1").name == "tower.1"
    with pytest.raises(UnknownLayer, match=r"'tower' has 2 blocks.*stack='model.h'"):
        index.resolve("layer_3")
    assert hooked.layers(stack="model.h") is hooked.layers
    assert index.resolve("layer_3").name == "model.h.3"
    with pytest.raises(UnknownLayer, match=r"No layer 'h'.*no stack of blocks"):
        hooked.layers(stack="h")
    assert index.resolve("layer_1").name == "model.h.1"
    assert hooked.layers(stack=None).list_blocks() == ["tower.0", "tower.1"]
