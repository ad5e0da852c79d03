"""Every spelling of a layer is one layer; what is none is named with its nearest."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import UnknownLayer
from tenterhook.hooks import Detector, HookType, HookWarning
from tenterhook.layers import LayerIndex


class _Block(nn.Module):
    def __init__(self, experts: int = 0) -> None:
        super().__init__()
        self.mlp = nn.Linear(2, 2)
        if experts:
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x)
        return out


class _Model(nn.Module):
    """Embeds, runs two blocks that hold experts, and ends in a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 2)
        self.extra = nn.ModuleList([nn.Linear(1, 1)])
        self.h = nn.ModuleList([_Block(5), _Block(5)])
        self.head = self.embed

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.h:
            x = block(x)
        out: Tensor = self.head(x)
        return out


class _Holds(nn.Module):
    """Holds submodules with names that we use too."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(2, 2)
        self.layer_0 = nn.Linear(2, 2)
        self.stack = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stack[0](self.layer_0(self.output(x)))
        return out


class _Sees(Detector):
    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.metadata["module"] = module


NAMES = [
    "embed",
    "extra",
    "extra.0",
    "h",
    *(
        f"h.{at}{rest}"
        for at in range(2)
        for rest in ["", ".mlp", ".experts", *(f".experts.{n}" for n in range(5))]
    ),
]


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """A model with a stack of blocks that hold stacks themselves."""
    return tenterhook.attach(_Model())


def test_names(model: tenterhook.HookedModel) -> None:
    """Layers are listed as `named_modules` prints them, blocks and leaves, the root left out."""
    expected = [name for name, _ in model.module.named_modules() if name]

    assert model.layers.list_layers() == model.layers.get_layer_names() == expected == NAMES


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("h.1.mlp", "h.1.mlp"),
        ("h", "h"),
        (0, "embed"),
        (4, "h.0"),
        (-1, "h.1.experts.4"),
        (-len(NAMES), "embed"),
        ("layer_0", "h.0"),
        ("layer_1", "h.1"),
        ("head", "embed"),
        ("input", "input"),
        ("output", "output"),
        ("", "output"),
    ],
)
def test_spellings(model: tenterhook.HookedModel, spelling: str | int, name: str) -> None:
    """Each spelling means one layer, called by the first name it has."""
    layer = model.layers.index.resolve(spelling)

    assert layer.name == name
    whole = name in ("input", "output")
    assert layer.module is (model.module if whole else model.module.get_submodule(name))


@pytest.mark.parametrize("spelling", ["h.1", 12, -8, "layer_1"])
def test_one_layer_to_the_registry(model: tenterhook.HookedModel, spelling: str | int) -> None:
    """A hook registered by one spelling is found by each other, and knows the dotted name."""
    hook = _Sees()
    model.layers.register_hook(spelling, hook)

    assert hook.layer_signature == "h.1"
    spellings: list[str | int] = ["h.1", 12, -8, "layer_1"]
    for other in spellings:
        assert model.layers.get_hooks(other) == [hook]


@pytest.mark.parametrize("spelling", ["head", "embed", 0])
def test_names_of_a_shared_module(model: tenterhook.HookedModel, spelling: str | int) -> None:
    """A module with two names is one layer: its hook runs at each of its calls."""
    with model.capture(spelling) as captured:
        model(torch.ones(1, 2))

    assert list(captured) == ["embed"]
    assert [len(captured[name]) for name in ("embed", "head", 0)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        pytest.param(_Model, ["h.0", "h.1"], id="module-list-over-inner-lists"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)),
            ["0", "1", "2"],
            id="sequential",
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(9, 9))),
            ["0", "1"],
            id="nested-sequential",
        ),
        pytest.param(lambda: nn.Linear(1, 1), [], id="none"),
        pytest.param(lambda: nn.Sequential(nn.ModuleList()), ["0"], id="empty-list"),
    ],
)
def test_blocks(make: Any, blocks: list[str]) -> None:
    """The main stack is the largest list that stands in no other."""
    assert LayerIndex(make()).blocks() == blocks


def test_a_block_used_twice() -> None:
    """The N-th block is the N-th, also where one module stands in the stack twice."""
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    model = nn.Module()
    model.h = nn.ModuleList([one, other, one, other])
    index = LayerIndex(model)

    assert index.blocks() == ["h.0", "h.1", "h.2", "h.3"]
    assert [index.resolve(f"layer_{n}").name for n in range(4)] == ["h.0", "h.1", "h.0", "h.1"]


class TestOwnNamesFirst:
    def test_submodule(self) -> None:
        """A submodule's own name means the submodule, whatever we use the name for."""
        index = LayerIndex(_Holds())

        assert index.resolve("output").module is index.module.output
        assert index.resolve("layer_0").module is index.module.layer_0
        assert index.resolve("input").module is index.module

    def test_the_whole(self) -> None:
        """The empty name still means the whole model, and is its name then."""
        model = tenterhook.attach(_Holds())
        whole, part = _Sees(), _Sees()
        model.layers.register_hook("", whole)
        model.layers.register_hook("output", part)

        model(torch.ones(1, 2))

        assert (whole.layer_signature, part.layer_signature) == ("", "output")
        assert whole.metadata["module"] is model.module
        assert part.metadata["module"] is model.module.output


def test_layers_that_come_later(model: tenterhook.HookedModel) -> None:
    """A layer added after attaching is found."""
    model.module.added = nn.Linear(1, 1)

    assert model.layers.list_layers()[-1] == "added"
    assert model.layers.index.resolve(-1).module is model.module.added


class TestUnknown:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ("h.0.mpl", r"No layer 'h.0.mpl' in this model\. Closest: 'h.0.mlp'"),
            ("mlp", r"Closest: .*'h.0.mlp'"),
            ("transformer.h.1.mlp", "'h.1.mlp'"),
            ("h.9", "'h"),
            ("layer_2", r"Its main stack 'h' has 2 blocks: layer_0 to layer_1\."),
            ("layer_-1", "No layer 'layer_-1'"),
            (20, r"It has 20 layers: indices -20 to 19\."),
            (-21, r"It has 20 layers: indices -20 to 19\."),
            (None, "A layer is a name"),
            (1.5, "A layer is a name"),
            (True, "A layer is a name"),
            (b"h", "A layer is a name"),
            ("embed.weight", "No layer 'embed.weight'"),
            (" h", "No layer ' h'"),
            ("h.", "No layer 'h.'"),
        ],
        ids=repr,
    )
    def test_says_what_is_near(self, model: tenterhook.HookedModel, asked: Any, said: str) -> None:
        """An unknown layer is a `ValueError` and a `LookupError` that names the way on."""
        with pytest.raises(UnknownLayer, match=said) as caught:
            model.layers.register_hook(asked, _Sees())

        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, LookupError)
        assert "list_layers()" in str(caught.value)
        assert "tenterhook layers MODEL" in str(caught.value)

    def test_pickles(self, model: tenterhook.HookedModel) -> None:
        """The error goes from one process to another whole."""
        with pytest.raises(UnknownLayer) as caught:
            model.layers.index.resolve("nope")

        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.layer, again.known) == (str(caught.value), "nope", NAMES)

    @pytest.mark.parametrize("asked", [0, -1, "x", "layer_0"])
    def test_model_without_layers(self, asked: Any) -> None:
        """A module without submodules has no layers but its two sides, and says so."""
        index = LayerIndex(nn.Linear(1, 1))

        with pytest.raises(UnknownLayer, match=r"no layers|no stack of blocks|list all 0"):
            index.resolve(asked)
        assert index.resolve("output").module is index.module

    def test_whole_by_the_wrong_side(self, model: tenterhook.HookedModel) -> None:
        """A hook that cannot run on the side asked for is refused, with the side it has."""
        with pytest.raises(ValueError, match="forward hook does not run at 'input'"):
            model.layers.register_hook("input", _Sees())
        with pytest.raises(ValueError, match="pre_forward hook does not run at 'output'"):
            model.layers.register_hook("output", _Sees(HookType.PRE_FORWARD))
        assert len(model.layers) == 0


class TestExpand:
    @pytest.mark.parametrize(
        ("choices", "names"),
        [
            (["h.*.mlp"], ["h.0.mlp", "h.1.mlp"]),
            (["h.?"], ["h.0", "h.1"]),
            (["h.[1]"], ["h.1"]),
            (["layer_1", "h.1", 12, "h.?"], ["h.1", "h.0"]),
            ([["h.0", "embed"], "head"], ["h.0", "embed"]),
            ([lambda name, module: isinstance(module, _Block)], ["h.0", "h.1"]),
            ([], []),
        ],
        ids=["star", "one", "set", "spellings", "lists", "predicate", "nothing"],
    )
    def test_finds(
        self, model: tenterhook.HookedModel, choices: list[Any], names: list[str]
    ) -> None:
        """Names, patterns and predicates give each layer once, in the order they were named."""
        assert [layer.name for layer in model.layers.index.expand(choices)] == names

    @pytest.mark.parametrize(
        ("choice", "said"),
        [
            ("attn.*", "The pattern matches no layer"),
            (lambda name, module: False, "The predicate holds for no layer"),
            ("nope", "No layer 'nope'"),
        ],
        ids=["pattern", "predicate", "name"],
    )
    def test_finds_nothing(self, model: tenterhook.HookedModel, choice: Any, said: str) -> None:
        """What means no layer is an error at once."""
        with pytest.raises(UnknownLayer, match=said):
            model.layers.index.expand([choice])


def test_table(model: tenterhook.HookedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a row per layer: name, type, shape of the weight."""
    model.layers.print_layer_names()

    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["name", "type", "weight"]
    assert [row[0] for row in rows[1:]] == NAMES
    assert rows[1] == ["embed", "Linear", "(2, 2)"]
    assert rows[4] == ["h", "ModuleList", "-"]


def test_table_of_a_lazy_layer(capsys: pytest.CaptureFixture[str]) -> None:
    """A weight that has no shape yet is none to show."""
    tenterhook.attach(nn.Sequential(nn.LazyLinear(2))).layers.print_layer_names()
    assert capsys.readouterr().out.splitlines()[1].split() == ["0", "LazyLinear", "-"]


def _scripted() -> Any:
    return torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def _traced() -> Any:
    trace: Any = torch.jit.trace
    return trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [_scripted, _traced])
class TestTorchScript:
    def test_part_of_a_model(self, make: Any) -> None:
        """All is captured and steered but what runs inside; of that is said that it never ran."""
        model = tenterhook.attach(nn.Sequential(make(), nn.Linear(2, 2)))
        x = torch.ones(1, 2)
        with (
            pytest.warns(HookWarning, match="Nothing was captured at '0.0', '0.1': no forward ran"),
            model.capture("*") as captured,
            model.steer(0, lambda h: h * 0),
        ):
            out = model(x)
        assert model.layers.list_layers() == ["0", "0.0", "0.1", "1"]
        assert [len(captured[name]) for name in captured] == [1, 0, 0, 1]
        assert torch.equal(out, model.module.get_submodule("1")(torch.zeros(1, 2)))
        with model.capture("layer_1", -1) as captured:
            model(x)
        assert list(captured) == ["1"]

    def test_after_something_was_compiled(self, make: Any) -> None:
        """Nothing is asked of it that only Python's modules have."""
        others = tenterhook.attach(nn.Linear(2, 2))
        torch.compile(others.module, backend="eager")(torch.ones(1, 2))
        model = tenterhook.attach(nn.Sequential(make()))
        for _ in range(2):  # the first change leaves scopes to Python
            with model.steer(0, lambda h: h * 0), model.capture("output") as captured:
                model(torch.ones(1, 2))
            assert torch.equal(captured.last("output"), torch.zeros(1, 2))
        tenterhook.assert_clean(model)

    def test_whole_model(self, make: Any) -> None:
        """Its own names are known, and it is a layer before and after its forward."""
        model = tenterhook.attach(make())
        with model.capture("output") as captured:
            out = model(torch.ones(1, 2))
        assert torch.equal(captured.last("output"), out)
        assert model.layers.list_layers() == ["0", "1"]
        with pytest.raises(UnknownLayer, match="Closest: '0'"):
            model.capture("0.weight")
