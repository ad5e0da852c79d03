"""What identifies a run of a model that is changed: the hooks at work, and their settings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from tenterhook.hooks import AddVector, Clamp, Controller, FunctionController, HookType, Scale
from tenterhook_capture import CaptureOptions, prepare_capture, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_sae import TopKSae
from tenterhook_store import MemoryStore, OtherRun

TEXTS = ["a b c", "d e", "a a a a"]
WIDTH = 8
ONES = torch.ones(WIDTH)

Steer = Callable[[WordModel], Any]


def steered(hook: Controller, layer: Any = "blocks.0", **selected: Any) -> Steer:
    """Return what opens a scope with a hook."""
    return lambda model: model.steer(layer, hook, **selected)


@contextlib.contextmanager
def _two(model: WordModel, *hooks: Controller) -> Iterator[None]:
    for hook in hooks:
        model.layers.register_hook("blocks.0", hook)
    yield
    model.layers.clear()


BLOCKS = ("blocks.0", "blocks.1")
PLAIN = steered(AddVector("blocks.0", ONES, hook_id="v"))
OTHERS: dict[str, Steer] = {
    "a vector": steered(AddVector("blocks.0", ONES * 2, hook_id="v")),
    "one number of it": steered(AddVector("blocks.0", ONES + 1e-6 * torch.eye(8)[3], hook_id="v")),
    "a dtype": steered(AddVector("blocks.0", ONES.double(), hook_id="v")),
    "a coefficient": steered(AddVector("blocks.0", ONES, 2.0, hook_id="v")),
    "features": steered(AddVector("blocks.0", ONES, features=[0], hook_id="v")),
    "a side": steered(AddVector("blocks.0", ONES, hook_type=HookType.PRE_FORWARD, hook_id="v")),
    "a layer": steered(AddVector("blocks.0", ONES, hook_id="v"), "blocks.1"),
    "layers": steered(AddVector("blocks.0", ONES, hook_id="v"), lambda name, _: name in BLOCKS),
    "tokens": steered(AddVector("blocks.0", ONES, hook_id="v"), tokens=[0]),
    "other tokens": steered(AddVector("blocks.0", ONES, hook_id="v"), tokens=[1]),
    "a class": steered(Scale("blocks.0", 1.0, hook_id="v")),
}


@pytest.mark.matrix(sample=8)
@pytest.mark.parametrize("options", [{}, {"reduce": ("mean",), "keep_rows": False}])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_settings_are_another_run(other: Steer, options: dict[str, Any]) -> None:
    """Under one id of a hook, and where no row is kept that could be compared."""
    model, store = WordModel(width=WIDTH), MemoryStore()
    with PLAIN(model):
        first = save_activations(model, "head", TEXTS, store, **options)
    with other(model):
        second = save_activations(model, "head", TEXTS, store, **options)
        assert second != first
        assert save_activations(model, "head", TEXTS, store, **options) == second
    with PLAIN(model):
        assert save_activations(model, "head", TEXTS, store, **options) == first
    with other(model), pytest.raises(OtherRun, match=r"changes (not the same|is .* there and)"):
        save_activations(model, "head", TEXTS, store, run_name=first, **options)


def test_hooks_of_one_layer_in_another_order_are_another_run() -> None:
    """Adding and then bounding is not bounding and then adding."""
    add = AddVector("blocks.0", ONES, hook_id="add")
    clamp = Clamp("blocks.0", maximum=0.5, hook_id="clamp")
    model, store = WordModel(width=WIDTH), MemoryStore()
    with _two(model, add, clamp):
        first = save_activations(model, "head", TEXTS, store)
    with _two(model, clamp, add):
        assert save_activations(model, "head", TEXTS, store) != first


def test_the_same_change_finds_its_run_again() -> None:
    """In another process, too, where the hook has another id that nobody chose."""
    store, found = MemoryStore(), set()
    said = {"blocks.0": "AddVector at blocks.0", "blocks.1": "AddVector at blocks.1"}
    for _ in range(2):
        model = WordModel(width=WIDTH)
        with model.steer(lambda name, _: name in said, AddVector("blocks.0", ONES)):
            found.add(save_activations(model, "blocks.0", TEXTS, store))
            found.add(save_activations(model, "blocks.0", TEXTS, store))
    (run_id,) = found
    assert store.run(run_id).metadata["spec"]["changes"] == [*said.values()]


def test_what_a_function_does_is_not_told() -> None:
    """So its hook counts by its id, too: two functions of one name are two."""
    model, store = WordModel(width=WIDTH), MemoryStore()
    hooks = [FunctionController("blocks.0", torch.relu) for _ in range(2)]
    hooks += [FunctionController("blocks.0", each, hook_id="f") for each in (torch.relu, torch.abs)]
    found = []
    for hook in hooks:
        with model.steer("blocks.0", hook):
            found.append(save_activations(model, "head", TEXTS, store))
    assert len({*found}) == 4


class _Says(Controller):
    """A controller of no plugin, which says what it does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.now = factor

    def describe_change(self) -> dict[str, float]:
        return {"factor": self.now}

    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output * self.now


def test_a_hook_may_say_what_it_does() -> None:
    """By `describe_change`; then its parameters and an id that nobody chose count for nothing."""
    model, store = WordModel(), MemoryStore()
    found = []
    for factor in (2.0, 2.0, 3.0):
        with model.steer("blocks.0", _Says(factor)):
            found.append(save_activations(model, "head", TEXTS, store))
    assert found[0] == found[1] != found[2]


def test_steered_runs_of_earlier_versions_go_on() -> None:
    """They noted no settings; the probe tells, of the rows that statistics alone keep too."""
    cases: list[dict[str, Any]] = [{}, {"reduce": ("mean",), "keep_rows": False}]
    for options in cases:
        model, store = WordModel(width=WIDTH), MemoryStore()
        with PLAIN(model):
            capture = prepare_capture(model, "head", TEXTS, options=CaptureOptions(**options))
        noted = attrs.evolve(capture.spec, changes_fingerprint=None)
        plan = attrs.evolve(capture.plan, spec=noted.values())
        store.write_run(noted.run_id(), plan)
        for _ in range(2):
            with PLAIN(model):
                assert save_activations(model, "head", TEXTS, store, **options) == noted.run_id()
        with OTHERS["a vector"](model), pytest.raises(OtherRun):
            save_activations(model, "head", TEXTS, store, run_name=noted.run_id(), **options)


def test_what_an_sae_does_is_part_of_it() -> None:
    """Its weights, its mode and what is done to its latents, standing or in a block."""
    model, store = WordModel(width=WIDTH), MemoryStore()
    torch.manual_seed(0)
    sae = TopKSae(16, WIDTH, 4, hook_id="sae")

    def saved() -> str:
        with model.hooks(("blocks.0", sae)):
            return save_activations(model, "head", TEXTS, store, reduce=("mean",), keep_rows=False)

    found = [saved()]
    sae.concepts.manipulate_concept(3, scale=0)
    found.append(saved())
    with sae.concepts.manipulated({5: 2.0}):
        found.append(saved())
    sae.mode = "reconstruct"
    found.append(saved())
    with torch.no_grad():
        sae.b_dec[0] += 1
    found.append(saved())
    assert len({*found}) == len(found)
    assert saved() == found[-1]


def test_what_taps_do_is_part_of_it() -> None:
    """The vector that one adds, and the factor."""
    model, store = WordModel(width=WIDTH), MemoryStore()
    found = []
    with model.taps("blocks.0") as taps:
        for at in range(3):
            taps["blocks.0"].add(ONES, 0.0 + at % 2)
            found.append(save_activations(model, "head", TEXTS, store))
    assert found[0] == found[2] != found[1]
