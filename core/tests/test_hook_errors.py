"""What a hook raises: once, by name, and everything is as before."""

import concurrent.futures
import pickle
import threading
import traceback
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, TenterhookError, carry
from tenterhook.hooks import Controller, Detector, HookError, HookType, HookWarning


class _Fails(Detector):
    """Raises what it was given."""

    def __init__(self, error: BaseException | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.error = ZeroDivisionError("by nothing") if error is None else error
        self.calls = 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls += 1
        raise self.error


class _FailsToChange(Controller):
    """Raises."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        raise ZeroDivisionError("by nothing")


class _FailsTwice(_Fails, _FailsToChange):
    """Raises as a detector and as a controller."""


class _Sees(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls += 1


ONE = torch.ones(1, 2)


@pytest.fixture
def model() -> HookedModel:
    """Two layers, one inside a block."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)))


def counts(model: HookedModel) -> list[int]:
    """Return how many torch hooks each module has."""
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]


@pytest.mark.parametrize("kind", ["forward", "pre_forward"])
@pytest.mark.parametrize("hook_class", [_Fails, _FailsToChange, _FailsTwice])
class TestRaised:
    def test_says_who_where_and_why(self, model: HookedModel, hook_class: Any, kind: str) -> None:
        """The message names class, id, layer and cause; the facts are attributes."""
        hook = hook_class(hook_type=kind, hook_id="bad")
        model.layers.register_hook("0.0", hook)

        with pytest.raises(HookError) as caught:
            model(ONE)

        error = caught.value
        assert str(error) == (
            f"Layer '0.0': {hook_class.__name__} 'bad' ({kind}) failed: "
            "ZeroDivisionError: by nothing"
        )
        assert (error.hook_id, error.layer_signature) == ("bad", "0.0")
        assert error.hook_type is HookType(kind)
        assert isinstance(error.original_error, ZeroDivisionError)
        assert error.__cause__ is error.original_error

    def test_once(self, model: HookedModel, hook_class: Any, kind: str) -> None:
        """It is wrapped once, however deep the module stands."""
        model.layers.register_hook("0.0", hook_class(hook_type=kind))
        model.layers.register_hook("0", _Sees())

        with pytest.raises(HookError) as caught:
            model(ONE)

        assert "".join(traceback.format_exception(caught.value)).count("HookError:") == 1
        assert not isinstance(caught.value.original_error, HookError)

    def test_afterwards(self, model: HookedModel, hook_class: Any, kind: str) -> None:
        """The registry is as before, and without the hook the model runs."""
        plain = model(ONE)
        id = model.layers.register_hook("0.0", hook_class(hook_type=kind))
        before = (counts(model), repr(model.context._hook_registry), list(model.layers))

        for _ in range(2):
            with pytest.raises(HookError, match="by nothing"):
                model(ONE)

        assert (counts(model), repr(model.context._hook_registry), list(model.layers)) == before
        model.layers.disable_hook(id)
        assert torch.equal(model(ONE), plain)
        model.layers.unregister_hook(id)
        tenterhook.assert_clean(model)

    def test_ends_scopes(self, model: HookedModel, hook_class: Any, kind: str) -> None:
        """No hook of a scope that ended with the error is left."""
        before = counts(model)

        with (
            pytest.raises(HookError, match="by nothing"),
            model.capture("1"),
            model.hooks(("0.0", hook_class(hook_type=kind))),
            model.steer("0", torch.neg),
        ):
            model(ONE)

        assert counts(model) == before
        tenterhook.assert_clean(model)
        with model.capture("1") as captured:
            model(ONE)
        assert len(captured["1"]) == 1


class TestError:
    def test_kinds(self) -> None:
        """It is one of ours, and a `RuntimeError`."""
        assert issubclass(HookError, TenterhookError)
        assert issubclass(HookError, RuntimeError)

    def test_pickles(self, model: HookedModel) -> None:
        """It goes from one process to another with its facts."""
        model.layers.register_hook(0, _Fails(hook_id="bad"))
        with pytest.raises(HookError) as caught:
            model(ONE)

        again = pickle.loads(pickle.dumps(caught.value))

        assert str(again) == str(caught.value)
        assert (again.hook_id, again.layer_signature) == ("bad", "0")
        assert again.hook_type is HookType.FORWARD
        assert isinstance(again.original_error, ZeroDivisionError)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_interrupts_pass(self, model: HookedModel, error: Any) -> None:
        """What is no `Exception` passes unchanged: the user wants out."""
        model.layers.register_hook(0, _Fails(error()))
        with pytest.raises(error):
            model(ONE)
        with pytest.raises(error), model.capture(1):
            model(ONE)
        assert counts(model) == [0, 1, 0, 0]

    def test_stop_iteration(self, model: HookedModel) -> None:
        """Also an exception that loops would swallow."""
        model.layers.register_hook(0, _Fails(StopIteration("over")))
        with pytest.raises(HookError, match="StopIteration: over"):
            next(model(ONE) for _ in range(1))

    def test_no_hook_to_blame(self, model: HookedModel) -> None:
        """What the model itself raises passes unchanged, hooks or not."""
        model.layers.register_hook(0, _Sees())
        before = counts(model)

        with pytest.raises(RuntimeError, match="shapes") as caught, model.capture("1"):
            model(torch.ones(1, 3))

        assert not isinstance(caught.value, HookError)
        assert counts(model) == before

    def test_of_a_model_inside_a_hook(self, model: HookedModel) -> None:
        """A hook that runs a model whose hook fails: the inner error, once."""
        inner = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        inner.layers.register_hook(0, _Fails(hook_id="inner"))

        class Runs(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                inner(ONE)

        model.layers.register_hook(0, Runs(hook_id="outer"))

        with pytest.raises(HookError) as caught:
            model(ONE)
        assert caught.value.hook_id == "inner"
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_hook_without_init(self, model: HookedModel) -> None:
        """A hook whose `__init__` sets nothing up is refused when it is registered."""

        class Careless(Detector):
            def __init__(self) -> None:
                pass

            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                pass

        before = counts(model)
        with pytest.raises((AttributeError, TypeError)):
            model.layers.register_hook(0, Careless())
        assert counts(model) == before
        assert len(model.layers) == 0


class TestPolicy:
    def test_default(self, model: HookedModel) -> None:
        """Errors are raised unless one says otherwise."""
        assert model.on_error == model.layers.on_error == "raise"

    def test_unknown(self, model: HookedModel) -> None:
        """A policy that is none is refused, with the valid ones."""
        with pytest.raises(ValueError, match="on_error='ignore' is not one of 'raise', 'warn', 'd"):
            model.on_error = "ignore"  # type: ignore[assignment]
        assert model.on_error == "raise"

    @pytest.mark.parametrize("hook_class", [_Fails, _FailsToChange])
    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    @pytest.mark.parametrize("policy", ["warn", "disable"])
    def test_skips(self, model: HookedModel, hook_class: Any, kind: str, policy: Any) -> None:
        """The hook is skipped with a warning that names it, and the model runs on."""
        plain = model(ONE)
        hook = hook_class(hook_type=kind, hook_id="bad")
        model.layers.register_hook("0.0", hook)
        model.on_error = policy

        with pytest.warns(HookWarning, match=r"'0.0': .*'bad' .* failed: ZeroDivisionError: by no"):
            out = model(ONE)

        assert torch.equal(out, plain)
        assert hook.enabled is (policy == "warn")
        assert hook.id in model.layers

    def test_others_run_on(self, model: HookedModel) -> None:
        """The hooks beside it run, in this call and the next."""
        sees = _Sees()
        model.layers.register_hook(0, _Fails())
        model.layers.register_hook(0, sees)
        model.on_error = "disable"

        with pytest.warns(HookWarning, match="It is disabled now"):
            model(ONE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(ONE)
        assert sees.calls == 2

    def test_in_scopes(self, model: HookedModel) -> None:
        """The policy holds for the hooks of scopes too."""
        plain, hook = model(ONE), _Fails()
        model.on_error = "disable"

        with model.hooks((0, hook)):
            with pytest.warns(HookWarning, match="It is disabled now"):
                assert torch.equal(model(ONE), plain)
            model(ONE)
        assert hook.calls == 1

    def test_of_a_model_inside_a_hook(self, model: HookedModel) -> None:
        """The outer model's policy says what becomes of the inner model's error."""
        inner = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        inner.layers.register_hook(0, _Fails(hook_id="inner"))

        class Runs(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                inner(ONE)

        model.on_error = "warn"
        model.layers.register_hook(0, Runs(hook_id="outer"))

        with pytest.warns(HookWarning, match=r"Runs 'outer' .*_Fails 'inner'"):
            model(ONE)

    def test_gradients(self, model: HookedModel) -> None:
        """It holds for gradients."""
        model.on_error = "warn"
        model.layers.register_hook(0, _FailsToChange("backward"))

        with pytest.warns(HookWarning, match=r"\(backward\).*Its result is skipped"):
            model(ONE).sum().backward()

    def test_per_model(self, model: HookedModel) -> None:
        """One model's policy is not another's."""
        other = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        model.on_error = "warn"
        other.layers.register_hook(0, _Fails())
        with pytest.raises(HookError, match="by nothing"):
            other(ONE)


def test_one_threads_error_is_its_own(model: HookedModel) -> None:
    """While one thread's scoped hook fails, the others' runs are right."""
    expected, wrong = model(ONE), []

    def fails() -> None:
        for _ in range(50):
            try:
                with model.hooks((0, _Fails())):
                    model(ONE)
                wrong.append("no error")
            except HookError:
                pass

    def works() -> None:
        for _ in range(50):
            with model.capture("1") as captured:
                model(ONE)
            if not torch.equal(captured.last("1"), expected):
                wrong.append("other output")

    threads = [threading.Thread(target=each) for each in (fails, works, fails, works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    tenterhook.assert_clean(model)


class _RefusesContext(_Sees):
    """Sets up something when it gets a context, and fails."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def set_context(self, context: Any) -> None:
        super().set_context(context)
        if self.when == ("ended" if context is None else "begun"):
            raise RuntimeError("no room")


class TestContextRefused:
    """A hook that raises in `set_context` leaves nothing of itself behind."""

    def test_as_a_scope_opens(self, model: HookedModel) -> None:
        """Nothing is open, and both hooks are free to run elsewhere."""
        other, refuses = _Sees(), _RefusesContext("begun")
        with (
            pytest.raises(RuntimeError, match="no room"),
            model.hooks(("0", other), ("0", refuses)),
        ):
            pass
        tenterhook.assert_clean(model)
        assert other.context is None
        refuses.when = "never"
        for hook in (other, refuses):
            model.layers.register_hook("0", hook)
        assert model.layers.clear() == 2

    def test_as_a_scope_ends(self, model: HookedModel) -> None:
        """The scope has ended all the same."""
        refuses = _RefusesContext("ended")
        with pytest.raises(RuntimeError, match="no room"), model.hooks(("0", refuses)):
            model(ONE)
        tenterhook.assert_clean(model)
        refuses.when = "never"
        model.layers.register_hook("0", refuses)
        model.layers.clear()

    def test_as_it_is_registered(self, model: HookedModel) -> None:
        """The registration fails, and nothing is changed by it."""
        refuses = _RefusesContext("begun")
        with pytest.raises(RuntimeError, match="no room"):
            model.layers.register_hook("0", refuses, "pre_forward")
        assert len(model.layers) == 0
        assert (refuses.context, refuses.layer_signature) == (None, None)
        assert refuses.hook_type == "forward"
        tenterhook.assert_clean(model)
        refuses.when = "never"
        model.layers.register_hook("0", refuses)
        model.layers.clear()

    def test_as_it_is_unregistered(self, model: HookedModel) -> None:
        """It is off, and its layer forgets how it was shared."""
        refuses = _RefusesContext("ended")
        model.layers.register_hook("0", refuses, mix="in_order")
        with pytest.raises(RuntimeError, match="no room"):
            model.layers.unregister_hook(refuses)
        assert len(model.layers) == 0
        assert model.layers.mix_of("0") is None
        tenterhook.assert_clean(model)


class _SaysWhere(Detector):
    """Raises what it takes for its layer, when all of `calls` have come this far."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.all_here = threading.Barrier(calls)

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.all_here.wait(60)
        raise LookupError(self.layer_signature)


class _RunsTheOther(Detector):
    """Runs another of its layers, then raises what it takes for its own."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.other = other

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        if module is not self.other:
            self.other(output)
            raise LookupError(self.layer_signature)


class TestOnSeveralLayers:
    @pytest.mark.parametrize("selected", [{}, {"rows": 0}], ids=["whole", "selected"])
    def test_in_several_threads(self, model: HookedModel, selected: Any) -> None:
        """Each error names the layer that called, and so does the hook itself."""
        if selected:
            pytest.importorskip("tenterhook_selections")
        names = ["0.0", "1"]
        with (
            model.hooks((lambda name, _: name in names, _SaysWhere(2)), **selected),
            concurrent.futures.ThreadPoolExecutor() as pool,
        ):
            calls = [pool.submit(carry(model.module.get_submodule(at)), ONE) for at in names]
            errors: list[Any] = [call.exception() for call in calls]

        assert [each.layer_signature for each in errors] == names
        assert [str(each.original_error) for each in errors] == names

    def test_one_call_in_another(self, model: HookedModel) -> None:
        """A hook that runs another of its layers knows afterwards where it is itself."""

        hook = _RunsTheOther(model.module.get_submodule("1"))
        with (
            pytest.raises(HookError, match=r"Layer '0\.0'.*LookupError: 0\.0$"),
            model.hooks(("0.0", hook), ("1", hook)),
        ):
            model(ONE)
        model.layers.register_hook("1", hook)
        assert hook.layer_signature == "1"
        assert pickle.loads(pickle.dumps(hook)).layer_signature == "1"
