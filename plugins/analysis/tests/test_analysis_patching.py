"""Activation patching against a plain loop of bare torch hooks, and its estimates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_analysis import (
    BadMetric,
    NoSuchPosition,
    NotByToken,
    UnequalPrompts,
    attribution_patching,
    integrated_gradients,
    logit_difference,
    patch_grid,
)
from tenterhook_transformers import LanguageModel

Make = Callable[..., LanguageModel]
CLEAN, CORRUPT = "And God said unto Moses", "And God said unto David"


def metric(logits: Tensor) -> Tensor:
    """Return the logit of one token over another's at the last position."""
    assert logits.shape[0] == 1
    return logits[:, -1, 7] - logits[:, -1, 11]


def run(lm: LanguageModel, text: str) -> float:
    """Return the metric of a text, run by the bare model."""
    with torch.no_grad():
        return float(metric(lm.module(**lm.tokenize(text)).logits))


def loop(lm: LanguageModel, clean: str, corrupt: str, layers: list[str]) -> Tensor:
    """Patch a cell at a time by bare torch hooks."""
    kept: dict[str, Any] = {}
    modules = {name: lm.module.get_submodule(name) for name in layers}

    def patched(output: Any, name: str, at: int) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        new = whole.clone()
        new[:, at] = kept[name][:, at]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    for name, module in modules.items():

        def keep(_: Any, __: Any, output: Any, name: str = name) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output

        handle = module.register_forward_hook(keep)
        run(lm, clean)
        handle.remove()
    count = lm.tokenize(corrupt)["input_ids"].shape[1]
    values = torch.zeros(len(layers), count)
    for row, (name, module) in enumerate(modules.items()):
        for at in range(count):
            handle = module.register_forward_hook(
                lambda _, __, output, name=name, at=at: patched(output, name, at)
            )
            values[row, at] = run(lm, corrupt)
            handle.remove()
    return values


@pytest.mark.matrix(sample=2)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox"])
def test_every_cell_is_what_a_loop_gives(make_lm: Make, family: str) -> None:
    """Blocks, and layers inside them; in batches that do not come out even."""
    lm = make_lm(family)
    blocks = lm.layers.index.blocks()
    inside = [f"{blocks[1]}.mlp", f"{blocks[2]}.mlp"]

    grid = patch_grid(lm, CLEAN, CORRUPT, metric, [*blocks, *inside], batch_size=3)

    assert grid.layers == (*blocks, *inside)
    expected = loop(lm, CLEAN, CORRUPT, [*blocks, *inside])
    assert torch.allclose(grid.values.float(), expected, atol=2e-4)
    assert grid.clean == pytest.approx(run(lm, CLEAN), abs=1e-4)
    assert grid.corrupt == pytest.approx(run(lm, CORRUPT), abs=1e-4)


def test_by_default_all_blocks_and_positions(tiny: LanguageModel) -> None:
    """The last block's last position alone brings the whole answer back."""
    grid = patch_grid(tiny, CLEAN, CORRUPT, metric)

    count = len(tiny.token_strings(CLEAN))
    assert grid.values.shape == (4, count)
    assert torch.allclose(grid.restored[-1, -1], torch.ones((), dtype=torch.float64), atol=1e-4)
    assert torch.equal(grid.change, grid.values - grid.corrupt)
    assert torch.allclose(grid.change[-1, :-1], torch.zeros(1, dtype=torch.float64), atol=1e-4)


def test_chosen_positions(make_lm: Make) -> None:
    """From the end, too, in the order given."""
    lm = make_lm("llama")
    whole = patch_grid(lm, CLEAN, CORRUPT, metric)

    some = patch_grid(lm, CLEAN, CORRUPT, metric, ["layer_1"], [-1, 2])

    count = whole.values.shape[1]
    assert some.positions == (count - 1, 2)
    assert torch.allclose(some.values, whole.values[1:2][:, list(some.positions)], atol=1e-5)
    assert some.corrupt_tokens == tuple(lm.token_strings(CORRUPT)[at] for at in some.positions)


def test_edits_on_the_model_stay(make_lm: Make) -> None:
    """A hook that changes what a block returns is part of every run, once."""
    lm = make_lm("gpt2")
    block = lm.module.get_submodule("transformer.h.0")
    handle = block.register_forward_hook(
        lambda _, __, y: (y[0] * 2, *y[1:]) if isinstance(y, tuple) else y * 2
    )
    expected = patch_grid(lm, CLEAN, CORRUPT, metric, ["layer_1", "layer_2"]).values
    handle.remove()

    with lm.steer("layer_0", lambda y: y * 2):
        found = patch_grid(lm, CLEAN, CORRUPT, metric, ["layer_1", "layer_2"]).values

    assert torch.allclose(found, expected, atol=1e-4)


def test_attribution_is_the_first_order(make_lm: Make) -> None:
    """What a small step of each cell would change, times the inverse of the step."""
    lm = make_lm("llama")
    for parameter in lm.module.parameters():
        parameter.requires_grad_(False)
    blocks = lm.layers.index.blocks()

    found = attribution_patching(lm, CLEAN, CORRUPT, metric)

    with lm.capture(*blocks) as clean:
        run(lm, CLEAN)
    with lm.capture(*blocks) as corrupt:
        run(lm, CORRUPT)
    for row, name in enumerate(blocks):
        change = clean.last(name) - corrupt.last(name)
        for at in range(found.values.shape[1]):
            up, down = (run_changed(lm, name, at, share * change) for share in (0.01, -0.01))
            assert float(found.change[row, at]) == pytest.approx(
                (up - down) / 0.02, rel=2e-2, abs=1e-3
            )


def run_changed(lm: LanguageModel, layer: str, at: int, change: Tensor) -> float:
    """Return the metric of the corrupt text with something added at one position."""
    with lm.steer(layer, lambda y: y + change, tokens=at):
        return run(lm, CORRUPT)


def test_integrated_gradients_are_complete(make_lm: Make) -> None:
    """Of a whole block, the changes add up to all that lies between the prompts."""
    lm = make_lm("gpt2")

    found = integrated_gradients(lm, CLEAN, CORRUPT, metric, steps=12)

    whole = torch.full((3,), found.clean - found.corrupt, dtype=torch.float64)
    assert torch.allclose(found.change.sum(1), whole, rtol=2e-2, atol=1e-3)
    assert found.method == "integrated gradients"


def test_integrated_gradients_by_many_small_steps(make_lm: Make) -> None:
    """The same as the plain sum over a fine path."""
    lm = make_lm("llama")
    name = "model.layers.1"
    found = integrated_gradients(lm, CLEAN, CORRUPT, metric, [name])
    with lm.capture(name) as clean:
        run(lm, CLEAN)
    with lm.capture(name) as corrupt:
        run(lm, CORRUPT)
    begin, change = corrupt.last(name), clean.last(name) - corrupt.last(name)

    total = torch.zeros_like(begin)
    inputs = lm.tokenize(CORRUPT)
    for step in range(24):
        point = (begin + (step + 0.5) / 24 * change).requires_grad_()
        with lm.steer(name, lambda y, point=point: point):
            value = metric(lm.module(**inputs).logits).sum()
        total += torch.autograd.grad(value, point)[0] / 24

    expected = (total * change)[0].sum(-1).double()
    assert torch.allclose(found.change[0], expected, rtol=2e-2, atol=2e-3)


def test_a_difference_of_logits(tiny: LanguageModel) -> None:
    """Words of one token, or ids."""
    logits = torch.randn(1, 3, 2048)
    one, other = tiny.single_token(" the"), tiny.single_token(" that")

    assert (
        logit_difference(tiny, " the", other)(logits) == logits[0, -1, one] - logits[0, -1, other]
    )


def test_what_cannot_be_patched(make_lm: Make) -> None:
    """Prompts of unequal length, positions that are not there, metrics of many numbers."""
    lm = make_lm("llama")
    with pytest.raises(
        UnequalPrompts, match=r"has 3 tokens and the corrupt one 5; they differ from token 1"
    ):
        patch_grid(lm, "Moses", "God said unto", metric)
    with pytest.raises(NoSuchPosition, match=r"Position 99 is not in a prompt of \d+ tokens"):
        patch_grid(lm, CLEAN, CORRUPT, metric, positions=[99])
    with pytest.raises(BadMetric, match=r"The metric returned \[1, 2048\] numbers"):
        patch_grid(lm, CLEAN, CORRUPT, lambda logits: logits[:, -1])
    with pytest.raises(NotByToken, match=r"Layer 'pattern.1' gives \[1, 4, \d+, \d+\] of a prompt"):
        patch_grid(lm, CLEAN, CORRUPT, metric, ["pattern.1"])
    with pytest.raises(ValueError, match="batch_size=0 must be"):
        patch_grid(lm, CLEAN, CORRUPT, metric, batch_size=0)
    with pytest.raises(ValueError, match="steps=0 must be"):
        integrated_gradients(lm, CLEAN, CORRUPT, metric, steps=0)


def test_as_a_table_and_a_picture_of_html(make_lm: Make) -> None:
    """Both tokens head a column where they differ."""
    grid = patch_grid(make_lm("gpt2"), CLEAN, CORRUPT, metric)

    table = grid.to_pandas()
    assert set(table.columns) >= {"layer", "position", "value", "change", "restored"}
    assert table.value.tolist() == grid.values.flatten().tolist()
    assert "→" in grid._repr_html_()
    assert repr(grid).startswith("PatchGrid('activation patching', (3, ")
