"""`replace` and `stop_after`: layers that do not run, and forwards that end early."""

import concurrent.futures
import copy
import functools
import threading
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, NeverFired, UnknownLayer
from tenterhook.hooks import Controller, Detector, HookWarning

ONE = torch.ones(1, 2)


class _Counts(nn.Module):
    """Adds one and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, plus: float = 1.0) -> Tensor:
        self.calls += 1
        return x + plus


class _Named(NamedTuple):
    hidden: Tensor
    rest: str


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> _Named:
        return _Named(x * 2, "rest")


class _Outer(nn.Module):
    """Runs a layer with keyword input, a layer that returns a tuple, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.last = _Counts(), _Pair(), _Counts()

    def forward(self, x: Tensor) -> Tensor:
        hidden, rest = self.pair(self.first(x, plus=2.0))
        assert rest == "rest"
        out: Tensor = self.last(hidden)
        return out


class _Sees(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls.append(output)


class _Doubles(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output * 2


@pytest.fixture
def model() -> HookedModel:
    """A model of three layers; of x it makes 2 * (x + 2) + 1."""
    return tenterhook.attach(_Outer())


def first_of(model: HookedModel) -> _Counts:
    """Return the layer `first`."""
    found = model.module.get_submodule("first")
    assert isinstance(found, _Counts)
    return found


class TestReplace:
    def test_value(self, model: HookedModel) -> None:
        """The value is what the layer returns, and the layer does not run."""
        with model.replace("first", ONE * 5):
            assert model(ONE).tolist() == [[11, 11]]
            assert model.module(ONE).tolist() == [[11, 11]]
        assert first_of(model).calls == 0
        assert model(ONE).tolist() == [[7, 7]]
        assert "forward" not in vars(first_of(model))

    def test_function_of_the_inputs(self, model: HookedModel) -> None:
        """A function is given the layer's inputs as the layer would be."""
        given: list[Any] = []

        def answer(x: Tensor, plus: float) -> Tensor:
            given.append(plus)
            return x * 0

        with model.replace("first", answer):
            assert model(ONE).tolist() == [[1, 1]]
        assert given == [2.0]

    def test_function_that_declines(self, model: HookedModel) -> None:
        """Where a function returns `NotImplemented` the scope around answers, else the layer runs.

        The layer's own hooks run once then, as in any call.
        """
        sees = _Sees()
        model.layers.register_hook("first", sees)

        def of_large(x: Tensor, plus: float) -> Any:
            return x * 0 if x.sum() > 2 else NotImplemented

        with model.replace("first", of_large):
            assert model(ONE).tolist() == [[7, 7]]
            assert model(ONE * 2).tolist() == [[1, 1]]
            with model.replace("first", lambda x, plus: NotImplemented):
                assert model(ONE).tolist() == [[7, 7]]
                assert model(ONE * 2).tolist() == [[1, 1]]
        assert first_of(model).calls == 2
        assert len(sees.calls) == 4

    def test_module_in_place_of_another(self, model: HookedModel) -> None:
        """A module is a function of the inputs too."""
        with model.replace("last", nn.Linear(2, 3)):
            assert model(ONE).shape == (1, 3)

    def test_tuple(self, model: HookedModel) -> None:
        """Where the layer returns a tuple, so does the replacement."""
        with model.replace("pair", _Named(ONE * 3, "rest")):
            assert model(ONE).tolist() == [[4, 4]]

    def test_hooks_see_it(self, model: HookedModel) -> None:
        """Hooks on the layer run on the replacement, foreign ones included."""
        sees, foreign = _Sees(), []
        first_of(model).register_forward_hook(lambda m, a, out: foreign.append(out))
        model.layers.register_hook("first", sees)
        with (
            model.replace("first", ONE * 5),
            model.steer("first", lambda t: t + 1),
            model.capture("first") as captured,
        ):
            assert model(ONE).tolist() == [[13, 13]]
        assert sees.calls[0].tolist() == [[5, 5]]
        assert captured.last("first").tolist() == [[6, 6]]
        assert foreign[0].tolist() == [[5, 5]]

    def test_nested(self, model: HookedModel) -> None:
        """The innermost scope answers; when it ends, the one around it does."""
        with model.replace("first", ONE * 5):
            with model.replace("first", ONE * 6):
                assert model(ONE).tolist() == [[13, 13]]
            assert model(ONE).tolist() == [[11, 11]]
        assert model(ONE).tolist() == [[7, 7]]
        tenterhook.assert_clean(model)

    def test_out_of_order(self, model: HookedModel) -> None:
        """Scopes that overlap each answer for as long as they are open."""
        one = model.replace("first", ONE * 5, missing="ignore")  # it never comes to answer
        other = model.replace("first", ONE * 6)
        one.__enter__()
        other.__enter__()
        assert model(ONE).tolist() == [[13, 13]]
        one.__exit__(None, None, None)
        assert model(ONE).tolist() == [[13, 13]]
        other.__exit__(None, None, None)
        assert model(ONE).tolist() == [[7, 7]]
        tenterhook.assert_clean(model)

    def test_several_layers(self, model: HookedModel) -> None:
        """A pattern replaces each layer that it means."""
        with model.replace("*st", lambda x, plus=0.0: x * 3):
            assert model(ONE).tolist() == [[18, 18]]

    def test_around_the_layer_itself(self, model: HookedModel) -> None:
        """A function that runs the original forward works through its class."""
        first = first_of(model)
        with model.replace("first", lambda x, plus: _Counts.forward(first, x, plus=plus) * 2):
            assert model(ONE).tolist() == [[13, 13]]
        assert first.calls == 1

    def test_gradients(self, model: HookedModel) -> None:
        """A replacement in a graph gets its gradient."""
        given = (ONE * 5).requires_grad_()
        with model.replace("first", given):
            model(ONE).sum().backward()
        assert given.grad is not None
        assert given.grad.tolist() == [[2, 2]]

    def test_exception(self, model: HookedModel) -> None:
        """An exception in the function is the user's own, and leaves nothing."""

        def fails(x: Tensor, plus: float) -> Tensor:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"), model.replace("first", fails):
            model(ONE)
        assert model(ONE).tolist() == [[7, 7]]
        tenterhook.assert_clean(model)

    def test_own_forward(self, model: HookedModel) -> None:
        """A module with a forward of its own, as wrappers leave one, has it back."""
        first = first_of(model)

        def own(x: Tensor, plus: float = 0.0) -> Tensor:
            return x * 100

        vars(first)["forward"] = own
        with model.replace("first", ONE * 5):
            assert model(ONE).tolist() == [[11, 11]]
        assert vars(first)["forward"] is own
        assert model(ONE).tolist() == [[201, 201]]

    def test_forward_wrapped_meanwhile(self) -> None:
        """Who wraps the forward while a scope answers for it keeps the wrapper, and the module.

        Who takes the wrapper off later leaves a clean module. The wrapper is the module's forward
        from then on, so later scopes answer for it too.
        """
        net = nn.Sequential(nn.Identity())
        model, original = tenterhook.attach(net), net[0].forward
        with model.replace("0", lambda t: t * 10):
            answer = net[0].forward
            net[0].forward = lambda t: answer(t) + 5
            inside = model(ONE)
        after = model(ONE)
        tenterhook.assert_clean(model)
        net[0].forward = answer
        tenterhook.assert_clean(model)
        assert torch.equal(model(ONE), ONE)
        assert "forward" not in vars(net[0])
        net[0].forward = lambda t: original(t) + 5
        tenterhook.assert_clean(model)
        with model.replace("0", lambda t: t * 10):
            again = model(ONE)
        assert torch.equal(inside, ONE * 10 + 5)
        assert torch.equal(after, ONE + 5)
        assert torch.equal(again, ONE * 10)
        assert torch.equal(model(ONE), ONE + 5)
        tenterhook.assert_clean(model)

    def test_forward_put_back_meanwhile(self) -> None:
        """Who puts back the forward of before, as accelerate takes its hooks off, leaves a clean
        module, and later scopes answer as ever."""
        net = nn.Sequential(nn.Identity())
        model = tenterhook.attach(net)
        original = net[0].forward
        net[0].forward = lambda t: original(t) + 5
        with model.replace("0", lambda t: t * 10):
            assert torch.equal(model(ONE), ONE * 10)
            net[0].forward = original
        assert torch.equal(model(ONE), ONE)
        tenterhook.assert_clean(model)
        for _ in range(2):
            with model.replace("0", lambda t: t * 10):
                assert torch.equal(model(ONE), ONE * 10)
            assert torch.equal(model(ONE), ONE)
            tenterhook.assert_clean(model)

    @pytest.mark.parametrize("added", ["before", "inside", "both"])
    @pytest.mark.parametrize("removed", ["before", "inside", "after", "in a later scope", "never"])
    def test_forward_wrapped_as_accelerate_does(self, added: str, removed: str) -> None:
        """Who keeps the forward of before in the module puts the module's own back, not ours."""

        def wrap(module: Any) -> None:
            if not hasattr(module, "_old_forward"):  # else the wrapper of before goes
                module._old_forward = module.forward
            module.forward = functools.partial(lambda m, t: m._old_forward(t) + 5, module)

        def unwrap(module: Any) -> None:
            if hasattr(module, "_old_forward"):
                module.forward = module._old_forward
                del module._old_forward

        net = nn.Sequential(nn.Identity())
        layer, model = net[0], tenterhook.attach(net)
        if added != "inside":
            wrap(layer)
        if removed == "before":
            unwrap(layer)
        with model.replace("0", lambda t: t * 10, missing="ignore"):
            if added != "before":
                wrap(layer)
            with model.replace("0", lambda t: t * 20, missing="ignore"):
                model(ONE)
            if removed == "inside":
                unwrap(layer)
            model(ONE)
        tenterhook.assert_clean(model)
        if removed == "after":
            unwrap(layer)
        if removed == "in a later scope":
            with model.replace("0", lambda t: t * 10):
                assert torch.equal(model(ONE), ONE * 10)
                unwrap(layer)
        tenterhook.assert_clean(model)
        assert torch.equal(copy.deepcopy(net)(ONE), model(ONE))
        wrapped = hasattr(layer, "_old_forward")
        assert torch.equal(model(ONE), ONE + 5 if wrapped else ONE)
        assert "tenterhook" not in repr(vars(layer))
        with model.replace("0", lambda t: t * 10):
            assert torch.equal(model(ONE), ONE * 10)
        assert torch.equal(model(ONE), ONE + 5 if wrapped else ONE)
        tenterhook.assert_clean(model)

    def test_open_while_saved(self, model: HookedModel) -> None:
        """The state dict of the model is that of the model while a layer is replaced."""
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        keys = list(net.state_dict())
        with tenterhook.attach(net).replace(0, nn.Linear(2, 2), missing="ignore"):
            assert list(net.state_dict()) == keys

    def test_whole_model(self, model: HookedModel) -> None:
        """The model itself can be answered for, by its name."""
        with model.replace("output", ONE * 9):
            assert model(ONE).tolist() == [[9, 9]]
        assert model(ONE).tolist() == [[7, 7]]

    def test_never_asked(self, model: HookedModel) -> None:
        """An output that nobody asked for is reported by the layer's name."""
        with (
            pytest.warns(HookWarning, match="An output was given for 'first': no forward ran"),
            model.replace("first", ONE),
        ):
            pass
        with (
            pytest.raises(NeverFired, match="'first'"),
            model.replace("first", ONE, missing="raise"),
        ):
            pass

    def test_decorates(self, model: HookedModel) -> None:
        """It decorates functions as every scope does."""

        @model.replace("first", ONE * 5)
        def run() -> Any:
            return model(ONE)

        assert run().tolist() == [[11, 11]]
        assert model(ONE).tolist() == [[7, 7]]

    def test_threads(self, model: HookedModel) -> None:
        """Each thread has its own replacement, and one without has the layer."""
        start = threading.Barrier(4)

        def work(number: int) -> list[bool]:
            right = []
            start.wait(10)
            for turn in range(60):
                plain = model(ONE).tolist() == [[7, 7]]
                value = float(number * 100 + turn)
                with model.replace("first", ONE * value):
                    right.append(plain and model(ONE).tolist() == [[2 * value + 1] * 2])
            return right

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = list(pool.map(work, range(4)))
        assert all(all(right) for right in done)
        assert "forward" not in vars(first_of(model))
        tenterhook.assert_clean(model)


class TestStopAfter:
    def test_model_call(self, model: HookedModel) -> None:
        """Called through the model, the forward ends, gives `None`, and the scope goes on."""
        with model.capture("first", stop_after="pair") as captured:
            assert model(ONE) is None
            assert model(ONE * 2) is None
        assert captured.cat("first").tolist() == [[3, 3], [4, 4]]
        assert model(ONE).tolist() == [[7, 7]]

    def test_module_call(self, model: HookedModel) -> None:
        """Called directly, the end of the forward ends the scope, which says so; what was captured
        is kept."""
        reached: list[str] = []
        told = pytest.warns(HookWarning, match="stop_after ended .*rest of this `with` block too")
        with told, model.capture("first", stop_after="first") as captured:
            model.module(ONE)
            reached.append("the module's own call ends the scope")
        assert captured.cat("first").tolist() == [[3, 3]]
        assert reached == []
        tenterhook.assert_clean(model)

    def test_call_with_a_forward_of_its_own(self, model: HookedModel) -> None:
        """An `except Exception` of the model's own code does not keep the forward going."""

        class Careful(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner, self.after = inner, nn.Identity()

            def forward(self, x: Tensor) -> Tensor:
                try:
                    x = self.inner(x)
                except Exception:  # noqa: BLE001 - what it is about
                    x = x * 0
                out: Tensor = self.after(x)
                return out

        careful = tenterhook.attach(Careful(nn.Identity()))
        sees = _Sees()
        careful.layers.register_hook("after", sees)
        with careful.capture("inner", stop_after="inner"):
            assert careful(ONE) is None
        assert sees.calls == []

    def test_last_layer_sees_all(self, model: HookedModel) -> None:
        """Every hook and capture at the layer runs before the forward ends there."""
        sees = _Sees()
        with (
            model.capture("first", stop_after="first") as captured,
            model.steer("first", lambda t: t * 2),
            model.capture("first") as inner,
            model.hooks(("first", sees)),
        ):
            assert model(ONE) is None
        assert captured.last("first").tolist() == [[3, 3]]
        assert inner.last("first").tolist() == [[6, 6]]
        assert sees.calls[0].tolist() == [[6, 6]]

    def test_nested(self, model: HookedModel) -> None:
        """Of two ends, the first reached counts; when its scope is over, the other's does."""
        with model.capture("first", stop_after="pair") as outer:
            with model.capture("first", stop_after="first") as inner:
                model(ONE)
            model(ONE)
        assert (len(outer["first"]), len(inner["first"])) == (2, 1)

    def test_direct_call_of_a_nested_scope(self, model: HookedModel) -> None:
        """A direct call ends the scope that asked for the end, and those inside it."""
        reached: list[str] = []
        told = pytest.warns(HookWarning, match="rest of this `with` block")
        with told, model.capture("first", stop_after="first") as outer:
            with model.capture("first") as inner:
                model.module(ONE)
                reached.append("inside")
            reached.append("between")
        assert reached == []
        assert (len(outer["first"]), len(inner["first"])) == (1, 1)
        tenterhook.assert_clean(model)

    def test_inner_scope_ends_alone(self, model: HookedModel) -> None:
        """A direct call ends only the inner scope, where that asked; the outer goes on."""
        reached: list[str] = []
        with model.capture("first") as outer:
            with model.capture("first", stop_after="first", missing="ignore"):
                model.module(ONE)
                reached.append("the module's own call ends the scope")
            assert model(ONE).tolist() == [[7, 7]]
        assert len(outer["first"]) == 2
        assert reached == []

    @pytest.mark.parametrize("directly", [False, True])
    def test_attached_part(self, directly: bool) -> None:
        """An attached part that the forward calls hands the end on to the model around it; called
        by the user, it ends there."""
        part = tenterhook.attach(nn.Sequential(nn.Identity(), nn.Identity()))

        class Whole(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.part, self.after = part.module, nn.Identity()

            def forward(self, x: Tensor) -> Any:
                given = part(x)
                return self.after(x if given is None else given)

        whole, sees = tenterhook.attach(Whole()), _Sees()
        whole.layers.register_hook("after", sees)
        with whole.capture("part.0", stop_after="part.0") as captured:
            assert (part if directly else whole)(ONE) is None
        assert len(captured["part.0"]) == 1
        assert sees.calls == []
        with part.capture("0", stop_after="0"):
            assert whole(ONE) is ONE  # only the part's own forward ends

    def test_layer_after_the_end(self, model: HookedModel) -> None:
        """A captured layer that the forward never came to is reported."""
        with (
            pytest.warns(HookWarning, match="Nothing was captured at 'last'"),
            model.capture("first", "last", stop_after="first"),
        ):
            model(ONE)

    @pytest.mark.parametrize("decorated", [False, True])
    @pytest.mark.parametrize("change", ["append", "insert"])
    @pytest.mark.parametrize(("layer", "last"), [(-1, 2), ("layer_1", 1), ("1", 1)])
    def test_layer_after_surgery(
        self, layer: str | int, last: int, change: str, decorated: bool
    ) -> None:
        """Where the forward ends is asked anew in each scope: which layer it is may have changed.

        So it is where a function was decorated before the change.
        """
        net = nn.Sequential(*(_Counts() for _ in range(2)))
        model = tenterhook.attach(net)

        @model.capture(0, stop_after=layer)
        def run_decorated() -> None:
            model(ONE)

        def run() -> None:
            with model.capture(0, stop_after=layer):
                model(ONE)

        def ran() -> list[int]:
            """Return which layers run."""
            for each in net:
                vars(each)["calls"] = 0
            (run_decorated if decorated else run)()
            return [at for at, each in enumerate(net) if each.calls]

        assert ran() == [0, 1]
        if change == "append":
            net.append(_Counts())
        else:
            net.insert(0, _Counts())
        assert ran() == list(range(last + 1))
        tenterhook.assert_clean(net)

    def test_no_bool(self, model: HookedModel) -> None:
        """`True` is no index, also where 1 was asked for before."""
        for layer in (1, 0):
            with model.capture("first", stop_after=layer):
                model(ONE)
            with pytest.raises(UnknownLayer, match=r"No layer (True|False) in this model"):
                model.capture("first", stop_after=bool(layer))

    def test_only_this_thread(self, model: HookedModel) -> None:
        """Another thread's forward goes on."""
        with (
            concurrent.futures.ThreadPoolExecutor(1) as pool,
            model.capture("first", stop_after="first"),
        ):
            assert pool.submit(model, ONE).result().tolist() == [[7, 7]]
            assert model(ONE) is None

    def test_with_replace(self, model: HookedModel) -> None:
        """A forward may end at a layer that is answered for."""
        with (
            model.replace("first", ONE * 5),
            model.capture("first", stop_after="first") as captured,
        ):
            assert model(ONE) is None
        assert captured.last("first").tolist() == [[5, 5]]

    def test_exception_before_the_end(self, model: HookedModel) -> None:
        """An error before the end is the error, and nothing is left."""

        def fails(x: Tensor, plus: float) -> Tensor:
            raise KeyError("mine")

        with (
            pytest.raises(KeyError, match="mine"),
            model.capture("pair", stop_after="pair"),
            model.replace("first", fails),
        ):
            model(ONE)
        tenterhook.assert_clean(model)


class TestAcrossLayers:
    """A change may read what was captured earlier in the same forward."""

    def test_reads_an_earlier_layer(self, model: HookedModel) -> None:
        """What an earlier layer returned in this call is there when a later one is changed."""
        with (
            model.capture("first") as captured,
            model.steer("last", lambda t: t + captured.last("first")),
        ):
            assert model(ONE).tolist() == [[10, 10]]
            assert model(ONE * 2).tolist() == [[13, 13]]

    def test_gradient_through_both(self, model: HookedModel) -> None:
        """With `detach=False` the gradient takes both ways."""
        x = ONE.clone().requires_grad_()
        with (
            model.capture("first", detach=False) as captured,
            model.steer("last", lambda t: t + captured.last("first")),
        ):
            model(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[3, 3]]

    def test_patches_from_another_run(self, model: HookedModel) -> None:
        """What one run gave takes its place in another, from there on."""
        with model.capture("pair", missing="raise") as captured:
            expected = model(ONE * 4)
        with model.steer("pair", lambda t: captured.last("pair")):
            assert torch.equal(model(ONE), expected)

    def test_registered_controller(self, model: HookedModel) -> None:
        """A capture in a scope sees what a registered controller made of the layer."""
        model.layers.register_hook("first", _Doubles())
        with (
            model.capture("first") as captured,
            model.steer("last", lambda t: captured.last("first")),
        ):
            assert model(ONE).tolist() == [[6, 6]]

    def test_threads(self, model: HookedModel) -> None:
        """Each thread's change reads its own capture."""

        def work(number: int) -> list[bool]:
            right = []
            for turn in range(30):
                value = float(number * 50 + turn)
                with (
                    model.capture("first") as captured,
                    model.steer("last", lambda t: t * 0 + captured.last("first")),
                ):
                    right.append(model(ONE * value).tolist() == [[value + 2] * 2])
            return right

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(all(right) for right in pool.map(work, range(4)))
