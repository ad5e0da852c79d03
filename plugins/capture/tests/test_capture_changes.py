"""A run of a changed model is another run than one of the model alone."""

from typing import Any

import pytest
import torch
from torch import nn

from tenterhook.hooks import Controller, Detector, HookError
from tenterhook_capture import BadArgument, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore

TEXTS = ["a b c", "d e", "a a a a"]


class _Doubles(Controller):
    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output * 2


def test_steered_rows_never_join_plain_ones() -> None:
    """What is saved in a scope that steers, or with a controller registered, is another run."""
    model, store = WordModel(), MemoryStore()
    first, last = model.layers.list_layers()[0], "head"
    plain = save_activations(model, last, TEXTS, store)
    with model.steer(first, lambda t: t * 0):
        steered = save_activations(model, last, TEXTS, store)
    hook = _Doubles(hook_id="twice")
    model.layers.register_hook(first, hook)
    doubled = save_activations(model, last, TEXTS, store)
    again = save_activations(model, last, TEXTS, store)
    hook.disable()
    alone = save_activations(model, last, TEXTS, store)

    assert alone == plain
    assert again == doubled
    assert len({plain, steered, doubled}) == 3
    assert not torch.equal(store.run(plain)[last][:], store.run(steered)[last][:])
    assert store.run(doubled).metadata["spec"]["changes"] == [f"_Doubles twice at {first}"]
    with model.without_controllers():
        assert save_activations(model, last, TEXTS, store) == plain


def test_a_replaced_layer_is_a_change_too() -> None:
    """So is an output that is given for a layer."""
    model, store = WordModel(), MemoryStore()
    first = model.layers.list_layers()[0]
    plain = save_activations(model, "head", TEXTS, store)
    forward = model.layers.index.resolve(first).module.forward
    with model.replace(first, lambda *args: forward(*args) * 2):
        assert save_activations(model, "head", TEXTS, store) != plain


def test_other_spellings_read_a_run() -> None:
    """A run's layer is read by every spelling that the model has for it."""
    model, store = WordModel(), MemoryStore()
    run = store.run(save_activations(model, "head", TEXTS, store))
    at = model.layers.list_layers().index("head")
    assert torch.equal(run[at][:], run["head"][:])
    assert torch.equal(run[at - len(model.layers.list_layers())][:], run["head"][:])
    with pytest.raises(KeyError, match="has no layer"):
        run["layer_7"]


def test_no_name_is_no_layer() -> None:
    """An empty name, as of a shell variable that is not set, is refused."""
    with pytest.raises(BadArgument, match="'output' is what the model returns"):
        save_activations(WordModel(), "", TEXTS, MemoryStore())


@pytest.mark.parametrize("policy", ["warn", "disable"])
def test_a_write_in_place_is_never_skipped(policy: Any) -> None:
    """Under every policy for errors it is raised: the numbers are wrong already."""

    class Writes(Detector):
        def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
            output.mul_(2)

    model = WordModel()
    model.on_error = policy
    model.layers.register_hook("head", Writes())
    with pytest.raises(HookError, match="wrote to the activation in place"):
        model.run_token_ids([[1, 2]])
