"""The object that a user attaches to a module, what it shares, and that nothing is left."""

import asyncio
import copy
import gc
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, NotClean
from tenterhook.hooks import Detector


class _Sees(Detector):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.calls = 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls += 1


class _Takes(nn.Module):
    """Takes inputs of all kinds and returns them."""

    def forward(self, x: Tensor, *rest: Any, flag: bool = False, **more: Any) -> Any:
        return x, rest, flag, more


@pytest.fixture
def module() -> nn.Module:
    """Two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


ONE = torch.ones(1, 2)


class TestAttach:
    def test_twice_is_once(self, module: nn.Module) -> None:
        """Attaching again gives the same object, also to what was attached."""
        model = tenterhook.attach(module)

        assert tenterhook.attach(module) is model
        assert tenterhook.attach(model) is model
        assert isinstance(model, HookedModel)

    def test_carries(self, module: nn.Module) -> None:
        """It has the layers, the context and the scopes."""
        model = tenterhook.attach(module)

        assert isinstance(model.layers, tenterhook.HookRegistry)
        assert isinstance(model.context, tenterhook.HookContext)
        assert model.layers.context is model.context
        assert model.module is model.context.model is module
        assert all(callable(part) for part in (model.capture, model.steer, model.hooks))

    def test_runs_the_module(self) -> None:
        """Calling it calls the module, with whatever it is given."""
        model = tenterhook.attach(_Takes())

        assert model(ONE, 2, flag=True, other=3) == (ONE, (2,), True, {"other": 3})

    def test_module_is_called_directly(self, module: nn.Module) -> None:
        """The module itself works as before, hooks included."""
        plain = module(ONE)
        model, hook = tenterhook.attach(module), _Sees()
        model.layers.register_hook(0, hook)

        assert torch.equal(module(ONE), plain)
        assert torch.equal(model(ONE), plain)
        assert hook.calls == 2

    def test_leaves_the_module_alone(self, module: nn.Module) -> None:
        """Attaching and asking change nothing about the module."""
        before = {name: list(vars(part)) for name, part in module.named_modules()}
        text, mode = repr(module), module.training

        model = tenterhook.attach(module)
        model.layers.list_layers()
        repr(model), repr(model.context), repr(model.layers)

        assert {name: list(vars(part)) for name, part in module.named_modules()} == before
        assert (repr(module), module.training) == (text, mode)

    @pytest.mark.parametrize("given", [None, "gpt2", print, {}], ids=repr)
    def test_only_modules(self, given: Any) -> None:
        """Only a module can be attached to."""
        with pytest.raises(TypeError, match=f"takes an nn.Module, not {type(given).__name__}"):
            tenterhook.attach(given)

    def test_settings_of_an_attached_module(self, module: nn.Module) -> None:
        """Settings for what is attached already are refused, not dropped."""
        model = tenterhook.attach(module, model_id="mine")
        assert model.context.model_id == "mine"
        with pytest.raises(ValueError, match="attached already; set store on its context"):
            tenterhook.attach(module, store=object())

    def test_a_part_of_an_attached_module(self, module: nn.Module) -> None:
        """A module inside is attached to by itself; both hooks run, each knows its own."""
        whole, part = tenterhook.attach(module), tenterhook.attach(module.get_submodule("0"))
        one, other = _Sees(), _Sees()
        whole.layers.register_hook(0, one)
        part.layers.register_hook("output", other)

        module(ONE)

        assert (one.calls, other.calls) == (1, 1)
        assert (list(whole.layers), list(part.layers)) == ([one], [other])
        assert whole.layers.clear() == 1
        module(ONE)
        assert (one.calls, other.calls) == (1, 2)

    def test_from_many_threads(self, module: nn.Module) -> None:
        """Threads that attach at once get one object."""
        found: list[HookedModel] = []
        barrier = threading.Barrier(8)

        def work() -> None:
            barrier.wait()
            found.append(tenterhook.attach(module))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1

    def test_module_without_parameters(self) -> None:
        """A module of nothing can be attached to and run."""
        model = tenterhook.attach(nn.Identity())
        hook = _Sees()
        model.layers.register_hook("", hook)

        assert model.layers.list_layers() == []
        assert model(ONE) is ONE
        assert hook.calls == 1


class TestContext:
    def test_defaults(self, module: nn.Module) -> None:
        """Without settings the context has what the module says."""
        context = tenterhook.attach(module).context

        assert context.model is module
        assert context.model_id == "Sequential"
        assert (context.tokenizer, context.store) == (None, None)
        assert context.device == torch.device("cpu")
        assert context.dtype == torch.float32
        assert context.special_token_ids == set()

    def test_settings(self, module: nn.Module) -> None:
        """What was given is there, and can be set later."""
        tokenizer, store = type("Tok", (), {"all_special_ids": [0, 2]})(), object()
        model = tenterhook.attach(module, model_id="x", tokenizer=tokenizer, store=store)

        assert model.context.tokenizer is tokenizer
        assert model.context.store is store
        assert model.context.special_token_ids == {0, 2}
        model.context.special_token_ids = {7}
        assert model.context.special_token_ids == {7}
        model.context.special_token_ids = None
        assert model.context.special_token_ids == {0, 2}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_follows_the_model(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Device and dtype are the model's at this moment."""
        context = tenterhook.attach(module).context

        module.to(dtype)
        assert context.dtype == dtype
        module.to("meta")
        assert context.device.type == "meta"

    @pytest.mark.parametrize(
        ("inner", "dtype"),
        [(nn.Identity(), torch.float32), (nn.BatchNorm1d(1, affine=False).half(), torch.float16)],
        ids=["nothing", "buffers"],
    )
    def test_without_parameters(self, inner: nn.Module, dtype: torch.dtype) -> None:
        """A module without parameters has its buffers' dtype, else the default."""
        context = tenterhook.attach(inner).context

        assert (context.device.type, context.dtype) == ("cpu", dtype)

    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
    def test_offloaded(self, device: Any) -> None:
        """Weights that are elsewhere between calls are on the device that calls run on."""
        net = nn.Sequential(nn.Linear(2, 2, device="meta"))
        context = tenterhook.attach(net).context
        assert context.device == torch.device("meta")
        net[0]._hf_hook = SimpleNamespace(execution_device=device)  # type: ignore[assignment]
        assert context.device == torch.device("cpu")

    def test_shared_by_hooks(self, module: nn.Module) -> None:
        """Each registered hook has the model's context."""
        model = tenterhook.attach(module)
        hooks = [_Sees(), _Sees()]
        for at, hook in enumerate(hooks):
            model.layers.register_hook(at, hook)

        assert all(hook.context is model.context for hook in hooks)


class TestAssertClean:
    def test_clean(self, module: nn.Module) -> None:
        """A module that we never touched is clean, as is one that we left."""
        tenterhook.assert_clean(module)
        model, hook = tenterhook.attach(module), _Sees()
        tenterhook.assert_clean(module)
        model.layers.register_hook(0, hook)
        model.layers.unregister_hook(hook)
        with model.capture(0):
            module(ONE)
        tenterhook.assert_clean(module)
        tenterhook.assert_clean(model)

    @pytest.mark.parametrize("enabled", [True, False])
    @pytest.mark.parametrize("layer", [0, ""])
    def test_registered(self, module: nn.Module, layer: Any, enabled: bool) -> None:
        """A registered hook is named with its place, enabled or not."""
        model, hook = tenterhook.attach(module), _Sees(hook_id="left")
        model.layers.register_hook(layer, hook)
        if not enabled:
            hook.disable()
        place = "'0'" if layer == 0 else "'the model'"

        with pytest.raises(NotClean, match=rf"_Sees\(id='left'.* at {place}.*layers.clear"):
            tenterhook.assert_clean(module)
        with pytest.raises(RuntimeError):
            tenterhook.assert_clean(model)

    def test_open_scope(self, module: nn.Module) -> None:
        """A scope that is open is named, also from another thread."""
        model, caught = tenterhook.attach(module), []

        def work() -> None:
            with pytest.raises(NotClean, match=r"1 open scope\(s\) at '1'"):
                tenterhook.assert_clean(module)
            caught.append(1)

        with model.capture(1):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            module(ONE)
        assert caught == [1]

    @pytest.mark.parametrize("kept", [True, False])
    @pytest.mark.parametrize("of_task", [True, False])
    def test_scope_of_one_who_has_ended(self, module: nn.Module, of_task: bool, kept: bool) -> None:
        """What a thread or task left open is told apart, with the way to end it."""
        model = tenterhook.attach(module)
        scopes = [model.steer("0", torch.neg, missing="ignore")]

        async def left() -> None:
            scopes[0].__enter__()

        run = (lambda: asyncio.run(left())) if of_task else scopes[0].__enter__
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        told = (
            r"2 open scope\(s\), 1 of them left by threads or tasks that ended "
            r"\(close\(\) ends one; a deepcopy has none\), at '0'"
        )
        if not kept:
            scopes.clear()
        with model.capture("0", missing="ignore"), pytest.raises(NotClean, match=told):
            tenterhook.assert_clean(module)
        if kept:
            scopes[0].close()
            tenterhook.assert_clean(module)
        tenterhook.assert_clean(copy.deepcopy(module))

    def test_foreign_hooks_are_none_of_ours(self, module: nn.Module) -> None:
        """Other people's torch hooks are no reason to raise."""
        module.register_forward_hook(lambda *_: None)
        tenterhook.assert_clean(module)


def test_ten_thousand_scopes(module: nn.Module) -> None:
    """Opening and closing scopes leaves neither torch hooks nor objects behind."""
    model = tenterhook.attach(module)

    def turn() -> None:
        with model.capture(0, missing="ignore"), model.steer(1, torch.neg, missing="ignore"):
            pass

    for _ in range(50):
        turn()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(5000):
        turn()
    gc.collect()

    assert len(gc.get_objects()) - before < 100
    assert all(len(m._forward_hooks) == 0 for m in module.modules())
    tenterhook.assert_clean(module)


class TestSharing:
    """One model, many threads or tasks, each with scopes and inputs of its own."""

    def one(self, model: HookedModel, number: int) -> bool:
        """Capture and steer with numbers of one's own; say whether all is right."""
        x = torch.full((1, 2), float(number))
        factor = number % 7 + 2
        with model.capture("0", "1") as captured:
            with model.steer("0", lambda t: t * factor):
                out = model(x)
            plain = model(x)
        first, second = model.module.children()
        return (
            len(captured["0"]) == len(captured["1"]) == 2
            and torch.equal(captured["0"][0], first.forward(x))
            and torch.equal(captured["0"][1], first.forward(x))
            and torch.equal(captured["1"][0], out)
            and torch.equal(captured["1"][1], plain)
            and torch.equal(out, second.forward(first.forward(x) * factor))
            and torch.equal(plain, second.forward(first.forward(x)))
        )

    def test_threads(self, module: nn.Module) -> None:
        """8 threads, 100 captures and edits each: none wrong, none failed."""
        model = tenterhook.attach(module)
        wrong: list[Any] = []

        def work(thread: int) -> None:
            try:
                wrong.extend(n for n in range(100) if not self.one(model, thread * 100 + n))
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        tenterhook.assert_clean(model)

    def test_tasks(self, module: nn.Module) -> None:
        """100 tasks that take turns inside their scopes: none wrong."""
        model = tenterhook.attach(module)

        async def work(number: int) -> bool:
            right = True
            for turn in range(8):
                x = torch.full((1, 2), float(number * 8 + turn))
                with model.capture("0") as captured, model.steer("1", lambda t: t + number):
                    await asyncio.sleep(0)
                    out = model(x)
                    await asyncio.sleep(0)
                    again = model(x)
                    await asyncio.sleep(0)
                plain = model(x)
                right &= len(captured["0"]) == 2
                right &= torch.equal(captured["0"][0], module.get_submodule("0")(x))
                right &= torch.equal(out, plain + number) and torch.equal(again, out)
            return right

        async def main() -> list[bool]:
            return await asyncio.gather(*(work(n) for n in range(100)))

        assert all(asyncio.run(main()))
        tenterhook.assert_clean(model)
