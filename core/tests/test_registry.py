"""What `model.layers` keeps: who stands where, in which order, and what a refusal leaves."""

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.errors import LayerConflict
from tenterhook.hooks import Controller, Detector, Hook, HookType


class _Logs(Detector):
    """Writes its id to a log when it runs."""

    def __init__(self, log: list[str] | None = None, hook_id: str | None = None, **more: Any):
        super().__init__(hook_id=hook_id, **more)
        self.log = [] if log is None else log

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.log.append(self.id)


class _Changes(Controller):
    """Adds a number, and writes its id to a log when it runs."""

    def __init__(self, log: list[str] | None = None, hook_id: str | None = None, **more: Any):
        super().__init__(hook_id=hook_id, **more)
        self.log = [] if log is None else log

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        self.log.append(self.id)
        tensor = inputs if output is None else output
        return None if tensor is None else tensor + 1


class _IsBoth(_Logs, Controller):
    """Logs, and leaves the activation alone."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None


class _Neither(Hook):
    """A hook of no kind."""


KINDS = {"detector": _Logs, "controller": _Changes, "both": _IsBoth}


@pytest.fixture
def model() -> HookedModel:
    """Two linear layers and a ReLU."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))


def part(model: HookedModel) -> nn.Module:
    """Return the first layer."""
    return model.module.get_submodule("0")


def state(model: HookedModel) -> Any:
    """Return everything that registering may change."""
    return (
        [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.module.modules()
        ],
        list(model.layers),
        repr(model.context._hook_registry),
        repr(model.context._hook_id_map),
        [(layer, [hook.id for hook in model.layers.get_hooks(layer)]) for layer in range(3)],
    )


class TestRegistering:
    def test_sets_the_hook_up(self, model: HookedModel) -> None:
        """Registering returns the id and tells the hook its layer and context."""
        hook = _Logs(hook_id="mine", layer_signature="elsewhere")

        assert model.layers.register_hook("layer_2", hook) == "mine"
        assert hook.layer_signature == "2"
        assert hook.context is model.context

    def test_unregistering_clears_it(self, model: HookedModel) -> None:
        """A hook that was taken off has no context, and may be registered again."""
        hook = _Logs()
        model.layers.register_hook(0, hook)

        assert model.layers.unregister_hook(hook) is True
        assert hook.context is None
        assert model.layers.unregister_hook(hook) is False
        model.layers.register_hook(1, hook)
        assert hook.layer_signature == "1"

    @pytest.mark.parametrize("by", ["id", "instance", "handle"])
    def test_ways_off(self, model: HookedModel, by: str) -> None:
        """A hook goes by id, by instance, or by the handle in the registry view."""
        hook = _Logs()
        model.layers.register_hook(0, hook)
        ((_, handle),) = model.context._hook_registry["0"][HookType.FORWARD]

        if by == "handle":
            handle.remove()
            handle.remove()
        else:
            assert model.layers.unregister_hook(hook.id if by == "id" else hook)
        assert hook.id not in model.layers
        assert len(part(model)._forward_hooks) == 0

    @pytest.mark.parametrize("given", ["nobody", _Logs(hook_id="a")], ids=["id", "same-id"])
    def test_not_there(self, model: HookedModel, given: Any) -> None:
        """Taking off what is not there is `False`, also a stranger with the id of another."""
        model.layers.register_hook(0, _Logs(hook_id="a"))

        assert model.layers.unregister_hook(given) is False
        assert len(model.layers) == 1

    @pytest.mark.parametrize("kind", ["pre_forward", HookType.PRE_FORWARD], ids=["text", "enum"])
    def test_another_type(self, model: HookedModel, kind: Any) -> None:
        """`hook_type` replaces the hook's own."""
        hook = _Logs()
        model.layers.register_hook(0, hook, kind)

        assert hook.hook_type is HookType.PRE_FORWARD
        assert model.layers.get_hooks(hook_type="pre_forward") == [hook]
        assert len(part(model)._forward_pre_hooks) == 1
        assert len(part(model)._forward_hooks) == 0

    def test_one_torch_hook(self, model: HookedModel) -> None:
        """However many hooks stand on one side of a module, torch has one."""
        hooks = [_Logs() for _ in range(3)]
        for hook in hooks:
            model.layers.register_hook(0, hook)

        assert len(part(model)._forward_hooks) == 1
        for hook in hooks:
            model.layers.unregister_hook(hook)
        assert len(part(model)._forward_hooks) == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("act", "error", "said"),
        [
            (
                lambda m: m.layers.register_hook(1, _Logs(hook_id="taken")),
                ValueError,
                r"Hook id 'taken' is taken by _Logs\(id='taken'",
            ),
            (
                lambda m: m.layers.register_hook(1, m.layers.get_hook("taken")),
                ValueError,
                r"registered already, on layer '0'",
            ),
            (
                lambda m: m.layers.register_hook(0, _Changes(hook_id="new")),
                LayerConflict,
                r"'0' already holds _Logs\(id='taken'.*_Changes\(id='new'.*mix='detect_first'",
            ),
            (lambda m: m.layers.register_hook("nope", _Logs()), ValueError, "No layer 'nope'"),
            (
                lambda m: m.layers.register_hook(1, _Logs(), "sideways"),
                ValueError,
                "'sideways' is not a hook type",
            ),
            (
                lambda m: m.layers.register_hook(1, _Logs(), mix="any"),
                ValueError,
                "mix='any' is not one of 'error', 'in_order', 'detect_first', 'detect_last'",
            ),
            (
                lambda m: m.layers.register_hook(1, _Logs(), priority="high"),
                TypeError,
                "priority='high' is not an int",
            ),
            (lambda m: m.layers.register_hook(1, print), TypeError, "is not a Hook"),
            (
                lambda m: m.layers.register_hook(1, _Neither()),
                TypeError,
                "neither a Detector nor a Controller",
            ),
            (
                lambda m: m.layers.register_hook("output", _Logs(), "pre_forward"),
                ValueError,
                "does not run at 'output'",
            ),
        ],
        ids=[
            "id-taken",
            "registered",
            "conflict",
            "layer",
            "type",
            "mix",
            "priority",
            "function",
            "no-kind",
            "side",
        ],
    )
    def test_change_nothing(self, model: HookedModel, act: Any, error: Any, said: str) -> None:
        """What is refused is refused by name, and leaves everything as it was."""
        model.layers.register_hook(0, _Logs(hook_id="taken"))
        before = state(model)

        with pytest.raises(error, match=said):
            act(model)

        assert state(model) == before

    def test_leave_the_hook_as_it_was(self, model: HookedModel) -> None:
        """A hook that was refused keeps its layer, type, context and state."""
        model.layers.register_hook(0, _Logs())
        hook = _Changes(layer_signature="mine")

        with pytest.raises(ValueError, match="already holds"):
            model.layers.register_hook(0, hook, "pre_forward")

        assert (hook.layer_signature, hook.hook_type, hook.context) == ("mine", "forward", None)
        model.layers.register_hook(1, hook)

    def test_hook_of_another_model(self, model: HookedModel) -> None:
        """A hook stands on one model at a time."""
        other, hook = tenterhook.attach(nn.Sequential(nn.Linear(1, 1))), _Logs()
        other.layers.register_hook(0, hook)

        with pytest.raises(ValueError, match="registered already"):
            model.layers.register_hook(0, hook)
        assert model.layers.unregister_hook(hook) is False
        assert hook.context is other.context

    def test_abstract_hook(self) -> None:
        """A hook of neither kind can be made and goes nowhere."""
        with pytest.raises(TypeError, match="neither a Detector nor a Controller"):
            _Neither().get_torch_hook()


class TestKinds:
    @pytest.mark.parametrize("first", KINDS)
    @pytest.mark.parametrize("second", KINDS)
    @pytest.mark.parametrize("kind", ["forward", "pre_forward", "backward"])
    def test_who_may_join(self, model: HookedModel, first: str, second: str, kind: str) -> None:
        """A layer holds detectors or controllers, whatever their types; one that is both fits."""
        model.layers.register_hook(0, KINDS[first]())
        hook = KINDS[second](hook_type=kind)

        if {first, second} == {"detector", "controller"}:
            with pytest.raises(LayerConflict, match="already holds"):
                model.layers.register_hook(0, hook)
        else:
            model.layers.register_hook(0, hook)
            assert len(model.layers.get_hooks(0)) == 2

    def test_standing_both_does_not_hide_the_others(self, model: HookedModel) -> None:
        """A controller may not join a detector because one that is both stands there as well."""
        model.layers.register_hook(0, _IsBoth())
        model.layers.register_hook(0, _Logs())

        with pytest.raises(LayerConflict, match="_Logs"):
            model.layers.register_hook(0, _Changes())

    def test_the_two_sides_of_the_model(self, model: HookedModel) -> None:
        """The whole model before and after its forward are two layers."""
        model.layers.register_hook("input", _Logs(), "pre_forward")
        model.layers.register_hook("output", _Changes())

        assert [hook.layer_signature for hook in model.layers] == ["input", "output"]
        assert len(model.layers.get_hooks("")) == 2

    def test_after_the_last_has_gone(self, model: HookedModel) -> None:
        """An empty layer takes either kind again, and what was allowed there is forgotten."""
        ids = [
            model.layers.register_hook(0, _Logs()),
            model.layers.register_hook(0, _Changes(), mix="in_order"),
        ]
        for id in ids:
            model.layers.unregister_hook(id)

        model.layers.register_hook(0, _Changes())
        with pytest.raises(LayerConflict, match="already holds"):
            model.layers.register_hook(0, _Logs())

    def test_groups(self, model: HookedModel) -> None:
        """A hook that is both is among the detectors and among the controllers."""
        logs, changes, both = _Logs(), _Changes(), _IsBoth()
        for at, hook in enumerate((logs, changes, both)):
            model.layers.register_hook(at, hook)

        assert model.layers.get_detectors() == [logs, both]
        assert model.layers.get_controllers() == [changes, both]


class TestOrder:
    def run(self, model: HookedModel) -> list[str]:
        """Run the model, return who ran, in order; check that `get_hooks` says the same."""
        log: list[str] = []
        for hook in model.layers:
            hook.log = log  # type: ignore[attr-defined]
        model(torch.ones(1, 2))
        assert log == [hook.id for hook in model.layers.get_hooks(0)]
        return log

    def test_of_registration(self, model: HookedModel) -> None:
        """Hooks of one kind run in the order they came."""
        for id in "abc":
            model.layers.register_hook(0, _Logs(hook_id=id))
        assert self.run(model) == ["a", "b", "c"]

    def test_prepend(self, model: HookedModel) -> None:
        """`prepend` goes before those that are there."""
        for id in "abc":
            model.layers.register_hook(0, _Logs(hook_id=id), prepend=id != "a")
        assert self.run(model) == ["c", "b", "a"]

    def test_priority(self, model: HookedModel) -> None:
        """A higher priority runs first; `prepend` counts among equals."""
        for id, priority, prepend in [
            ("a", 0, False),
            ("b", 5, False),
            ("c", -1, True),
            ("d", 5, True),
            ("e", 0, True),
        ]:
            hook = _Logs(hook_id=id)
            model.layers.register_hook(0, hook, priority=priority, prepend=prepend)
        assert self.run(model) == ["d", "b", "e", "a", "c"]

    @pytest.mark.parametrize(
        ("mix", "expected"),
        [
            ("in_order", ["c1", "d1", "c2", "d2"]),
            ("detect_first", ["d1", "d2", "c1", "c2"]),
            ("detect_last", ["c1", "c2", "d1", "d2"]),
        ],
    )
    def test_mix(self, model: HookedModel, mix: Any, expected: list[str]) -> None:
        """Detectors and controllers share a layer in the order that was named, from then on."""
        model.layers.register_hook(0, _Changes(hook_id="c1"))
        model.layers.register_hook(0, _Logs(hook_id="d1"), mix=mix)
        model.layers.register_hook(0, _Changes(hook_id="c2"))
        model.layers.register_hook(0, _Logs(hook_id="d2"))
        assert self.run(model) == expected

    def test_survives_switching(self, model: HookedModel) -> None:
        """A hook that was off keeps its place."""
        for id in "abc":
            model.layers.register_hook(0, _Logs(hook_id=id))
        model.layers.disable_hook("b")
        assert model.layers.get_hooks(0)[1].id == "b"
        model.layers.enable_hook("b")
        assert self.run(model) == ["a", "b", "c"]


class TestSwitching:
    def test_by_id(self, model: HookedModel) -> None:
        """A hook is switched by id; an unknown id is `False`."""
        hook = _Logs()
        id = model.layers.register_hook(0, hook)

        assert model.layers.disable_hook(id) is True
        assert hook.is_enabled() is False
        assert model.layers.enable_hook(id) is True
        assert hook.is_enabled() is True
        assert model.layers.disable_hook("nobody") is False
        assert model.layers.enable_hook("nobody") is False

    def test_all(self, model: HookedModel) -> None:
        """All hooks go off and on together; those off run nowhere and cost no torch hook."""
        log: list[str] = []
        for at in range(3):
            model.layers.register_hook(at, _Logs(log))

        model.layers.disable_all_hooks()
        model(torch.ones(1, 2))
        assert log == []
        assert all(len(m._forward_hooks) == 0 for m in model.module.children())
        model.layers.enable_all_hooks()
        model(torch.ones(1, 2))
        assert len(log) == 3

    def test_registered_while_off(self, model: HookedModel) -> None:
        """A hook that is off when it is registered stands there and does not run."""
        hook = _Logs()
        hook.disable()
        model.layers.register_hook(0, hook)

        model(torch.ones(1, 2))
        assert hook.log == []
        assert hook.id in model.layers
        assert len(part(model)._forward_hooks) == 0
        hook.enable()
        model(torch.ones(1, 2))
        assert hook.log == [hook.id]

    def test_permanent(self, model: HookedModel) -> None:
        """A permanent hook survives `clear` unless it is asked for."""
        stays, goes = _Logs(hook_id="stays"), _Logs(hook_id="goes")
        model.layers.register_hook(0, stays, permanent=True)
        model.layers.register_hook(0, goes)

        assert model.layers.clear() == 1
        assert list(model.layers) == [stays]
        assert model.layers.clear(including_permanent=True) == 1
        assert len(model.layers) == 0
        assert model.layers.unregister_hook("stays") is False


class TestForeignHooks:
    """Other people's torch hooks are neither moved nor removed."""

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_keep_their_places(self, model: HookedModel, kind: str) -> None:
        """Order is that of registration, also after our hook was off and on again."""
        log: list[str] = []
        module = part(model)
        put: Any = module.register_forward_hook
        if kind == "pre_forward":
            put = module.register_forward_pre_hook
        put(lambda *_: log.append("before"))
        hook = _Logs(log, "ours", hook_type=kind)
        model.layers.register_hook(0, hook)
        put(lambda *_: log.append("after"))

        for _ in range(2):
            model(torch.ones(1, 2))
            assert log == ["before", "ours", "after"]
            log.clear()
            hook.disable()
            model(torch.ones(1, 2))
            assert log == ["before", "after"]
            hook.enable()
            log.clear()
        with model.capture(0, inputs=kind == "pre_forward"):
            model(torch.ones(1, 2))
        assert log == ["before", "ours", "after"]
        log.clear()
        model.layers.unregister_hook(hook)
        model(torch.ones(1, 2))
        assert log == ["before", "after"]

    def test_survive_everything_of_ours(self, model: HookedModel) -> None:
        """Registering, clearing and scopes leave the keys of foreign hooks in place."""
        handles = [m.register_forward_hook(lambda *_: None) for m in model.module.children()]
        keys = [list(m._forward_hooks) for m in model.module.children()]

        for at in range(3):
            model.layers.register_hook(at, _Logs(), permanent=True)
        with pytest.raises(RuntimeError, match="shapes"), model.capture("*"):
            model(torch.ones(1, 3))
        with (
            model.steer("*", torch.neg, missing="ignore"),
            pytest.raises(RuntimeError, match="shapes"),
        ):
            model(torch.ones(1, 3))
        model.layers.clear(including_permanent=True)

        assert [list(m._forward_hooks) for m in model.module.children()] == keys
        for handle in handles:
            handle.remove()
        assert all(len(m._forward_hooks) == 0 for m in model.module.children())


class TestViews:
    def test_shape(self, model: HookedModel) -> None:
        """The views say who stands where, in the shape that people inspect."""
        one, two, three = _Logs(), _Logs(), _Logs(hook_type="pre_forward")
        spelled: list[tuple[str | int, Hook]] = [("0", one), (0, two), ("layer_0", three)]
        for layer, hook in spelled:
            model.layers.register_hook(layer, hook)

        registry = model.context._hook_registry
        assert list(registry) == ["0"]
        assert set(registry["0"]) == {HookType.FORWARD, HookType.PRE_FORWARD}
        assert [hook for hook, _ in registry["0"]["forward"]] == [one, two]
        assert isinstance(registry["0"][HookType.FORWARD], list)
        assert all(callable(handle.remove) for _, handle in registry["0"][HookType.FORWARD])
        assert dict(model.context._hook_id_map) == {
            one.id: ("0", HookType.FORWARD, one),
            two.id: ("0", HookType.FORWARD, two),
            three.id: ("0", HookType.PRE_FORWARD, three),
        }

    def test_are_live(self, model: HookedModel) -> None:
        """A view taken once shows what comes and goes."""
        registry, ids = model.context._hook_registry, model.context._hook_id_map
        assert (len(registry), len(ids)) == (0, 0)

        id = model.layers.register_hook(0, _Logs())
        assert "0" in registry
        assert id in ids
        model.layers.unregister_hook(id)
        assert registry == {}
        assert ids == {}

    def test_cannot_be_written(self, model: HookedModel) -> None:
        """Nothing is registered or removed through a view."""
        id = model.layers.register_hook(0, _Logs())
        registry: Any = model.context._hook_registry
        ids: Any = model.context._hook_id_map

        for view in (registry, ids):
            with pytest.raises(TypeError, match="does not support item"):
                view["x"] = {}
            with pytest.raises(TypeError, match="does not support item"):
                del view["0"]
        registry["0"].clear()
        registry["0"][HookType.FORWARD].clear()
        assert registry["0"][HookType.FORWARD][0][0].id == id
        with pytest.raises(AttributeError):
            model.context._hook_registry = {}

    def test_public_way(self, model: HookedModel) -> None:
        """Hooks are counted, found by id, and iterated over."""
        hooks = [_Logs() for _ in range(3)]
        for at, hook in enumerate(hooks):
            model.layers.register_hook(at, hook)

        assert len(model.layers) == 3
        assert list(model.layers) == model.layers.get_hooks() == hooks
        assert all(hook.id in model.layers for hook in hooks)
        assert "nobody" not in model.layers
        assert None not in model.layers
        assert model.layers.get_hook(hooks[1].id) is hooks[1]
        assert model.layers.get_hook("nobody") is None

    def test_asking(self, model: HookedModel) -> None:
        """Hooks are asked for by layer, by type, and by both."""
        before, after = _Logs(hook_type="pre_forward"), _Logs()
        model.layers.register_hook(0, before)
        model.layers.register_hook(0, after)

        assert set(model.layers.get_hooks("0")) == {before, after}
        assert model.layers.get_hooks("layer_0", "forward") == [after]
        assert model.layers.get_hooks(hook_type=HookType.PRE_FORWARD) == [before]
        assert model.layers.get_hooks(1) == []
        with pytest.raises(ValueError, match="No layer 'nope'"):
            model.layers.get_hooks("nope")
        with pytest.raises(ValueError, match="is not a hook type"):
            model.layers.get_hooks(0, "sideways")


class TestCopies:
    def hooked(self, model: HookedModel) -> list[Hook]:
        """Register hooks of all kinds and types."""
        hooks: list[Hook] = [
            _Changes(hook_id="change"),
            _Logs(hook_id="see"),
            _IsBoth(hook_id="both", hook_type="pre_forward"),
            _Logs(hook_id="grad", hook_type="backward"),
        ]
        for at, hook in enumerate(hooks):
            model.layers.register_hook(at % 3 if at < 3 else 1, hook)
        return hooks

    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
    def test_have_no_hooks(self, model: HookedModel, way: str) -> None:
        """A copy of a hooked module has its weights and runs without our hooks."""
        plain = model(torch.ones(1, 2))
        hooks = self.hooked(model)
        if way == "deepcopy":
            twin = copy.deepcopy(model.module)
        elif way == "pickle":
            twin = pickle.loads(pickle.dumps(model.module))
        else:
            file = io.BytesIO()
            torch.save(model.module, file)
            file.seek(0)
            twin = torch.load(file, weights_only=False)

        assert torch.equal(twin(torch.ones(1, 2)), plain)
        assert all(hook.log == [] for hook in hooks)  # type: ignore[attr-defined]
        tenterhook.assert_clean(twin)
        assert list(tenterhook.attach(twin).layers) == []
        assert tenterhook.attach(twin).layers.register_hook(0, _Logs(hook_id="change")) == "change"
        model(torch.ones(1, 2))
        assert all(hook.log for hook in hooks[:3])  # type: ignore[attr-defined]

    def test_copy_in_a_scope(self, model: HookedModel) -> None:
        """A copy made inside a scope is not in it."""
        with model.capture(0) as captured:
            twin = copy.deepcopy(model.module)
            twin(torch.ones(1, 2))
            model(torch.ones(1, 2))

        assert len(captured[0]) == 1
        tenterhook.assert_clean(twin)

    def test_state_dict(self, model: HookedModel) -> None:
        """Hooks add nothing to the weights, parameters or buffers of a model."""
        before = list(model.module.state_dict())
        self.hooked(model)

        assert list(model.module.state_dict()) == before
        model.module.load_state_dict(model.module.state_dict())

    def test_pickle_after_hooks_needs_nothing_of_ours(self, model: HookedModel) -> None:
        """A model that was hooked and is no more is pickled as if it never had been."""
        hooks = self.hooked(model)
        with model.capture(0):
            model(torch.ones(1, 2))
        for hook in hooks:
            model.layers.unregister_hook(hook)

        assert b"tenterhook." not in pickle.dumps(model.module)


class TestLifetime:
    """Nothing of ours keeps a model that its user has dropped."""

    @pytest.fixture
    def freed(self) -> Any:
        """Say whether a model is gone the moment it is dropped, with no garbage collection."""
        gc.collect()
        gc.disable()
        yield lambda reference: reference() is None
        gc.enable()

    def dropped(self, use: Any) -> "weakref.ref[nn.Module]":
        """Return a reference to a module that was used and dropped."""
        module = nn.Sequential(nn.Linear(2, 2))
        use(module)
        return weakref.ref(module)

    def test_attached(self, freed: Any) -> None:
        """Attaching keeps nothing."""
        assert freed(self.dropped(tenterhook.attach))

    def test_registered_and_taken_off(self, freed: Any) -> None:
        """A hook that was taken off keeps nothing, though its user still has it."""
        hook = _Logs()

        def use(module: nn.Module) -> None:
            model = tenterhook.attach(module)
            model.layers.register_hook(0, hook)
            module(torch.ones(1, 2))
            model.layers.unregister_hook(hook)

        assert freed(self.dropped(use))

    def test_scopes(self, freed: Any) -> None:
        """A scope that was closed keeps nothing, nor does what it captured."""
        kept = []

        def use(module: nn.Module) -> None:
            model = tenterhook.attach(module)
            with model.capture(0) as captured, model.steer(0, torch.neg):
                model(torch.ones(1, 2))
            kept.append(captured.last(0))

        assert freed(self.dropped(use))

    @pytest.mark.parametrize("enabled", [True, False])
    def test_still_registered(self, enabled: bool) -> None:
        """A model dropped with its hooks goes at the next garbage collection, as with torch's."""

        def use(module: nn.Module) -> None:
            hook = _Logs()
            tenterhook.attach(module).layers.register_hook(0, hook)
            if not enabled:
                hook.disable()

        reference = self.dropped(use)
        gc.collect()
        assert reference() is None

    @pytest.mark.parametrize("enabled", [True, False])
    def test_a_hook_keeps_its_registry(self, enabled: bool) -> None:
        """As long as a hook stands, attaching again gives the object that knows it."""
        module, hook = nn.Sequential(nn.Linear(2, 2)), _Logs()
        model = tenterhook.attach(module)
        model.layers.register_hook(0, hook)
        if not enabled:
            hook.disable()
        del model
        gc.collect()

        assert list(tenterhook.attach(module).layers) == [hook]
        assert tenterhook.attach(module).layers.unregister_hook(hook.id)

    def test_registered_in_one_expression(self) -> None:
        """It does not matter that nobody held the attached object while the hook was registered."""
        module, hook = nn.Sequential(nn.Linear(2, 2)), _Logs()
        tenterhook.attach(module).layers.register_hook(0, hook)

        assert list(tenterhook.attach(module).layers) == [hook]
        assert tenterhook.attach(module).layers.unregister_hook(hook.id)
