"""A spec from a stranger: what it may ask for, and that nothing is made for what it may not."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tenterhook
from tenterhook import HookedModel, assert_clean
from tenterhook.errors import HookWarning
from tenterhook.hooks import AddVector, Controller, FunctionController, LayerActivationDetector
from tenterhook.plugins import UnknownExtension, default_manager
from tenterhook_specs import BadSpec, HookSpec, ModelSpec
from tenterhook_specs.request_scope import MOST_HOOKS

WIDTH = 4
ALLOWED = {"AddVector", "LayerActivationDetector", "ModelInputDetector", "TopKSae"}


class Block(nn.Module):
    """A block as transformers have it: a norm, an MLP, and what comes in added again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.act, self.down = nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the MLP makes."""
        added: Tensor = self.down(self.act(self.up(self.norm(x))))
        return x + added


@pytest.fixture
def model() -> Iterator[HookedModel]:
    """Return a model of a block and a head, on which nothing may stay."""
    hooked = tenterhook.attach(nn.Sequential(Block(), nn.Linear(WIDTH, 7)))
    yield hooked
    assert_clean(hooked)


def add(values: Any, layer: Any = "0", **more: Any) -> dict[str, Any]:
    """Return a hook that adds a vector, as plain values."""
    return {"hook": "AddVector", "layer": layer, "parameters": {"vector": values}, **more}


def sae(n_latents: int, n_inputs: int = WIDTH, **more: Any) -> dict[str, Any]:
    """Return a sparse autoencoder, as plain values."""
    parameters = {"n_latents": n_latents, "n_inputs": n_inputs, "k": 1}
    return {"hook": "TopKSae", "layer": "0", "parameters": parameters, **more}


X = torch.ones(1, 3, WIDTH)


class TestScope:
    def test_the_hooks_run_while_it_is_open(self, model: HookedModel) -> None:
        """In the order of the spec, and what they keep is in `scope.hooks`."""
        with torch.no_grad():
            plain = model.module[0](X)  # type: ignore[index]
            spec = {"hooks": [add([1, 0, 0, 0]), {"hook": "LayerActivationDetector", "layer": 0}]}

            with model.scoped(spec, hooks=ALLOWED) as scope:
                model(X)
            model(X)

        added, kept = scope.hooks
        assert isinstance(added, AddVector)
        assert isinstance(kept, LayerActivationDetector)
        torch.testing.assert_close(kept.get_captured(), plain + torch.tensor([1.0, 0, 0, 0]))
        assert len(model.layers) == 0

    def test_selections(self, model: HookedModel) -> None:
        """Each hook has the selection that its own entry says."""
        spec = {
            "hooks": [
                add([1, 0, 0, 0], selection={"tokens": "last"}),
                {"hook": "LayerActivationDetector", "layer": 0, "selection": {"tokens": 0}},
            ]
        }
        with torch.no_grad():
            plain = model.module[0](X)  # type: ignore[index]
            with model.scoped(spec, hooks=ALLOWED) as scope, model.capture("0") as captured:
                model(X)
        kept = scope.hooks[1]
        assert isinstance(kept, LayerActivationDetector)
        torch.testing.assert_close(kept.get_captured(), plain[:, 0])
        expected = plain.clone()
        expected[:, -1, 0] += 1
        torch.testing.assert_close(captured.last("0"), expected)

    def test_wrong_selection(self, model: HookedModel) -> None:
        """A selection that makes no sense is a mistake, told with the others."""
        hook = add([1, 0, 0, 0], selection={"every": 0}, priority=1)
        with pytest.raises(BadSpec, match=r"\[0\]\.priority.*\[0\]\.selection: every=0 is not a"):
            model.scoped({"hooks": [hook]}, hooks=ALLOWED)

    @pytest.mark.parametrize(
        "spec",
        [
            HookSpec(hook="AddVector", layer="0", parameters={"vector": torch.ones(WIDTH)}),
            ModelSpec(hooks=(HookSpec(**add([1.0, 1, 1, 1])),)),
            {"hooks": [add({"dtype": "bfloat16", "shape": [4], "values": [1, 1, 1, 1]})]},
        ],
        ids=["a hook", "a model's", "plain values"],
    )
    def test_what_it_takes(self, model: HookedModel, spec: Any) -> None:
        """What a program made, too, with its tensors."""
        with model.scoped(spec, hooks=ALLOWED, missing="ignore") as scope:
            pass

        (hook,) = scope.hooks
        assert isinstance(hook, AddVector)
        assert hook.vector.tolist() == [1, 1, 1, 1]

    def test_what_a_spec_may_say_of_a_hook(self, model: HookedModel) -> None:
        """When it runs, what it is called, whether it is on; and of an edit, which features."""
        spec = add([1, 0, 0, 0], type="pre_forward", id="mine", enabled=False)
        spec["parameters"] |= {"features": "1:", "coefficient": 3}

        with model.scoped({"hooks": [spec]}, hooks=ALLOWED) as scope:
            model(X)

        (hook,) = scope.hooks
        assert isinstance(hook, AddVector)
        assert (hook.hook_type, hook.id, hook.enabled) == ("pre_forward", "mine", False)
        assert (hook.features, hook.coefficient) == ("1:", 3.0)

    def test_a_type_that_the_class_does_not_take(self, model: HookedModel) -> None:
        """It is set all the same, as `apply` does."""
        spec = {"hook": "LayerActivationDetector", "layer": "1", "type": "pre_forward"}

        with torch.no_grad(), model.scoped({"hooks": [spec]}, hooks=ALLOWED) as scope:
            model(X)

        (kept,) = scope.hooks
        assert isinstance(kept, LayerActivationDetector)
        torch.testing.assert_close(kept.get_captured(), model.module[0](X))  # type: ignore[index]

    def test_another_thread_does_not_see_it(self, model: HookedModel) -> None:
        """Requests do not change each other."""
        outputs = []
        with torch.no_grad(), model.scoped({"hooks": [add([9, 9, 9, 9])]}, hooks=ALLOWED):
            thread = threading.Thread(target=lambda: outputs.append(model(X)))
            thread.start()
            thread.join()
            changed = model(X)

        assert torch.equal(outputs[0], model(X))
        assert not torch.equal(outputs[0], changed)

    def test_it_ends_with_an_exception(self, model: HookedModel) -> None:
        """Whatever ends the request."""
        with pytest.raises(KeyError), model.scoped({"hooks": [add([1, 1, 1, 1])]}, hooks=ALLOWED):
            raise KeyError

        assert_clean(model)

    def test_a_hook_that_never_ran_is_reported(self, model: HookedModel) -> None:
        """As of every scope."""
        with (
            pytest.warns(HookWarning, match="A hook never ran at '0'"),
            model.scoped({"hooks": [add([1, 1, 1, 1])]}, hooks=ALLOWED),
        ):
            pass


PARAMETERS = "hooks[0].parameters"
MISTAKES: dict[str, tuple[Any, str]] = {
    "no such hook": (
        {"hooks": [add([1]) | {"hook": "AdVector"}]},
        "hooks[0].hook: 'AdVector' is not allowed here, but AddVector, LayerActivationDetector, "
        "ModelInputDetector, TopKSae; did you mean 'AddVector'?",
    ),
    "a hook that is installed": (
        {"hooks": [{"hook": "Scale", "layer": "0", "parameters": {"factor": 1}}]},
        "hooks[0].hook: 'Scale' is not allowed here",
    ),
    "an import path": (
        {"hooks": [add([1]) | {"hook": "tenterhook_edits.controllers:AddVector"}]},
        "hooks[0].hook: 'tenterhook_edits.controllers:AddVector' is not allowed here",
    ),
    "permanent": ({"hooks": [add([1], permanent=True)]}, "hooks[0].permanent: the hook ends with"),
    "priority": ({"hooks": [add([1], priority=-1)]}, "hooks[0].priority: hooks run in the order"),
    "mix": ({"hooks": [add([1], mix="in_order")]}, "hooks[0].mix: hooks run in the order"),
    "on_error": ({"on_error": "disable"}, "on_error: it is the model's, for all its hooks"),
    "no such layer": ({"hooks": [add([1], layer="2")]}, "hooks[0].layer: No layer '2'"),
    "a pattern": ({"hooks": [add([1], layer="*")]}, "hooks[0].layer: No layer '*'"),
    "the other side": ({"hooks": [add([1, 1, 1, 1], layer="input")]},
        "hooks[0].layer: A forward hook does not run at 'input'"),
    "another width": (
        {"hooks": [add([1, 2, 3])]},
        f"{PARAMETERS}: they are for 3 features, and the output of layer '0' has none of that many",
    ),
    "another width of one module": (
        {"hooks": [add([1, 2, 3, 4], layer="1")]},
        f"{PARAMETERS}: they are for 4 features, and the output of layer '1' has 7",
    ),
    "another width before it": (
        {"hooks": [add([1] * 7, layer="1", type="pre_forward")]},
        f"{PARAMETERS}: they are for 7 features, and the input of layer '1' has 4",
    ),
    "NaN": (
        {"hooks": [add([0, math.nan])]},
        f"{PARAMETERS}.vector[1]: nan is not a finite number",
    ),
    "infinity": (
        {"hooks": [add([1, 1, 1, 1]) | {"parameters": {"coefficient": -math.inf}}]},
        f"{PARAMETERS}.coefficient: -inf is not a finite number",
    ),
    "infinite in its dtype": (
        {"hooks": [add([1e300, 1, 1, 1])]},
        f"{PARAMETERS}.vector: not all numbers are finite in torch.float32",
    ),
    "a huge number": (
        {"hooks": [add([10**5000])]},
        f"{PARAMETERS}.vector[0]: a whole number beyond 64 bits",
    ),
    "a huge text": (
        {"hooks": [add([1], layer="x" * 2000)]},
        "hooks[0].layer: a text of 2,000 characters, and 1,000 at most",
    ),
    "a huge key": ({"x" * 2000: 1}, "the spec has a key of 2,000 characters"),
    "a key that is no text": ({"hooks": [{1: 2}]}, "hooks[0] has the key 1, and keys are text"),
    "hooks as a table": ({"hooks": {}}, "hooks: expected a list, not dict {}"),
    "hooks as text": ({"hooks": ""}, "hooks: expected a list, not str ''"),
    "hooks as nothing": ({"hooks": None}, "hooks: expected a list, not NoneType None"),
    "parameters as a list": (
        {"hooks": [{"hook": "TopKSae", "layer": "0", "parameters": [1]}]},
        "hooks[0].parameters: expected a table, not list [1]",
    ),
    "a list as layer": (
        {"hooks": [add([1], layer=["a"])]},
        "hooks[0].layer: expected str, not list ['a']; or",
    ),
    "bytes": ({"hooks": b"abc"}, "hooks: a bytes is no plain value"),
    "odd dtype": (
        {"hooks": [add({"dtype": "bits8", "shape": [4], "values": [1, 1, 1, 1]})]},
        PARAMETERS,
    ),
    "complex dtype": (
        {"hooks": [add({"dtype": "complex64", "shape": [4], "values": [1, 1, 1, 1]})]},
        f"{PARAMETERS}: TypeError: vector is torch.complex64",
    ),
    "a shape of more than there is": (
        {"hooks": [add({"dtype": "float32", "shape": [10**9], "values": [1]})]},
        f"{PARAMETERS}.vector: shape '[1000000000]' is invalid",
    ),
    "a store": (
        {"hooks": [add([1] * 4) | {"parameters": {"vector": [1] * 4, "store": "x"}}]},
        f"{PARAMETERS}: unknown key 'store'",
    ),
    "too many elements": (
        {"hooks": [sae(2_000_000, 1280)]},
        "hooks[0].parameters: they are for 1,280 features",
    ),
    "too many elements of the right width": (
        {"hooks": [sae(2_000_000)]},
        "hooks[0]: with it the hooks would hold 18,000,004 elements, and 16,777,216 at most",
    ),
    "sizes that cannot be written": (
        {"hooks": [sae(2**62)]},
        "hooks[0]: with it the hooks would hold more than 10**18 elements",
    ),
    "negative sizes": ({"hooks": [sae(-5)]}, "hooks[0].parameters: TopKSae of them would hold -41"),
    "what the class refuses": (
        {"hooks": [sae(-5, -5)]},
        "hooks[0].parameters: they are for -5 features",
    ),
    "what the class refuses when it is made": (
        {"hooks": [sae(5) | {"parameters": {"n_latents": 5, "n_inputs": 4, "k": 6}}]},
        "hooks[0].parameters: BadSetting: k=6",
    ),
    "an id twice": (
        {"hooks": [add([1] * 4, id="a"), add([1] * 4, id="a")]},
        "hooks[1].id: 'a' is taken; give another, or none",
    ),
    "too many hooks": (
        {"hooks": [{"hook": "LayerActivationDetector", "layer": "0"}] * (MOST_HOOKS + 1)},
        "hooks: there are 1,001, and 1,000 at most",
    ),
}  # fmt: skip


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers how large the largest tensor was that torch made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run, and look at what comes out."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@contextmanager
def making_at_most(elements: int) -> Iterator[None]:
    """Fail where torch makes a larger tensor."""
    with Largest() as largest:
        yield
    assert largest.elements <= elements


class TestRefused:
    @pytest.mark.parametrize(("spec", "said"), MISTAKES.values(), ids=MISTAKES.keys())
    def test_a_mistake_is_named_with_its_path(
        self, model: HookedModel, spec: Any, said: str
    ) -> None:
        """And nothing is made but the tensors that the spec itself spells out."""
        with making_at_most(100), pytest.raises(BadSpec) as error:
            model.scoped(spec, hooks=ALLOWED)

        assert said in str(error.value)

    def test_all_mistakes_are_named_at_once(self, model: HookedModel) -> None:
        """Of all hooks."""
        spec = {"hooks": [add([1, 2]), add([1], layer="x"), {"hook": "A", "layer": "y"}]}
        with pytest.raises(BadSpec) as error:
            model.scoped(spec, hooks=ALLOWED)

        assert len(error.value.mistakes) == 4

    def test_hooks_count_together(self, model: HookedModel) -> None:
        """Many small ones are a large one."""
        spec = {"hooks": [add([1, 1, 1, 1])] * 3}
        with model.scoped(spec, hooks=ALLOWED, max_elements=12, missing="ignore"):
            pass
        with pytest.raises(BadSpec, match=r"hooks\[2\]: with it .* 12 elements, and 11 at most"):
            model.scoped(spec, hooks=ALLOWED, max_elements=11)

    def test_more_values_than_elements(self, model: HookedModel) -> None:
        """Before tensors are made of them; also where they would be no tensor."""
        spec = {"hooks": [add([1] * 30_000, features=None)]}
        with making_at_most(0), pytest.raises(BadSpec, match="holds more than 20,010 values"):
            model.scoped(spec, hooks=ALLOWED, max_elements=10)

    @pytest.mark.parametrize(
        "hooks", [[add([1])] * 300_000, [{}] * 300_000, "x" * 1001], ids=["hooks", "tables", "text"]
    )
    def test_too_many_hooks(self, model: HookedModel, hooks: Any) -> None:
        """They are counted before any is looked at: 300,000 took eleven seconds."""
        began = time.monotonic()
        with pytest.raises(BadSpec, match=r"hooks: there are .* and 1,000 at most"):
            model.scoped({"hooks": hooks}, hooks=ALLOWED)
        assert time.monotonic() - began < 5

    def test_many_mistakes(self, model: HookedModel) -> None:
        """After twenty hooks no more are looked at: each unknown layer is compared with all."""
        spec = {"hooks": [add([1], layer=f"x{at}") for at in range(1000)]}
        with pytest.raises(
            BadSpec, match=r"There may be more: the hooks after it were not"
        ) as error:
            model.scoped(spec, hooks=ALLOWED)

        assert len(error.value.mistakes) == 21

    def test_one_large_layer_many_times(self) -> None:
        """Its widths are looked up once: with 1,000 hooks it took a minute."""
        deep = tenterhook.attach(nn.Sequential(*(Block() for _ in range(300))))
        began = time.monotonic()
        with deep.scoped({"hooks": [add([1] * 4, "")] * 1000}, hooks=ALLOWED, missing="ignore"):
            pass
        assert time.monotonic() - began < 10

    def test_an_id_of_a_registered_hook(self, model: HookedModel) -> None:
        """Whoever looks a hook up by its id finds the registered one."""
        model.layers.register_hook("0", LayerActivationDetector("0", "a"))
        with pytest.raises(BadSpec, match=r"hooks\[0\]\.id: 'a' is taken"):
            model.scoped({"hooks": [add([1] * 4, id="a")]}, hooks=ALLOWED)
        model.layers.clear()

    @pytest.mark.parametrize("spec", ["hooks.toml", None, [], 3, b"x", AddVector])
    def test_a_file_is_read_first(self, model: HookedModel, spec: Any) -> None:
        """A stranger's path may name any file."""
        with pytest.raises(TypeError, match=r"Read a file or text of yours first, by read_spec"):
            model.scoped(spec, hooks=ALLOWED)


class Doubled(Controller):
    """A class of a service's own."""

    def __init__(
        self, layer_signature: str, times: int, function: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(layer_signature=layer_signature)
        self.buffer = torch.ones(times)

    @staticmethod
    def elements(parameters: Mapping[str, Any]) -> Any:
        """Return what it holds, in units of its own for some."""
        if parameters["times"] == 13:
            raise LookupError("no 13")
        return 1.5 if parameters["times"] == 7 else parameters["times"]

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Return twice the activation."""
        return None if output is None else 2 * output


class TestAllowed:
    """What the service says, and what is wrong with that is its own mistake."""

    def spec(self, **parameters: Any) -> dict[str, Any]:
        """Return the spec of a hook called `mine`."""
        return {"hooks": [{"hook": "mine", "layer": "0", "parameters": parameters}]}

    @pytest.mark.parametrize(
        ("size", "said"), [(10**5000, "more"), (-(10**5000), "less")], ids=["more", "less"]
    )
    def test_a_size_too_long_to_be_written(self, model: HookedModel, size: int, said: str) -> None:
        """Python writes no number of 5,000 digits."""
        kind = type("Odd", (Doubled,), {"elements": staticmethod(lambda parameters: size)})
        with pytest.raises(BadSpec, match=rf"would hold {said} than -?10\*\*18 el"):
            model.scoped(self.spec(times=1), hooks={"mine": kind})

    def test_a_size_changes_nothing(self, model: HookedModel) -> None:
        """What is made is what was checked."""

        def grow(parameters: dict[str, Any]) -> int:
            parameters["times"] = 10**9
            return 1

        kind = type("Greedy", (Doubled,), {"elements": staticmethod(grow)})
        with model.scoped(self.spec(times=2), hooks={"mine": kind}, missing="ignore") as scope:
            assert scope.hooks[0].buffer.numel() == 2

    @pytest.mark.parametrize("value", [10**12, "abc", [1]])
    def test_bytes_are_no_parameter(self, model: HookedModel, value: Any) -> None:
        """`bytes(10**12)` would be made before anybody looks at its size."""

        class Bytes(Doubled):
            def __init__(self, layer_signature: str, key: bytes = b"") -> None:
                super().__init__(layer_signature, 1)

        with pytest.raises(BadSpec, match=r"parameters\.key: it is bytes, which no spec can say"):
            model.scoped(self.spec(key=value), hooks={"mine": Bytes})

    @pytest.mark.parametrize("value", [1, "text", [{"a": 1}]])
    def test_an_object_is_anything(self, model: HookedModel, value: Any) -> None:
        """As a parameter without annotation is."""

        class Anything(Doubled):
            def __init__(self, layer_signature: str, thing: object) -> None:
                super().__init__(layer_signature, 1)
                self.thing = thing

            @staticmethod
            def elements(parameters: Mapping[str, Any]) -> int:
                return 1

        scope = model.scoped(self.spec(thing=value), hooks={"mine": Anything}, missing="ignore")
        assert vars(scope.hooks[0])["thing"] == value

    def test_a_class_by_a_name(self, model: HookedModel) -> None:
        """No plugin is needed."""
        with model.scoped(self.spec(times=2), hooks={"mine": Doubled}) as scope:
            model(X)

        (hook,) = scope.hooks
        assert type(hook) is Doubled

    def test_code_is_no_parameter(self, model: HookedModel) -> None:
        """It is not imported."""
        with pytest.raises(BadSpec, match="'antigravity:fly' names code, which a spec from a"):
            model.scoped(self.spec(times=2, function="antigravity:fly"), hooks={"mine": Doubled})
        assert "antigravity" not in sys.modules

    def test_a_class_that_cannot_say(self, model: HookedModel) -> None:
        """Its error is the spec's mistake; an answer that is no number is the class's."""
        with pytest.raises(BadSpec, match=r"hooks\[0\]\.parameters: LookupError: no 13"):
            model.scoped(self.spec(times=13), hooks={"mine": Doubled})
        with pytest.raises(TypeError, match=r"Doubled\.elements returned 1\.5, no whole number"):
            model.scoped(self.spec(times=7), hooks={"mine": Doubled})

    @pytest.mark.parametrize(
        ("hooks", "said"),
        [
            ("AddVector", "hooks='AddVector' is no collection of names"),
            (None, "hooks=None is no collection of names"),
            ({"a": 3}, r"hooks\['a'\] is 3, and no class of hooks"),
            ({"a": nn.Linear}, "and no class of hooks"),
            ({"FunctionController"}, "FunctionController does not declare `elements"),
            ({"f": FunctionController}, "f does not declare `elements"),
        ],
    )
    def test_what_no_spec_may_ask_for(self, model: HookedModel, hooks: Any, said: str) -> None:
        """It is refused whatever the spec says."""
        with pytest.raises(TypeError, match=said):
            model.scoped({}, hooks=hooks)

    def test_a_name_that_no_plugin_has(self, model: HookedModel) -> None:
        """With the nearest."""
        with pytest.raises(UnknownExtension, match="Did you mean 'AddVector'"):
            model.scoped({}, hooks={"AddVektor"})

    @pytest.mark.parametrize("most", [-1, 1.5, True, None])
    def test_a_bound_that_is_none(self, model: HookedModel, most: Any) -> None:
        """A mistyped bound would be none."""
        with pytest.raises(TypeError, match="is no whole number of elements"):
            model.scoped({}, hooks=ALLOWED, max_elements=most)


_KINDS = [
    *("TopKSae", "BatchTopKSae", "JumpReLUSae", "L1Sae", "GatedSae", "MatryoshkaBatchTopKSae"),
    *("Transcoder", "SkipTranscoder"),
]


class TestSizes:
    @pytest.mark.parametrize("name", _KINDS)
    def test_an_autoencoder_holds_what_it_says(self, name: str) -> None:
        """Parameters and buffers."""
        kind = default_manager().load("controllers", name)
        sizes = {"n_latents": 11, "n_inputs": 5} | ({"k": 2} if "TopK" in name else {})

        made = kind(**sizes)

        held = [*made.parameters(), *made.buffers()]
        assert kind.elements(sizes) == sum(tensor.numel() for tensor in held)
        assert kind.width(sizes) == 5

    @pytest.mark.parametrize(
        ("name", "parameters", "elements", "width"),
        [
            ("AddVector", {"vector": torch.ones(3)}, 3, 3),
            ("ProjectOut", {"directions": torch.ones(2, 3)}, 6, 3),
            ("MeanAblate", {"mean": torch.ones(4, 3)}, 12, 3),
            ("Patch", {"source": torch.ones(2, 4, 3)}, 24, 3),
            ("Clamp", {"minimum": 1.0}, 0, None),
            ("Scale", {"factor": 1.0}, 0, None),
            ("ZeroAblate", {}, 0, None),
            ("LayerActivationDetector", {}, 0, None),
            ("ModelInputDetector", {}, 0, None),
            ("ModelOutputDetector", {}, 0, None),
        ],
    )
    def test_a_hook_says_its_size(
        self, name: str, parameters: dict[str, Any], elements: int, width: int | None
    ) -> None:
        """The tensors that it is given."""
        manager = default_manager()
        kind = "detectors" if name in manager.extensions("detectors") else "controllers"
        found = manager.load(kind, name)

        assert found.elements(parameters) == elements
        assert getattr(found, "width", lambda parameters: None)(parameters) == width

    @pytest.mark.parametrize(
        ("layer", "side", "width", "fits"),
        [
            (nn.Linear(3, 5), "forward", 5, True),
            (nn.Linear(3, 5), "forward", 3, False),
            (nn.Linear(3, 5), "pre_forward", 3, True),
            (nn.LayerNorm(5), "pre_forward", 3, False),
            (nn.RMSNorm(5), "forward", 5, True),
            (nn.Embedding(9, 5), "forward", 9, False),
            (nn.Identity(), "forward", 9, True),
            (nn.Conv1d(3, 5, 1), "forward", 9, True),
            (nn.BatchNorm2d(5), "forward", 9, True),
            (nn.LSTM(3, 5, bidirectional=True), "forward", 10, True),
            (nn.LazyLinear(5), "forward", 3, False),
            (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), "forward", 5, True),
            (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), "forward", 6, False),
            (nn.Sequential(nn.Linear(3, 5), nn.Conv1d(3, 5, 1)), "forward", 6, True),
            (nn.Sequential(nn.Linear(3, 5), nn.LazyLinear(5)), "forward", 6, True),
            (nn.MultiheadAttention(4, 2), "forward", 4, True),
        ],
        ids=str,
    )
    def test_a_vector_fits_its_layer(
        self, layer: nn.Module, side: str, width: int, fits: bool
    ) -> None:
        """As far as the layer's modules say how wide it is; what is not known fits."""
        hooked = tenterhook.attach(nn.ModuleList([layer]))
        spec = {"hooks": [add([1] * width, type=side)]}
        if fits:
            hooked.scoped(spec, hooks=ALLOWED)
        else:
            with pytest.raises(BadSpec, match=f"they are for {width} features"):
                hooked.scoped(spec, hooks=ALLOWED)


words = st.sampled_from(
    ["AddVector", "TopKSae", "0", "1", "0.up", "output", "input", "forward", "2:5", "float32", "k"]
)
leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | words
    | st.binary(max_size=3)
)
keys = st.sampled_from(
    [
        *["hooks", "on_error", "hook", "layer", "type", "id", "enabled", "permanent", "priority"],
        *["mix", "parameters", "vector", "n_latents", "n_inputs", "k", "dtype", "shape", "values"],
        *["features", "mode", "device", "store", "coefficient", "normalize", "center"],
    ]
)
junk = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.integers(), inner),
    max_leaves=20,
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "vector": st.lists(st.floats() | st.integers(), min_size=3, max_size=4) | junk,
        "coefficient": st.floats() | junk,
        "features": words | st.lists(st.integers(-9, 9), max_size=3) | junk,
        "normalize": st.booleans(),
        "n_latents": st.integers(-3, 2**70),
        "n_inputs": st.just(WIDTH) | st.integers(-3, 2**70),
        "k": st.integers(-1, 3) | junk,
        "device": words | st.sampled_from(["cpu", "meta", "cuda:99", "mps", "x"]),
        "dtype": st.sampled_from(["float32", "int8", "bits8", "complex64", "quint8", "float8_e5m2"])
        | junk,
        "target_dtype": words,
        "special_token_ids": st.lists(leaf, max_size=3),
    },
)
hook = st.fixed_dictionaries(
    {
        "hook": st.sampled_from(sorted(ALLOWED)) | words,
        "layer": st.sampled_from(["0", "0.up", "1", "input", "output", "", 0, -1]) | leaf,
        "parameters": parameters | junk,
    },
    optional={"type": words | st.just("pre_forward"), "id": words, "enabled": st.booleans()},
)


@given(spec=st.fixed_dictionaries({"hooks": st.lists(hook, max_size=2)}) | junk)
@settings(max_examples=300, deadline=None)
def test_any_spec_is_a_scope_or_a_bad_spec(spec: Any) -> None:
    """Junk makes no other error, no large tensor, and leaves nothing on the model."""
    hooked = tenterhook.attach(nn.Sequential(Block(), nn.Linear(WIDTH, 7)))
    with making_at_most(2000):
        try:
            scope = hooked.scoped(spec, hooks=ALLOWED, max_elements=2000, missing="ignore")
        except BadSpec as error:
            assert str(error).isprintable()  # noqa: PT017 - it may be a scope as well
        except TypeError:
            assert not isinstance(spec, dict)
        else:
            with scope:
                pass
    assert_clean(hooked)
