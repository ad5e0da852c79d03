"""`capture`, `steer` and `hooks`: what they give, who sees them, and how they end."""

import asyncio
import concurrent.futures
import copy
import functools
import pickle
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, NeverFired
from tenterhook.errors import UnknownLayer
from tenterhook.hooks import Controller, Detector, Hook, HookWarning


class _Sees(Detector):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.calls: list[Any] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls.append(output)


class _Doubles(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output * 2


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return "text", x * 2


class _Text(nn.Module):
    def forward(self, x: Tensor) -> Any:
        self.saw = x
        return "text"


ONE = torch.ones(1, 2)


@pytest.fixture
def model() -> HookedModel:
    """A stack of blocks, each a linear layer and a ReLU in place."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)) for _ in range(2)]
    return tenterhook.attach(nn.Sequential(*blocks, nn.Linear(2, 2)))


class TestCapture:
    def test_each_call_in_order(self, model: HookedModel) -> None:
        """There is one tensor per call, in order, equal to what a bare torch hook is given."""
        seen: list[Tensor] = []
        model.module.get_submodule("0.0").register_forward_hook(
            lambda m, a, out: seen.append(out.detach().clone())
        )
        with model.capture("0.0") as captured:
            for number in range(3):
                model(ONE * number)

        assert [torch.equal(*pair) for pair in zip(captured["0.0"], seen, strict=True)] == [
            True
        ] * 3
        assert captured.last("0.0") is captured["0.0"][-1]
        assert torch.equal(captured.cat("0.0"), torch.cat(seen))

    @pytest.mark.parametrize("spelling", ["2", "layer_2", 6, -1])
    def test_every_spelling(self, model: HookedModel, spelling: Any) -> None:
        """A layer is asked for, and found, by every spelling; the key is the dotted name."""
        with model.capture(spelling) as captured:
            model(ONE)

        assert list(captured.keys()) == ["2"]
        for other in ["2", "layer_2", 6, -1]:
            assert captured[other] is captured["2"]  # type: ignore[index]
            assert captured.last(other) is captured.last("2")  # type: ignore[arg-type]
            assert other in captured

    def test_patterns(self, model: HookedModel) -> None:
        """Patterns and predicates expand to dotted names."""
        with model.capture("*.0", lambda name, part: isinstance(part, nn.ReLU)) as captured:
            model(ONE)

        assert list(captured) == ["0.0", "1.0", "0.1", "1.1"]
        assert len(captured) == 4
        assert [len(calls) for calls in captured.values()] == [1, 1, 1, 1]

    def test_sides_of_the_model(self, model: HookedModel) -> None:
        """`"input"` and `"output"` are what the model is given and returns."""
        with model.capture("input", "output") as captured:
            out = model(ONE)

        assert torch.equal(captured.last("input"), ONE)
        assert torch.equal(captured.last("output"), out)

    def test_inputs(self, model: HookedModel) -> None:
        """With `inputs`, a layer's input is kept, before the layer writes over it."""
        with model.capture("0.1", inputs=True) as captured, model.capture("0.0") as before:
            model(ONE)

        assert torch.equal(captured.last("0.1"), before.last("0.0"))

    def test_is_the_users_own(self, model: HookedModel) -> None:
        """What was captured shares memory with nothing and is not in the graph."""
        with model.capture("*", "input") as captured:
            model(ONE)
        before = {name: captured.last(name).clone() for name in captured}
        pointers = [t.untyped_storage().data_ptr() for (t,) in captured.values()]

        assert len(set(pointers)) == len(pointers)
        assert not any(t.requires_grad for (t,) in captured.values())
        model(ONE * 5)
        assert all(torch.equal(captured.last(name), before[name]) for name in before)
        captured.last("input").zero_()
        assert ONE.tolist() == [[1, 1]]

    def test_small_part_of_a_large_tensor(self) -> None:
        """A captured view does not keep the storage it is a view of."""

        class Slices(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x[:1]

        model = tenterhook.attach(nn.Sequential(Slices()))
        with model.capture(0) as captured:
            model(torch.ones(10_000))

        assert captured.last(0).untyped_storage().nbytes() == 4

    def test_structure(self) -> None:
        """The activation of a structure is kept."""
        model = tenterhook.attach(nn.Sequential(_Pair()))
        with model.capture(0) as captured:
            model(ONE)
        assert captured.last(0).tolist() == [[2, 2]]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype(self, model: HookedModel, dtype: torch.dtype) -> None:
        """The tensors are in the dtype asked for."""
        with model.capture("2", dtype=dtype) as captured:
            out = model(ONE)
        assert captured.last("2").dtype == dtype
        assert torch.equal(captured.last("2"), out.to(dtype))

    def test_in_the_graph(self, model: HookedModel) -> None:
        """With `detach=False` a tensor is the model's own, and has a gradient."""
        with model.capture("0.0", detach=False) as captured:
            out = model(ONE)
        captured.last("0.0").retain_grad()
        out.sum().backward()
        assert captured.last("0.0").grad is not None

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes(self, model: HookedModel, mode: Any) -> None:
        """Captures are right without gradients too."""
        expected = model(ONE).detach()
        with mode(), model.capture("2") as captured:
            model(ONE)
        assert torch.equal(captured.last("2"), expected)

    def test_made_in_inference_mode(self, model: HookedModel) -> None:
        """What was captured in inference mode serves to train a probe afterwards."""
        with torch.inference_mode(), model.capture("2") as captured:
            model(ONE)
        probe = nn.Linear(2, 1)
        probe(captured.last("2")).sum().backward()
        captured.last("2").add_(1)

    def test_changes_nothing(self, model: HookedModel) -> None:
        """Output and gradients are those without a capture, to the bit."""
        results = []
        for choice in ([], ["*", "input", "output"]):
            x = ONE.clone().requires_grad_()
            with model.capture(*choice):
                out = model(x)
            out.sum().backward()
            assert x.grad is not None
            results.append((out.detach(), x.grad.clone()))
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    def test_only_inside(self, model: HookedModel) -> None:
        """Calls before and after the scope are not in it."""
        model(ONE)
        with model.capture("2") as captured:
            model(ONE)
        model(ONE)
        assert len(captured["2"]) == 1

    def test_sees_steering(self, model: HookedModel) -> None:
        """A capture around a steer keeps what its own place in the order gives."""
        plain = model(ONE)
        with (
            model.capture("2") as outer,
            model.steer("2", lambda t: t + 1),
            model.capture("2") as inner,
        ):
            out = model(ONE)
        assert torch.equal(outer.last("2"), plain)
        assert torch.equal(inner.last("2"), plain + 1)
        assert torch.equal(out, plain + 1)

    def test_stop_after(self, model: HookedModel) -> None:
        """`stop_after` ends each forward there and keeps what was captured."""
        sees = _Sees()
        model.layers.register_hook("2", sees)
        reached: list[str] = []
        with model.capture("0.0", "1", stop_after="1", missing="ignore") as captured:
            assert model(ONE) is None
            model(ONE)
            model.module(ONE)
            reached.append("the module's own call ends the scope")
        assert [len(calls) for calls in captured.values()] == [3, 3]
        assert (sees.calls, reached) == ([], [])


class TestAskingCaptured:
    def test_not_captured(self, model: HookedModel) -> None:
        """A layer that is there and not captured is a `KeyError` that lists those that are."""
        with model.capture("2") as captured:
            model(ONE)
        with pytest.raises(KeyError, match=r"Layer '0' is not captured here; \['2'\] are"):
            captured["0"]

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_copies(self, model: HookedModel, again: Any) -> None:
        """A copy or pickle has the tensors by their dotted names, and no model."""
        with model.capture("layer_0", "2") as captured:
            model(ONE)
        copied = again(captured)
        assert type(copied) is dict
        assert list(copied) == ["0", "2"]
        assert torch.equal(copied["2"][0], captured.last("2"))

    def test_no_layer(self, model: HookedModel) -> None:
        """What is no layer is an `UnknownLayer`."""
        with model.capture("2") as captured:
            model(ONE)
        with pytest.raises(UnknownLayer, match="No layer 'nope'"):
            captured["nope"]

    @pytest.mark.parametrize("how", ["last", "cat"])
    def test_nothing_yet(self, model: HookedModel, how: str) -> None:
        """Before the first call there is a list without a tensor."""
        with model.capture("2", missing="ignore") as captured:
            assert captured["2"] == []
            with pytest.raises(LookupError, match="Layer '2' has not run in this scope"):
                getattr(captured, how)("2")

    def test_unknown_layer_at_once(self, model: HookedModel) -> None:
        """A typo is found before anything runs, and leaves nothing."""
        for make in (
            lambda: model.capture("0", "nope"),
            lambda: model.capture("0", stop_after="nope"),
            lambda: model.steer("nope", torch.neg),
            lambda: model.hooks(("0", _Sees()), ("nope", _Sees())),
        ):
            with pytest.raises(UnknownLayer, match=r"No layer 'nope'.*Closest: '"):
                make()
        tenterhook.assert_clean(model)


class TestSteer:
    @pytest.mark.parametrize("change", [lambda t: t * 2, _Doubles()], ids=["function", "hook"])
    def test_applies(self, model: HookedModel, change: Any) -> None:
        """A function or controller changes the activation inside the scope alone."""
        plain = model(ONE)
        with model.steer("2", change):
            assert torch.equal(model(ONE), plain * 2)
        assert torch.equal(model(ONE), plain)

    def test_none_leaves_it_alone(self, model: HookedModel) -> None:
        """A function may return `None`."""
        plain = model(ONE)
        with model.steer("2", lambda t: None):
            assert torch.equal(model(ONE), plain)

    def test_inputs(self, model: HookedModel) -> None:
        """With `hook_type` the function changes the input."""
        plain = model(ONE * 3)
        with model.steer("input", lambda t: t * 3, hook_type="pre_forward"):
            assert torch.equal(model(ONE), plain)

    def test_nests(self, model: HookedModel) -> None:
        """Inner scopes run after outer ones, and end before them."""
        plain = model(ONE)
        with model.steer("2", lambda t: t + 1):
            with model.steer("2", lambda t: t * 10):
                assert torch.equal(model(ONE), (plain + 1) * 10)
            assert torch.equal(model(ONE), plain + 1)

    def test_patterns(self, model: HookedModel) -> None:
        """One change at each layer that a pattern means."""
        calls = []
        with model.steer("*.0", lambda t: calls.append(t.shape)):
            model(ONE)
        assert len(calls) == 2

    def test_after_registered_hooks(self, model: HookedModel) -> None:
        """Registered hooks run first, whoever came first."""
        plain = model(ONE)
        with model.steer("2", lambda t: t + 1):
            model.layers.register_hook("2", _Doubles())
            assert torch.equal(model(ONE), plain * 2 + 1)

    def test_disabled_inside(self, model: HookedModel) -> None:
        """A controller of a scope is switched like any other."""
        plain, hook = model(ONE), _Doubles()
        with model.steer("2", hook):
            hook.disable()
            assert torch.equal(model(ONE), plain)
            hook.enable()
            assert torch.equal(model(ONE), plain * 2)

    @pytest.mark.parametrize("given", [None, 3, ONE], ids=["none", "number", "tensor"])
    def test_no_change(self, model: HookedModel, given: Any) -> None:
        """What is neither function nor controller is refused."""
        with pytest.raises(TypeError, match="neither a function of a tensor nor a Controller"):
            model.steer("2", given)

    def test_type_of_a_controller(self, model: HookedModel) -> None:
        """A controller has its type; another is refused."""
        with pytest.raises(ValueError, match="has its own hook_type; leave"):
            model.steer("2", _Doubles(), hook_type="backward")


class TestHooks:
    def test_pairs(self, model: HookedModel) -> None:
        """Each hook runs at its layer, in order, for the length of the scope."""
        plain = model(ONE)
        before, after = _Sees(), _Sees()
        with model.hooks(("2", before), ("2", _Doubles()), ("2", after), ("0.0", _Sees())):
            out = model(ONE)
        model(ONE)

        assert torch.equal(out, plain * 2)
        assert torch.equal(before.calls[0], plain)
        assert torch.equal(after.calls[0], plain * 2)
        assert (len(before.calls), len(after.calls)) == (1, 1)

    def test_knows_layer_and_context(self, model: HookedModel) -> None:
        """A hook of a scope knows where it stands, and is in no registry."""
        hook = _Sees()
        with model.hooks(("layer_0", hook)):
            assert hook.layer_signature == "0"
            assert hook.context is model.context
            assert hook.id not in model.layers
            assert len(model.layers) == 0
            model(ONE)

    @pytest.mark.parametrize("hook_type", ["forward", "pre_forward", "backward"])
    @pytest.mark.parametrize("muted", [False, True])
    def test_knows_which_of_several_layers(
        self, model: HookedModel, hook_type: str, muted: bool
    ) -> None:
        """A hook on several layers says at each call which one it is at, in nested scopes too."""

        class SaysWhere(Detector, Controller):
            def __init__(self) -> None:
                super().__init__(hook_type=hook_type)
                self.layers: list[Any] = []

            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                self.layers.append(self.layer_signature)

            def modify_activations(self, *given: Any) -> None:
                self.layers.append(self.layer_signature)

        hook = SaysWhere()
        with model.hooks(("2", hook), ("*.0", hook)), model.hooks(("1.1", hook)):
            if muted:
                with model.without_controllers():
                    model(ONE).sum().backward()
            else:
                model(ONE).sum().backward()
        order = ["0.0", "1.0", "1.1", "2"]
        each = order[::-1] if hook_type == "backward" else order
        assert hook.layers == [name for name in each for _ in range(1 if muted else 2)]

    def test_context_ends_with_the_scope(self, model: HookedModel) -> None:
        """A hook that stands nowhere has no context, so it keeps no model."""
        hook = _Sees()
        with model.hooks(("layer_0", hook)):
            model(ONE)
        assert hook.context is None

    def test_registered_hook(self, model: HookedModel) -> None:
        """A hook that is registered would run twice, so it is refused."""
        hook = _Sees()
        model.layers.register_hook(0, hook)
        with pytest.raises(ValueError, match="registered already, so it runs anyway"):
            model.hooks((0, hook))

    def test_no_hook(self, model: HookedModel) -> None:
        """A pair of a layer and something else is refused."""
        with pytest.raises(TypeError, match="is not a pair of a layer and a Hook"):
            model.hooks((0, print))  # type: ignore[arg-type]

    def test_of_neither_kind(self, model: HookedModel) -> None:
        """A hook that neither detects nor controls is refused, and the others stay free."""

        class Neither(Hook):
            pass

        hook = _Sees()
        with (
            pytest.raises(TypeError, match="neither a Detector nor a Controller"),
            model.hooks(("0", hook), ("2", Neither())),
        ):
            pass
        assert hook.context is None
        model.layers.register_hook("0", hook)

    def test_two_scopes(self, model: HookedModel) -> None:
        """One hook in two scopes runs in both."""
        hook = _Sees()
        with model.hooks(("2", hook)), model.hooks(("0", hook)):
            model(ONE)
        assert len(hook.calls) == 2


class TestLifetime:
    def test_closes_after_an_exception(self, model: HookedModel) -> None:
        """A scope ends with the error that leaves it."""
        with pytest.raises(KeyError), model.capture("*"), model.steer("2", torch.neg):
            raise KeyError
        tenterhook.assert_clean(model)

    def test_is_opened_once(self, model: HookedModel) -> None:
        """A scope that is open is not opened again; one that was closed may be."""
        scope = model.capture("2")
        with scope as first:
            with pytest.raises(RuntimeError, match="open already"):
                scope.__enter__()
            model(ONE)
        with scope as second:
            model(ONE)
        assert (len(first["2"]), len(second["2"])) == (1, 1)
        scope.close()
        tenterhook.assert_clean(model)

    def test_closed_out_of_order(self, model: HookedModel) -> None:
        """Scopes that overlap without nesting each see their own calls."""
        one, other = model.capture("2"), model.capture("2")
        first = one.__enter__()
        second = other.__enter__()
        model(ONE)
        one.__exit__(None, None, None)
        model(ONE)
        other.__exit__(None, None, None)
        model(ONE)

        assert (len(first["2"]), len(second["2"])) == (1, 2)
        tenterhook.assert_clean(model)

    def test_decorates(self, model: HookedModel) -> None:
        """A scope decorates functions, each call in a scope of its own."""
        plain = model(ONE)

        @model.steer("2", lambda t: t + 1)
        def run(depth: int) -> list[Tensor]:
            """Run."""
            return [model(ONE), *(run(depth - 1) if depth else [])]

        one, other = run(1)
        assert torch.equal(one, plain + 1)
        assert torch.equal(other, plain + 1 + 1)
        assert (run.__name__, run.__doc__) == ("run", "Run.")
        assert torch.equal(model(ONE), plain)

    def test_decorates_coroutines(self, model: HookedModel) -> None:
        """And coroutine functions, for as long as they run."""
        plain = model(ONE)

        @model.steer("2", lambda t: t + 1)
        async def run() -> Tensor:
            await asyncio.sleep(0)
            out: Tensor = model(ONE)
            return out

        async def main() -> Any:
            return await asyncio.gather(run(), run())

        assert all(torch.equal(out, plain + 1) for out in asyncio.run(main()))

    def test_decorates_objects_that_give_coroutines(self, model: HookedModel) -> None:
        """Objects with an `async def __call__`, too: the scope stays until they are done."""

        class Runs:
            async def __call__(self) -> Tensor:
                await asyncio.sleep(0)
                out: Tensor = model(ONE)
                return out

        plain, scope = model(ONE), model.steer("2", lambda t: t + 1)
        assert torch.equal(asyncio.run(scope(Runs())()), plain + 1)
        with scope:
            assert torch.equal(asyncio.run(tenterhook.carry(Runs())()), plain + 1)

    def test_decorates_no_generators(self, model: HookedModel) -> None:
        """What hands over to its caller in the middle is refused, in whatever it is wrapped."""

        def numbers() -> Iterator[int]:
            yield 1

        async def later() -> AsyncIterator[int]:
            yield 1

        class Runs:
            def __call__(self) -> Iterator[int]:
                yield 1

        for function in (numbers, later, functools.partial(numbers), Runs()):
            with pytest.raises(TypeError, match=r"is a generator function.*Open the scope inside"):
                model.steer("2", torch.neg)(function)


class TestWhoSees:
    def test_not_another_thread(self, model: HookedModel) -> None:
        """A thread does not see the scope of the one that started it."""
        plain = model(ONE)
        with concurrent.futures.ThreadPoolExecutor(1) as pool, model.capture("2") as captured:
            with model.steer("2", torch.neg, missing="ignore"):
                out = pool.submit(model, ONE).result()
            model(ONE)
        assert torch.equal(out, plain)
        assert len(captured["2"]) == 1

    def test_not_a_child_task(self, model: HookedModel) -> None:
        """A task does not see the scope of the one that started it, nor a thread of its."""
        plain = model(ONE)

        async def child() -> Any:
            return model(ONE)

        async def main() -> list[Any]:
            with model.steer("2", lambda t: t + 1):
                mine = model(ONE)
                task = await asyncio.create_task(child())
                thread = await asyncio.to_thread(model, ONE)
                awaited = await child()
            return [mine, task, thread, awaited]

        mine, task, thread, awaited = asyncio.run(main())
        assert torch.equal(mine, plain + 1)
        assert torch.equal(awaited, plain + 1)
        assert torch.equal(task, plain)
        assert torch.equal(thread, plain)

    def test_not_the_loop_inside(self, model: HookedModel) -> None:
        """A scope opened outside a loop is not the loop's tasks'."""
        plain = model(ONE)

        async def main() -> Any:
            return model(ONE)

        with model.steer("2", torch.neg, missing="ignore"):
            assert torch.equal(asyncio.run(main()), plain)

    def test_closed_by_another_thread(self, model: HookedModel) -> None:
        """Whoever closes a scope, it is over for the one that opened it."""
        plain = model(ONE)
        scope = model.steer("2", torch.neg)
        scope.__enter__()
        assert torch.equal(model(ONE), -plain)

        thread = threading.Thread(target=scope.close)
        thread.start()
        thread.join()

        assert torch.equal(model(ONE), plain)
        tenterhook.assert_clean(model)

    def test_two_models(self, model: HookedModel) -> None:
        """A scope of one model is not another's."""
        other = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        with model.capture("2") as captured, other.steer(0, torch.neg) as _:
            other(ONE)
            model(ONE)
        assert len(captured["2"]) == 1


class TestSilence:
    """What was asked for and did not happen is said once, by name."""

    def test_layer_that_never_ran(self, model: HookedModel) -> None:
        """A capture in which nothing ran warns; it names the layers and how it may come."""
        with (
            pytest.warns(HookWarning, match=r"Nothing was captured at '0', '2': .*carry") as said,
            model.capture("0", "2"),
        ):
            pass
        assert len(said) == 1

    def test_hook_that_never_ran(self, model: HookedModel) -> None:
        """So does a hook that never ran."""
        with (
            pytest.warns(HookWarning, match="A hook never ran at '2'"),
            model.steer("2", torch.neg),
        ):
            pass
        with (
            pytest.warns(HookWarning, match="A hook never ran at '0'"),
            model.hooks(("0", _Sees())),
        ):
            pass

    def test_no_tensor(self) -> None:
        """A layer that returned no tensor is named with what it returned."""
        model = tenterhook.attach(nn.Sequential(_Text()))
        with (
            pytest.warns(HookWarning, match="Layer '0' returned str, which holds no tensor"),
            model.capture(0),
        ):
            model(ONE)

    def test_as_an_error(self, model: HookedModel) -> None:
        """On request it is an error."""
        for scope in (
            model.capture("2", missing="raise"),
            model.steer("2", torch.neg, missing="raise"),
        ):
            with pytest.raises(NeverFired, match="at '2'"), scope:
                pass
        tenterhook.assert_clean(model)

    def test_ignored(self, model: HookedModel) -> None:
        """On request nothing is said; and never beside an error that is on its way."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with model.capture("2", missing="ignore"):
                pass
            with pytest.raises(KeyError), model.capture("2", missing="raise"):
                raise KeyError

    def test_muted_hook(self, model: HookedModel) -> None:
        """A detector that ran while controllers were off has run."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hook = _Sees()
            with model.hooks(("2", hook)), model.without_controllers():
                model(ONE)
        assert len(hook.calls) == 1

    def test_unknown_way(self, model: HookedModel) -> None:
        """`missing` is one of three."""
        with pytest.raises(
            ValueError, match="missing='no' is not one of 'warn', 'raise', 'ignore'"
        ):
            model.capture("2", missing="no")  # type: ignore[arg-type]


def test_without_controllers(model: HookedModel) -> None:
    """Controllers are off, detectors on, for this thread alone, and come back."""
    plain, sees = model(ONE), _Sees()
    model.layers.register_hook("2", _Doubles())
    model.layers.register_hook("0", sees)

    with model.without_controllers():
        inside = model(ONE)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            other = pool.submit(model, ONE).result()

    assert torch.equal(inside, plain)
    assert torch.equal(other, plain * 2)
    assert torch.equal(model(ONE), plain * 2)
    assert len(sees.calls) == 3
    assert all(hook.enabled for hook in model.layers)


def test_controllers_that_come_while_they_are_off(model: HookedModel) -> None:
    """A controller that is registered meanwhile is off too, where none stood before."""
    plain = model(ONE)
    with model.without_controllers():
        model.layers.register_hook("2", _Doubles())
        with model.without_controllers():
            assert torch.equal(model(ONE), plain)
        assert torch.equal(model(ONE), plain)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(model, ONE).result(), plain * 2)
    assert torch.equal(model(ONE), plain * 2)
    model.layers.clear()
    tenterhook.assert_clean(model)


class TestMistakes:
    """What is easily got wrong says what is meant."""

    def test_before_it_is_opened(self, model: HookedModel) -> None:
        """A capture that was not opened has no results, and says how to open it."""
        capture = model.capture("0")
        with pytest.raises(AttributeError, match="before it is opened"):
            capture.last("0")
        with pytest.raises(TypeError, match="Open the capture first"):
            capture["0"]

    @pytest.mark.parametrize("settings", [{"dtype": "float17"}, {"device": "gpu!"}], ids=str)
    def test_no_such_dtype_or_device(self, model: HookedModel, settings: Any) -> None:
        """A dtype or device that is not there is refused when the capture is made."""
        with pytest.raises(ValueError, match="is not a d"):
            model.capture("0", **settings)

    def test_dtype_by_name(self, model: HookedModel) -> None:
        """A dtype may be given by its name, as on the command line."""
        with model.capture("0", dtype="float16", device="cpu") as captured:
            model(ONE)
        assert captured.last("0").dtype is torch.float16

    def test_the_module_itself(self, model: HookedModel) -> None:
        """A submodule is a layer; one of another model is none."""
        with model.capture(model.module.get_submodule("0")) as captured:
            model(ONE)
        assert list(captured) == ["0"]
        with pytest.raises(ValueError, match="This module is not in the model"):
            model.capture(nn.Linear(2, 2))

    def test_no_layer_at_all(self, model: HookedModel) -> None:
        """What is no layer says what one is."""
        with pytest.raises(ValueError, match="A layer is a name, an index or a pattern"):
            model.capture(None)  # type: ignore[arg-type]
