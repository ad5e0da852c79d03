"""Hooks as values: described, written, read, and put on another model, with our plugins."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
import tenterhook_specs as specs
from tenterhook.errors import UnknownLayer
from tenterhook.hooks import (
    AddVector,
    Clamp,
    Detector,
    FunctionController,
    Hook,
    LayerActivationDetector,
    MeanAblate,
    ModelInputDetector,
    ModelOutputDetector,
    Patch,
    ProjectOut,
    Scale,
    ZeroAblate,
)
from tenterhook_specs import BadSpec, HookSpec, ModelSpec, NotAllowed, NotDescribable

WIDTH = 4


def double(x: Tensor) -> Tensor:
    """Return twice the tensor."""
    return 2 * x


class Mine(Detector):
    """A detector of somebody's own, whose parameters have all kinds of types."""

    def __init__(
        self,
        names: list[str],
        table: dict[str, float] | None = None,
        anything: Any = None,
        part: slice | None = None,
        hook_id: str | None = None,
    ) -> None:
        super().__init__(hook_id=hook_id)
        self.names, self.table, self.anything, self.part = names, table, anything, part

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Look at nothing."""


HERE = __name__.partition(".")[0]


def model() -> tenterhook.HookedModel:
    """Return a model of four layers."""
    return tenterhook.attach(nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4))))


numbers = st.floats(-1e4, 1e4, width=32)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@st.composite
def tensors(draw: Any, shape: tuple[int, ...] = (WIDTH,)) -> Tensor:
    """Return a tensor of a shape and some dtype."""
    count = math.prod(shape)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    made: Tensor = torch.tensor(values).reshape(shape).to(draw(dtypes))
    return made


features = st.none() | st.sampled_from([0, "1:3", [0, 2], slice(1, None), "last"])
ids = st.none() | st.text(min_size=1, max_size=8)
LAYER = "0"
hooks = st.one_of(
    st.builds(
        AddVector,
        st.just(LAYER),
        tensors(),
        numbers,
        features=features,
        hook_type=st.sampled_from(["forward", "pre_forward"]),
    ),
    st.builds(Clamp, st.just(LAYER), numbers.map(lambda x: min(x, 0.0)), st.none() | st.just(2.5)),
    st.builds(Scale, st.just(LAYER), numbers, features=features),
    st.builds(ZeroAblate, st.just(LAYER), features=features),
    st.builds(MeanAblate, st.just(LAYER), tensors((3, WIDTH))),
    st.builds(Patch, st.just(LAYER), tensors((2, 0, WIDTH)) | tensors((1, 2, WIDTH))),
    st.builds(
        ProjectOut, st.just(LAYER), st.just(torch.eye(2, WIDTH)) | st.just(torch.ones(WIDTH))
    ),
    st.builds(FunctionController, st.just(LAYER), st.just(torch.tanh) | st.just(double)),
    st.builds(LayerActivationDetector, st.just(LAYER), target_dtype=st.none() | dtypes),
    st.builds(
        ModelInputDetector,
        save_attention_mask=st.booleans(),
        special_token_ids=st.none() | st.sets(st.integers(0, 99)),
    ),
    st.builds(ModelOutputDetector, save_output_hidden_state=st.booleans()),
    st.builds(
        Mine,
        st.lists(st.text()),
        st.none() | st.dictionaries(st.text(), numbers),
        st.none() | st.integers() | st.text() | st.just(torch.arange(3)),
        st.none() | st.just(slice(None, 3, 2)),
    ),
)


selections: Any = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.sampled_from([0, "last", "1:3", [0, -1], [[0], [1, 2]], "prompt"]),
        "phase": st.sampled_from(["prompt", "generated"]),
        "rows": st.sampled_from([0, slice(1, None)]),
        "features": features,
        "every": st.integers(1, 3),
        "step": st.sampled_from([0, "2:"]),
    },
)


@given(st.data())
@settings(max_examples=20)
def test_what_is_described_is_put_on_another_model(data: st.DataObject) -> None:
    """Through each format, to the bit: classes, parameters, layers, order, ids, switches."""
    first = model()
    for at, hook in enumerate(data.draw(st.lists(hooks, max_size=4))):
        selected = data.draw(selections)
        whole = {"ModelInputDetector": "input", "ModelOutputDetector": "output"}
        layer = whole.get(type(hook).__name__, str(at % 2))
        priority, permanent = data.draw(st.integers(-2, 2)), data.draw(st.booleans())
        first.layers.register_hook(
            layer, hook, mix="in_order", priority=priority, permanent=permanent, **selected
        )
        if data.draw(st.booleans()):
            hook.disable()
    first.on_error = data.draw(st.sampled_from(["raise", "warn", "disable"]))
    spec = first.describe()

    for form in ("toml", "json", "yaml"):
        read = specs.loads(specs.dumps(spec, form), ModelSpec, form)
        second = model()
        allow = ["torch", HERE]
        assert second.apply(read, allow=allow) == [each.id for each in spec.hooks]
        assert second.describe() == read == spec
        for one in first.layers:
            other = second.layers.get_hook(one.id)
            assert other is not None
            assert_same(one, other)


class TestSelection:
    """A hook may have a selection."""

    def test_applied(self) -> None:
        """What it says is selected there as it is in `register_hook`."""
        hook = {"hook": "ZeroAblate", "layer": "0", "selection": {"tokens": [-1], "rows": 1}}
        one, x = model(), torch.ones(2, 3, WIDTH)
        plain = one.module[0](x)  # type: ignore[index]
        one.apply({"hooks": [hook]})
        with one.capture("0") as captured:
            one(x)
        plain[1, -1] = 0
        assert torch.equal(captured.last("0"), plain)

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            ({"tokns": 0}, r"hooks\[0\]\.selection: There is no argument 'tokns'.*'tokens'"),
            ({"tokens": "a:b"}, r"hooks\[0\]\.selection: 'a:b' is not a selection of positions"),
            ({"selection": 3}, r"hooks\[0\]\.selection: There is no argument 'selection'"),
            (3, r"hooks\[0\]\.selection: expected a table"),
        ],
        ids=["unknown", "wrong", "whole", "no table"],
    )
    def test_mistakes(self, words: Any, match: str) -> None:
        """A mistake is named with its path, and nothing is registered."""
        one = model()
        with pytest.raises(BadSpec, match=match):
            one.apply({"hooks": [{"hook": "ZeroAblate", "layer": "0", "selection": words}]})
        assert not len(one.layers)

    def test_not_describable(self) -> None:
        """A selector of somebody's own has no words."""

        class Own:
            def begin(self, module: nn.Module) -> Any:
                return tenterhook.Selection(rows=0).begin(module)

        one = model()
        one.layers.register_hook("0", ZeroAblate("0"), selection=Own())
        with pytest.raises(NotDescribable, match="a Own has no fields"):
            one.describe()


def assert_same(one: Hook, other: Hook) -> None:
    """Compare two hooks by all that they were made with."""
    assert type(one) is type(other)
    assert (one.id, one.hook_type, one.layer_signature, one.enabled) == (
        other.id,
        other.hook_type,
        other.layer_signature,
        other.enabled,
    )
    for name in specs.parameters_of(type(one)):
        if name not in ("layer_signature", "hook_type", "hook_id", "store"):
            a, b = getattr(one, name), getattr(other, name)
            if isinstance(a, Tensor):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                assert torch.equal(a, b)
            else:
                assert a == b


plain_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("form", ["toml", "json", "yaml"])
@given(values=st.dictionaries(st.text(), plain_values))
@settings(max_examples=20)
def test_text_says_any_plain_values(form: Any, values: dict[str, Any]) -> None:
    """Odd keys and characters, nested tables, empty lists."""
    spec = HookSpec(hook="Mine", layer="0", parameters=values)

    assert specs.loads(specs.dumps(spec, form), HookSpec, form) == spec


def test_a_spec_is_read_from_a_file(tmp_path: Path) -> None:
    """A person writes it: what is left out has its default, a list is a tensor."""
    file = tmp_path / "hooks.toml"
    file.write_text(
        """
        [[hooks]]
        hook = "AddVector"
        layer = "layer_1"
        [hooks.parameters]
        vector = [1, 0.5, 0, 0]
        features = "0:2"

        [[hooks]]
        hook = "LayerActivationDetector"
        layer = 2
        """
    )
    hooked = model()

    added, _ = hooked.apply(file)

    hook = hooked.layers.get_hook(added)
    assert isinstance(hook, AddVector)
    assert (hook.layer_signature, hook.coefficient) == ("1", 1.0)
    torch.testing.assert_close(hook.vector, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    assert [hook.layer_signature for hook in hooked.layers] == ["1", "2"]


MISTAKES = {
    "unknown key at the top": ({"hoks": []}, "unknown key 'hoks'; did you mean 'hooks'?"),
    "unknown key of a hook": (
        {"hooks": [{"hook": "Scale", "layr": "0"}]},
        "hooks[0]: unknown key 'layr'; did you mean 'layer'?",
    ),
    "missing key": ({"hooks": [{"hook": "Scale"}]}, "hooks[0].layer: 'layer' is missing"),
    "unknown hook": (
        {"hooks": [{"hook": "Skale", "layer": "0"}]},
        "hooks[0].hook: no installed plugin has a hook named 'Skale'; did you mean 'Scale'?",
    ),
    "unknown parameter": (
        {"hooks": [{"hook": "Scale", "layer": "0", "parameters": {"factr": 2}}]},
        "hooks[0].parameters: unknown key 'factr'; did you mean 'factor'?",
    ),
    "missing parameter": (
        {"hooks": [{"hook": "Scale", "layer": "0"}]},
        "hooks[0].parameters.factor: 'factor' is missing",
    ),
    "wrong type": (
        {"hooks": [{"hook": "Scale", "layer": "0", "parameters": {"factor": "2"}}]},
        "hooks[0].parameters.factor: expected float, not str '2'",
    ),
    "a number for a name": (
        {"hooks": [{"hook": "Scale", "layer": 0.5}]},
        "hooks[0].layer: expected str, not float 0.5; or expected int, not float 0.5",
    ),
    "wrong word": (
        {"hooks": [{"hook": "Scale", "layer": "0", "type": "forwards"}]},
        "hooks[0].type: 'forwards' is not one of 'forward', 'pre_forward', 'backward'; "
        "did you mean 'forward'?",
    ),
    "no dtype": (
        {"hooks": [{"hook": "LayerActivationDetector", "layer": "0"}]}
        | {"hooks": [{"hook": "LayerActivationDetector", "layer": "0", "parameters": {
            "target_dtype": "float23"}}]},
        "hooks[0].parameters.target_dtype: 'float23' is no dtype; did you mean 'float32'?",
    ),
    "no tensor": (
        {"hooks": [{"hook": "AddVector", "layer": "0", "parameters": {"vector": "ones"}}]},
        "hooks[0].parameters.vector: expected a tensor or a list of numbers, not str 'ones'",
    ),
    "no list": (
        {"hooks": {"hook": "Scale"}},
        "hooks: expected a list, not dict {'hook': 'Scale'}",
    ),
    "no table": ({"hooks": [3]}, "hooks[0]: expected a table, not int 3"),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_path(spec: dict[str, Any], said: str) -> None:
    """And the nearest name; nothing is registered."""
    hooked = model()

    with pytest.raises(BadSpec) as error:
        hooked.apply(spec)

    assert said in str(error.value)
    assert len(hooked.layers) == 0


def test_all_mistakes_are_named_at_once() -> None:
    """One run of an editor repairs them."""
    with pytest.raises(BadSpec) as error:
        model().apply({"hooks": [{"hook": 1}], "on_eror": "warn"})

    assert len(error.value.mistakes) == 3


def test_all_or_none() -> None:
    """What cannot be registered takes back what was, and says which it is."""
    hooked = model()
    kept = hooked.layers.register_hook("0", LayerActivationDetector("0"))
    good = {"hook": "LayerActivationDetector", "layer": "1"}

    with pytest.raises(UnknownLayer, match="nowhere") as error:
        hooked.apply({"hooks": [good, {**good, "layer": "nowhere"}], "on_error": "warn"})

    assert error.value.__notes__ == ["This was hooks[1] of the spec."]
    assert [hook.id for hook in hooked.layers] == [kept]
    assert hooked.on_error == "raise"


class TestCode:
    """Functions and classes are named by import path, and only from where the user allows."""

    def spec(self, function: str) -> dict[str, Any]:
        """Return the spec of a controller of a function."""
        parameters = {"function": function}
        return {"hooks": [{"hook": "FunctionController", "layer": "0", "parameters": parameters}]}

    @pytest.mark.parametrize(
        ("function", "allow"),
        [
            ("os:system", []),
            ("os:system", ["torch"]),
            ("torch.hub:os.system", ["torch"]),
            ("torch.hub:os", ["torch"]),
            ("torchvision:x", ["torch"]),
            (f"{__name__}:Path", [__name__]),
            ("builtins:eval", ["torch", HERE]),
        ],
    )
    def test_other_code_is_not_allowed(self, function: str, allow: list[str]) -> None:
        """Nor through a module that is, nor what was imported there; it is not imported."""
        hooked = model()
        with pytest.raises(NotAllowed, match="is code, and a spec may name code"):
            hooked.apply(self.spec(function), allow=allow)
        assert len(hooked.layers) == 0

    def test_what_is_defined_elsewhere_says_what_to_allow(self) -> None:
        """Which is not the module that the path names."""
        with pytest.raises(NotAllowed, match="defined in posix") as error:
            model().apply(self.spec("os:system"), allow=["os"])

        assert "apply(spec, allow=['os', 'posix'])" in str(error.value)

    def test_a_path_through_a_module_says_the_path_to_write(self) -> None:
        """Allowing what is allowed already would not help."""
        with pytest.raises(NotAllowed, match=r"write it as 'os:system'.*allow=\['torch', 'os'\]"):
            model().apply(self.spec("torch.hub:os.system"), allow=["torch"])
        with pytest.raises(NotAllowed, match=r"write it as 'torch.nn.functional:relu'\.\s"):
            model().apply(self.spec("torch.nn:functional.relu"), allow=["torch"])

    def test_a_module_that_is_not_allowed_is_not_imported(self, tmp_path: Path) -> None:
        """Importing runs code."""
        with pytest.raises(NotAllowed):
            model().apply(self.spec("antigravity:fly"))
        assert "antigravity" not in sys.modules

    @pytest.mark.parametrize("function", ["torch:nothing_there", "torch.nothing:x", "tanh"])
    def test_what_names_nothing_is_a_bad_spec(self, function: str) -> None:
        """With the path to it."""
        with pytest.raises(BadSpec, match=r"hooks\[0\].parameters.function"):
            model().apply(self.spec(function), allow=["torch"])

    def test_a_class_of_ones_own_is_allowed_by_name(self) -> None:
        """No plugin is needed; the same class comes back."""
        hooked = model()
        spec = {"hook": f"{__name__}:Mine", "layer": "0", "parameters": {"names": ["a"]}}
        with pytest.raises(NotAllowed):
            hooked.apply({"hooks": [spec]})

        (id,) = hooked.apply({"hooks": [spec]}, allow=[HERE])

        assert type(hooked.layers.get_hook(id)) is Mine

    def test_what_is_no_hook_is_refused(self) -> None:
        """A path may name anything."""
        with pytest.raises(BadSpec, match=r"'torch\.nn:Linear' is no class of hooks"):
            model().apply({"hooks": [{"hook": "torch.nn:Linear", "layer": "0"}]}, allow=["torch"])

    def test_a_lambda_cannot_be_described(self) -> None:
        """Nothing is pickled."""
        hooked = model()
        hooked.layers.register_hook("0", FunctionController("0", lambda x: x))

        with pytest.raises(NotDescribable, match="Define it by name in a module"):
            hooked.describe()

    def test_a_class_inside_a_function_cannot_be_described(self) -> None:
        """It cannot be imported again."""

        class Inner(Mine):
            pass

        hooked = model()
        hooked.layers.register_hook("0", Inner([]))

        with pytest.raises(NotDescribable, match="has no import path"):
            hooked.describe()

    def test_a_parameter_that_is_not_kept_cannot_be_described(self) -> None:
        """The error says how to keep it."""
        hooked = model()
        hook = Mine([])
        del hook.names
        hooked.layers.register_hook("0", hook)

        with pytest.raises(NotDescribable, match=r"Keep it as self\.names"):
            hooked.describe()


def test_many_unknown_keys() -> None:
    """Twenty are told: of 100,000 each took its time, eleven seconds together."""
    with pytest.raises(BadSpec, match=r"unknown key 'a100'.*, and 280 more\.$") as error:
        model().apply({f"a{at}": 1 for at in range(100, 400)})

    assert str(error.value).count("unknown key") == 20
