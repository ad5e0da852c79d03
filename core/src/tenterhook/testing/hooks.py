"""What every detector and every controller does: contracts to inherit.

class TestMyDetector(DetectorContract):
    def make(self):
        return MyDetector()

`make` returns a fresh hook each time, for a layer whose activation is `(batch, seq, WIDTH)`;
`(2, 3, WIDTH)` where it is made for one shape.
"""

import copy
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenterhook import assert_clean, attach
from tenterhook.activations import activation_of
from tenterhook.hooks import Controller, Detector, Hook, HookType
from tenterhook.testing._modules import (
    WIDTH,
    WRAPPINGS,
    Outer,
    a_model,
    returned_by_inner,
    some_ids,
)

__all__ = ["WIDTH", "ControllerContract", "DetectorContract"]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

each_structure = pytest.mark.parametrize("structure", WRAPPINGS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class _HookContract:
    """What hooks of both kinds do."""

    layer: str = "inner"
    """Where the hook stands: `"inner"`, or `"input"` or `"output"` for hooks of whole models."""

    @abstractmethod
    def make(self) -> Hook:
        """Return a fresh hook."""

    def place(self, hook: Hook) -> str:
        """Return the layer a hook is registered on."""
        if self.layer in ("input", "output"):
            return "input" if hook.hook_type is HookType.PRE_FORWARD else "output"
        return self.layer

    def test_each_is_its_own(self) -> None:
        """Two hooks share neither id nor state, and are enabled."""
        one, other = self.make(), self.make()
        assert one is not other
        assert one.id != other.id
        assert one.enabled
        assert other.enabled

    def test_it_is_registered_and_taken_off(self) -> None:
        """Nothing of it is left on the model."""
        hooked, hook = attach(a_model()), self.make()
        hooked.layers.register_hook(self.place(hook), hook)
        hooked(some_ids())
        assert hooked.layers.unregister_hook(hook)
        assert_clean(hooked)
        hooked.layers.register_hook(self.place(hook), hook)
        hooked(some_ids())

    def test_disabled_it_does_nothing(self) -> None:
        """The model's numbers are those without it."""
        module, hook = a_model(), self.make()
        expected = module(some_ids())
        hook.disable()
        with attach(module).hooks((self.place(hook), hook)):
            assert same_bits(module(some_ids()), expected)

    def test_the_model_may_fail(self) -> None:
        """Its own error surfaces, the hook is usable after it, and nothing is left."""
        module, hook = a_model(), self.make()
        hooked = attach(module)
        hooked.layers.register_hook(self.place(hook), hook)
        module.fails = True
        with pytest.raises(RuntimeError, match="the model failed"):
            hooked(some_ids())
        module.fails = False
        hooked(some_ids())
        assert hook.enabled
        hooked.layers.unregister_hook(hook)
        assert_clean(hooked)

    def test_it_copies(self) -> None:
        """A copy is registered nowhere and works like the hook."""
        module, hook = a_model(), self.make()
        hooked = attach(module)
        hooked.layers.register_hook(self.place(hook), hook)
        again = copy.deepcopy(hook)
        hooked.layers.unregister_hook(hook)
        assert again.context is None
        with hooked.hooks((self.place(again), again)):
            hooked(some_ids())

    def test_it_round_trips_its_spec(self) -> None:
        """What it was made with is read from it, written as text, and makes an equal hook.

        A hook of a function that has no import path may say that it cannot be described. Specs
        are a plugin; where `tenterhook-specs` is not installed, this is skipped.
        """
        testing = pytest.importorskip("tenterhook.testing.specs")
        hook = self.make()
        hook.layer_signature = self.place(hook)
        testing.check_round_trip(hook)


class DetectorContract(_HookContract):
    """A detector observes: whatever it keeps, the model computes what it would have computed."""

    @abstractmethod
    def make(self) -> Detector:
        """Return a fresh detector."""

    def test_it_is_a_detector(self) -> None:
        """Which has metadata of its own."""
        hook = self.make()
        assert isinstance(hook, Detector)
        assert isinstance(hook.metadata, dict)
        assert isinstance(hook.tensor_metadata, dict)

    @each_structure
    @each_dtype
    def test_it_changes_nothing(self, structure: str, dtype: torch.dtype) -> None:
        """Outputs and gradients are bit for bit what they are without it, structures whole."""
        expected = outcome(a_model(structure, dtype), None, "")
        hook = detecting_only(self.make())
        found = outcome(a_model(structure, dtype), hook, self.place(hook))
        for one, other in zip(found, expected, strict=True):
            assert same_bits(one, other)

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1)], ids=str)
    def test_small_batches(self, shape: tuple[int, int]) -> None:
        """Also such as hold nothing."""
        hook = self.make()
        with attach(module := a_model()).hooks((self.place(hook), hook)):
            assert module(some_ids(*shape)).shape == (*shape, WIDTH)

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
    )
    def test_without_gradients(self, mode: Callable[[], Any]) -> None:
        """It sees the same where nothing is recorded for autograd."""
        expected = self.seen(some_ids())
        hook = self.make()
        with mode(), attach(module := a_model()).hooks((self.place(hook), hook)):
            module(some_ids())
        assert_same_tensors(hook.tensor_metadata, expected)

    def test_what_it_keeps_is_its_own(self) -> None:
        """What later happens to the model's tensors, in place even, changes none of it."""
        module, hook, ids = a_model(), self.make(), some_ids()
        hooked = attach(module)
        hooked.layers.register_hook(self.place(hook), hook)
        with torch.no_grad(), returned_by_inner(module) as returned:
            result = hooked(ids)
            hooked.layers.unregister_hook(hook)
            kept = {name: tensor.clone() for name, tensor in items_of(hook)}
            for tensor in (result, ids, activation_of(returned[0]), *module.parameters()):
                if tensor is not None:
                    tensor.zero_()
        for name, tensor in items_of(hook):
            assert same_bits(tensor, kept[name]), f"tensor_metadata[{name!r}] is the model's memory"

    def test_what_it_keeps_holds_no_graph(self) -> None:
        """A tensor that needs gradients keeps the whole forward alive."""
        for name, tensor in self.seen(some_ids()).items():
            assert not tensor.requires_grad, f"detach tensor_metadata[{name!r}]"

    def test_threads_that_share_a_model(self) -> None:
        """Each with a detector of its own in a scope sees what it alone would have seen."""
        module, results = a_model(), dict[int, dict[str, Tensor]]()
        hooked, count = attach(module), 4
        expected = [self.seen(some_ids(seed=at), calls=5) for at in range(count)]
        start = threading.Barrier(count)

        def run(at: int) -> None:
            hook = self.make()
            with hooked.hooks((self.place(hook), hook)):
                start.wait(timeout=30)
                for _ in range(5):
                    hooked(some_ids(seed=at))
            results[at] = dict(items_of(hook))

        threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(count))
        for at in range(count):
            found = results[at]
            assert sorted(found) == sorted(expected[at])
            for name, tensor in expected[at].items():
                assert alike(found[name], tensor), name

    def seen(self, ids: Tensor, calls: int = 1) -> dict[str, Tensor]:
        """Return the tensors that a fresh detector keeps of so many calls."""
        hook = self.make()
        with attach(module := a_model()).hooks((self.place(hook), hook)):
            for _ in range(calls):
                module(ids)
        return dict(items_of(hook))


class ControllerContract(_HookContract):
    """A controller returns what takes the activation's place, and writes to nobody's tensors."""

    shape_stays: bool = True
    """Whether it returns the activation's shape and dtype, as nearly all do."""

    @abstractmethod
    def make(self) -> Controller:
        """Return a fresh controller."""

    def make_for(self, batch: int, seq: int) -> Controller:
        """Return a fresh one for activations of that shape, where one does not take them all."""
        return self.make()

    def test_it_is_a_controller(self) -> None:
        """By class."""
        assert isinstance(self.make(), Controller)

    @each_dtype
    def test_it_is_functional(self, dtype: torch.dtype) -> None:
        """The tensors it is given are written to by nobody; in inference mode too."""
        hook = self.make()
        if hook.hook_type is HookType.BACKWARD:
            pytest.skip("it sees gradients")
        for mode in (torch.enable_grad, torch.inference_mode):
            with mode():
                x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
                before, version = x.clone(), None if x.is_inference() else x._version
                given = (x, None) if hook.hook_type is HookType.PRE_FORWARD else (x, x)
                new = hook.modify_activations(nn.Identity(), *given)
                assert same_bits(x, before)
                assert version is None or x._version == version
                if self.shape_stays and isinstance(new, Tensor):
                    assert (new.shape, new.dtype) == (x.shape, x.dtype)

    @each_structure
    def test_structures_stay(self, structure: str) -> None:
        """Type, order and the other fields of an output are what they were."""
        plain, module, hook = a_model(structure), a_model(structure), self.make()
        with returned_by_inner(plain) as expected:
            plain(some_ids())
        with returned_by_inner(module) as found, attach(module).hooks((self.place(hook), hook)):
            module(some_ids())
        assert type(found[0]) is type(expected[0])
        assert list(map(repr, others(found[0]))) == list(map(repr, others(expected[0])))

    def test_a_forward_twice_is_the_same(self) -> None:
        """Nothing is left of one call that changes the next, weights above all."""
        module, hook = a_model(), self.make()
        weights = copy.deepcopy(module.state_dict())
        with attach(module).hooks((self.place(hook), hook)):
            first, second = module(some_ids()), module(some_ids())
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
        for name, weight in module.state_dict().items():
            assert same_bits(weight, weights[name])

    def test_autograd_sees_it(self) -> None:
        """Gradients are those of what ran: as measured by moving a weight of a later layer."""
        module, hook = a_model(dtype=torch.float64), self.make()
        with attach(module).hooks((self.place(hook), hook)):
            loss = module(some_ids()).pow(2).sum()
            loss.backward()
            weight, step = module.after.weight, 1e-6
            assert weight.grad is not None
            found = weight.grad[0, 0].item()
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[0, 0] += sign * step
                    sides.append(module(some_ids()).pow(2).sum().item())
                    weight[0, 0] -= sign * step
        expected = (sides[0] - sides[1]) / (2 * step)
        if hook.hook_type is not HookType.BACKWARD:
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)

    @pytest.mark.parametrize("shape", [(0, 3), (1, 1)], ids=str)
    def test_small_batches(self, shape: tuple[int, int]) -> None:
        """Also such as hold nothing."""
        hook = self.make_for(*shape)
        with attach(module := a_model()).hooks((self.place(hook), hook)):
            assert len(module(some_ids(*shape))) == shape[0]

    def test_threads_that_share_a_model(self) -> None:
        """One thread's scope changes nothing of another's forward."""
        module, hook = a_model(), self.make()
        hooked = attach(module)
        expected = module(some_ids())
        entered, done, seen = threading.Event(), threading.Event(), list[Tensor]()

        def other() -> None:
            entered.wait(timeout=30)
            seen.append(module(some_ids()))
            done.set()

        thread = threading.Thread(target=other)
        thread.start()
        with hooked.hooks((self.place(hook), hook)):
            hooked(some_ids())
            entered.set()
            done.wait(timeout=30)
        thread.join()
        assert alike(seen[0], expected)


def outcome(module: Outer, hook: Hook | None, layer: str) -> list[Tensor]:
    """Return a forward's result, what the inner layer returned, and all gradients."""
    hooked = attach(module)
    if hook is not None:
        hooked.layers.register_hook(layer, hook)
    with returned_by_inner(module) as returned:
        result = hooked(some_ids())
    result.float().pow(2).sum().backward()
    inner = activation_of(returned[0])
    assert inner is not None
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    return [result, inner, *gradients]


def detecting_only(hook: Detector) -> Detector:
    """Return a hook that also controls, as one that detects alone."""
    if isinstance(hook, Controller):
        hook.modify_activations = lambda *_: None  # type: ignore[method-assign]
    return hook


def items_of(hook: Detector) -> list[tuple[str, Tensor]]:
    """Return the tensors that a detector keeps, by name."""
    return [(name, hook.tensor_metadata[name]) for name in sorted(hook.tensor_metadata)]


def others(returned: Any) -> list[Any]:
    """Return the parts of an output that are no activation."""
    if isinstance(returned, Tensor):
        return []
    if isinstance(returned, dict):
        return list(returned) + [v for v in returned.values() if isinstance(v, str)]
    if isinstance(returned, tuple | list):
        return [len(returned), *(item for item in returned if not isinstance(item, Tensor))]
    return [returned.note, returned.other]


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare tensors by name, to the bit."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert same_bits(found[name], tensor), name


def alike(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors are the same but for the last bits.

    Threads may share the work of a sum in another way than one alone does.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-3, equal_nan=True)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors have one shape and dtype, and the same bits, NaNs included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    with torch.inference_mode(False):
        flat = [each.detach().clone().reshape(-1).view(torch.uint8) for each in (one, other)]
    return torch.equal(*flat)
