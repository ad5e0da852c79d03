"""What a hook is before it is registered, and what works with no tenterhook model around it."""

import copy
import pickle
import uuid
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook.hooks
from tenterhook.hooks import Controller, Detector, Hook, HookError, HookType


class Sees(Detector):
    """Remembers what it was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[tuple[Any, Any]] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Remember the call."""
        self.calls.append((input, output))


class Doubles(Controller):
    """Returns twice what it was given."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Double what passes."""
        tensor = inputs if output is None else output
        return None if tensor is None else tensor * 2


class DetectorFirst(Sees, Doubles):
    """Both, the detector first among its bases."""


class ControllerFirst(Doubles, Sees):
    """Both, the controller first among its bases."""


class Fails(Detector):
    """Raises."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Fail."""
        raise KeyError("gone")


class Adds(nn.Module):
    """Adds a keyword input to a positional one."""

    def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Add."""
        return x + shift


ALL = [Sees, Doubles, DetectorFirst, ControllerFirst]
TYPES = [("forward", "FORWARD"), ("pre_forward", "PRE_FORWARD"), ("backward", "BACKWARD")]


class TestHookType:
    @pytest.mark.parametrize(("value", "member"), TYPES)
    def test_is_a_string(self, value: str, member: str) -> None:
        """Each member is a `str`, equal to and printed as its value."""
        kind = HookType(value)

        assert kind is HookType[member]
        assert isinstance(kind, str)
        assert (kind, str(kind), f"{kind}", kind.value) == (value,) * 4

    def test_there_are_three(self) -> None:
        """No other types exist."""
        assert [kind.value for kind in HookType] == ["forward", "pre_forward", "backward"]

    @pytest.mark.parametrize("value", ["FORWARD", "sideways", "", None, 3], ids=repr)
    def test_others_are_refused(self, value: Any) -> None:
        """What is no hook type is a `ValueError` that shows it and lists the valid ones."""
        with pytest.raises(ValueError, match=r"'forward', 'pre_forward', 'backward'") as caught:
            HookType(value)
        assert repr(value) in str(caught.value)

    def test_pickles(self) -> None:
        """A pickled member is the same object again."""
        assert pickle.loads(pickle.dumps(HookType.BACKWARD)) is HookType.BACKWARD


class TestHook:
    def test_is_abstract(self) -> None:
        """Nobody makes a plain `Hook`."""
        with pytest.raises(TypeError, match="Hook is abstract"):
            Hook()

    @pytest.mark.parametrize(
        ("kind", "method"),
        [(Detector, "process_activations"), (Controller, "modify_activations")],
        ids=["detector", "controller"],
    )
    def test_kinds_are_abstract(self, kind: Any, method: str) -> None:
        """A detector and a controller need their method."""
        with pytest.raises(TypeError, match=method):
            kind()

    @pytest.mark.parametrize("kind", ALL)
    def test_defaults(self, kind: Any) -> None:
        """Without arguments a hook is a forward hook, enabled, of no layer and no context."""
        hook = kind()

        assert hook.hook_type is HookType.FORWARD
        assert hook.enabled is True
        assert hook.is_enabled() is True
        assert hook.layer_signature is None
        assert hook.context is None

    def test_ids_are_fresh(self) -> None:
        """An id that is not given is a UUID4 string of the hook's own."""
        ids = {Sees().id for _ in range(50)}

        assert len(ids) == 50
        assert all(str(uuid.UUID(id)) == id and uuid.UUID(id).version == 4 for id in ids)

    def test_given_id_is_kept(self) -> None:
        """The id is the one that was given."""
        assert Sees(hook_id="mine").id == "mine"

    @pytest.mark.parametrize("kind", ALL)
    @pytest.mark.parametrize("given", ["pre_forward", HookType.PRE_FORWARD], ids=["text", "enum"])
    def test_all_arguments_by_keyword(self, kind: Any, given: Any) -> None:
        """Type, id and layer are kept, and the type is always the enum."""
        hook = kind(hook_type=given, hook_id="x", layer_signature="a.b")

        assert hook.hook_type is HookType.PRE_FORWARD
        assert (hook.id, hook.layer_signature) == ("x", "a.b")

    @pytest.mark.parametrize("kind", ALL)
    def test_wrong_type_is_refused(self, kind: Any) -> None:
        """A hook of no known type is not made."""
        with pytest.raises(ValueError, match="'backwards' is not a hook type"):
            kind(hook_type="backwards")

    def test_positions_of_a_detectors_arguments(self) -> None:
        """A detector takes type, id, store and layer, in this order."""
        store = object()
        hook = Sees(HookType.BACKWARD, "x", store, "a")

        assert (hook.hook_type, hook.id, hook.layer_signature) == ("backward", "x", "a")
        assert hook.store is store

    def test_positions_of_a_controllers_arguments(self) -> None:
        """A controller takes type, id and layer, in this order."""
        hook = Doubles("backward", "x", "a")

        assert (hook.hook_type, hook.id, hook.layer_signature) == ("backward", "x", "a")

    @pytest.mark.parametrize("kind", [Sees, DetectorFirst, ControllerFirst])
    def test_a_detectors_own(self, kind: Any) -> None:
        """A detector has two empty dictionaries of its own and no store."""
        one, other = kind(), kind()

        assert (one.metadata, one.tensor_metadata, one.store) == ({}, {}, None)
        assert one.metadata is not other.metadata
        assert one.tensor_metadata is not other.tensor_metadata

    def test_bases_set_up_one_by_one(self) -> None:
        """A class that is both may call the `__init__` of each of its bases."""

        class Sae(Controller, Detector):
            def __init__(self, hook_id: str) -> None:
                Controller.__init__(self, HookType.FORWARD, hook_id)
                Detector.__init__(self, HookType.FORWARD, hook_id, layer_signature="a")

            process_activations = Sees.process_activations
            modify_activations = Doubles.modify_activations

        hook = Sae("sae")

        assert (hook.id, hook.layer_signature, hook.metadata) == ("sae", "a", {})

    def test_switching_without_a_model(self) -> None:
        """A hook is switched on and off, as often as one likes, before it is registered."""
        hook = Sees()
        for act, expected in [
            (hook.disable, False),
            (hook.disable, False),
            (hook.enable, True),
            (hook.enable, True),
        ]:
            act()
            assert hook.enabled is hook.is_enabled() is expected

    def test_context_can_be_set(self) -> None:
        """`set_context` sets the context, and takes it away."""
        hook, context = Sees(), tenterhook.HookContext(nn.Linear(1, 1))

        hook.set_context(context)
        assert hook.context is context
        hook.set_context(None)
        assert hook.context is None

    def test_repr(self) -> None:
        """A hook shows its class, id, layer, type, and that it is off."""
        hook = Sees(hook_id="x", layer_signature="a")
        hook.disable()

        assert repr(hook) == "Sees(id='x', layer='a', forward, disabled)"

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
    def test_copy_of_a_registered_hook(self, again: Any) -> None:
        """A copy keeps what the hook is and stands nowhere; the model is not copied with it."""
        model = tenterhook.attach(nn.Sequential(nn.Linear(1, 1)))
        hook = Sees(hook_id="x")
        model.layers.register_hook(0, hook)

        twin = again(hook)

        assert (twin.id, twin.hook_type, twin.layer_signature) == ("x", "forward", "0")
        assert twin.context is None
        twin.disable()
        assert hook.enabled
        other = tenterhook.attach(nn.Sequential(nn.Linear(1, 1)))
        other.layers.register_hook(0, twin)
        assert twin.id in other.layers

    def test_pickle_of_a_registered_hook(self) -> None:
        """A hook is pickled without the model that it stands on."""
        model = tenterhook.attach(nn.Sequential(nn.Linear(1, 1)))
        hook = Sees(hook_id="x")
        model.layers.register_hook(0, hook)

        twin = pickle.loads(pickle.dumps(hook))

        assert (twin.id, twin.context) == ("x", None)


class TestImports:
    def test_public_names(self) -> None:
        """The contract's names are there."""
        for name in ["Hook", "Detector", "Controller", "HookType", "HookError"]:
            assert name in tenterhook.hooks.__all__
            assert hasattr(tenterhook.hooks, name)

    def test_unknown_name(self) -> None:
        """A name that nobody offers is an `ImportError` for `from ... import`."""
        with pytest.raises(ImportError, match="Nothing"):
            from tenterhook.hooks import Nothing  # noqa: F401


WAYS = [
    pytest.param(False, id="plain"),
    pytest.param(True, id="with_kwargs"),
]


def put(module: nn.Module, hook: Hook, with_kwargs: bool) -> None:
    """Register a hook's torch hook as torch's users do."""
    if hook.hook_type is HookType.PRE_FORWARD:
        module.register_forward_pre_hook(hook.get_torch_hook(), with_kwargs=with_kwargs)
    else:
        module.register_forward_hook(hook.get_torch_hook(), with_kwargs=with_kwargs)


@pytest.mark.parametrize("with_kwargs", WAYS)
class TestTorchHook:
    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_detector(self, kind: str, with_kwargs: bool) -> None:
        """A detector sees the input and, after the module, its output, and changes nothing."""
        module, hook, x = Adds(), Sees(kind), torch.ones(2)
        put(module, hook, with_kwargs)

        out = module(x)

        assert torch.equal(out, torch.ones(2))
        ((inputs, output),) = hook.calls
        assert inputs[0] is x
        assert output is (out if kind == "forward" else None)

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_controller(self, kind: str, with_kwargs: bool) -> None:
        """A controller changes the output, or the first input."""
        module = Adds()
        put(module, Doubles(kind), with_kwargs)

        out = module(torch.ones(2), 1.0)

        assert out.tolist() == ([4, 4] if kind == "forward" else [3, 3])

    @pytest.mark.parametrize("kind", [DetectorFirst, ControllerFirst])
    def test_both(self, kind: Any, with_kwargs: bool) -> None:
        """A hook that is both sees what the module made, and changes it."""
        module, hook = Adds(), kind()
        put(module, hook, with_kwargs)

        out = module(torch.ones(2))

        assert out.tolist() == [2, 2]
        assert hook.calls[0][1].tolist() == [1, 1]

    def test_gradient(self, with_kwargs: bool) -> None:
        """A backward controller, registered as a forward hook, changes the gradient."""
        module, x = Adds(), torch.ones(2, requires_grad=True)
        put(module, Doubles("backward"), with_kwargs)

        module(x).sum().backward()

        assert x.grad is not None
        assert x.grad.tolist() == [2, 2]

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_honours_enabled(self, kind: str, with_kwargs: bool) -> None:
        """A disabled hook does nothing, an enabled one does again."""
        module, hook = Adds(), Doubles(kind)
        put(module, hook, with_kwargs)

        hook.disable()
        assert module(torch.ones(1)).tolist() == [1]
        hook.enable()
        assert module(torch.ones(1)).tolist() == [2]

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_wraps_errors(self, kind: str, with_kwargs: bool) -> None:
        """What the hook raises surfaces as `HookError`, from the original."""
        module, hook = Adds(), Fails(kind, "bad", layer_signature="here")
        put(module, hook, with_kwargs)

        with pytest.raises(
            HookError, match=r"^Layer 'here': Fails 'bad' .*KeyError: 'gone'$"
        ) as caught:
            module(torch.ones(1))
        assert caught.value.hook_type is HookType(kind)
        assert isinstance(caught.value.__cause__, KeyError)


def test_torch_hook_sees_keywords() -> None:
    """With `with_kwargs=True` keyword inputs are seen, and replaced, in the order of `forward`."""
    module, sees, x = Adds(), Sees("pre_forward"), torch.ones(2)
    put(module, sees, True)
    put(module, Doubles("pre_forward"), True)

    out = module(shift=5.0, x=x)

    assert out.tolist() == [7, 7]
    inputs = sees.calls[0][0]
    assert inputs[0] is x
    assert inputs[1] == 5.0


def test_torch_hook_on_several_modules() -> None:
    """One callable serves any number of modules."""
    hook = Sees()
    one, other = nn.Linear(2, 2), nn.ReLU()
    put(one, hook, False)
    put(other, hook, False)

    other(one(torch.ones(1, 2)))

    assert len(hook.calls) == 2
