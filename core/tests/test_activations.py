"""The functional way: a new structure with another activation, and nobody's tensors written to."""

import types
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from tenterhook import Inputs
from tenterhook.activations import (
    activation_of,
    first_input,
    inputs_of,
    named_inputs,
    replace,
    replace_input,
)

ONE, TWO, NEW = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([9.0])


class Named(NamedTuple):
    """A named tuple."""

    tensor: Tensor
    rest: Any = None


Old = namedtuple("Old", ["rest", "tensor"])


class Subclassed(tuple[Any, ...]):
    """A tuple with an attribute."""

    extra: str


@dataclass
class Plain:
    """A dataclass."""

    rest: Any
    tensor: Tensor


@dataclass(frozen=True)
class Frozen:
    """A frozen dataclass."""

    tensor: Tensor
    rest: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    """A frozen dataclass with slots."""

    tensor: Tensor
    rest: Any = None


@dataclass
class Strict:
    """A dataclass whose constructor would refuse what the framework makes."""

    tensor: Tensor
    made: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        assert self.tensor.item() == 1


@attrs.frozen(eq=False)
class Attrs:
    """A frozen attrs class."""

    tensor: Tensor
    rest: Any = None


class Object:
    """An output object of no known kind."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


def subclassed() -> Subclassed:
    """Return a tuple with an attribute."""
    made = Subclassed((ONE, TWO))
    made.extra = "kept"
    return made


STRUCTURES: dict[str, Any] = {
    "tensor": lambda: ONE,
    "parameter": lambda: nn.Parameter(ONE),
    "tuple": lambda: (None, ONE, TWO),
    "list": lambda: ["text", ONE, TWO],
    "named-tuple": lambda: Named(ONE, TWO),
    "old-named-tuple": lambda: Old("text", ONE),
    "tuple-subclass": subclassed,
    "return-type": lambda: torch.max(torch.tensor([[1.0, 0.0]]), dim=1),
    "packed-sequence": lambda: pack_sequence([torch.ones(2, 1), torch.ones(1, 1)]),
    "dict": lambda: {"rest": "text", "tensor": ONE, "more": TWO},
    "ordered-dict": lambda: OrderedDict(tensor=ONE, more=TWO),
    "user-dict": lambda: UserDict(tensor=ONE, more=TWO),
    "dict-by-name": lambda: {"loss": TWO, "logits": ONE, "hidden": TWO},
    "dict-last-hidden": lambda: {"logits": TWO, "last_hidden_state": ONE},
    "dataclass": lambda: Plain("text", ONE),
    "frozen": lambda: Frozen(ONE, [TWO]),
    "slots": lambda: Slotted(ONE, [TWO]),
    "strict": lambda: Strict(ONE),
    "attrs": lambda: Attrs(ONE, [TWO]),
    "object": lambda: Object(rest=TWO, last_hidden_state=ONE),
    "object-logits": lambda: Object(loss=TWO, logits=ONE),
}


def huggingface() -> dict[str, Any]:
    """Return outputs as transformers makes them; nothing where it is not installed."""
    outputs = pytest.importorskip("transformers.modeling_outputs")
    return {
        "base": outputs.BaseModelOutput(last_hidden_state=ONE, hidden_states=(TWO, ONE)),
        "causal": outputs.CausalLMOutputWithPast(loss=TWO, logits=ONE, hidden_states=(TWO,)),
        "no-loss": outputs.CausalLMOutputWithPast(logits=ONE),
        "pooled": outputs.BaseModelOutputWithPooling(last_hidden_state=ONE, pooler_output=TWO),
    }


def fields_of(output: Any) -> dict[Any, Any]:
    """Return everything in a structure by where it is, as a plain dictionary."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, tuple | list):
        return {**dict(enumerate(output)), **getattr(output, "__dict__", {})}
    if isinstance(output, dict | UserDict):
        return dict(output)
    names = getattr(output, "__slots__", None) or vars(output)
    return {name: getattr(output, name) for name in names if name != "__weakref__"}


def check_replaced(output: Any) -> None:
    """Check that replacing the activation changes that alone, in a new structure of one type."""
    tensor = activation_of(output)
    assert tensor is not None
    before, value = fields_of(output), tensor.clone()

    new = replace(output, NEW)

    assert activation_of(new) is NEW
    assert activation_of(output) is tensor
    assert torch.equal(tensor, value)
    assert all(
        now is then for now, then in zip(fields_of(output).values(), before.values(), strict=True)
    )
    if not isinstance(output, Tensor):
        assert type(new) is type(output)
        assert new is not output
        after = fields_of(new)
        assert list(after) == list(before)
        assert [at for at in before if after[at] is not before[at]] == [
            next(at for at in before if before[at] is tensor)
        ]


@pytest.mark.parametrize("name", STRUCTURES)
def test_replace(name: str) -> None:
    """Type and other fields are kept, the same objects; the given structure stays as it was."""
    check_replaced(STRUCTURES[name]())


@pytest.mark.parametrize("name", ["base", "causal", "no-loss", "pooled"])
def test_replace_in_huggingface_outputs(name: str) -> None:
    """A Hugging Face output answers by attribute, key and index as before."""
    output = huggingface()[name]
    key = "last_hidden_state" if "last_hidden_state" in output else "logits"

    new = replace(output, NEW)

    assert type(new) is type(output)
    assert new[key] is getattr(new, key) is NEW
    assert list(new.keys()) == list(output.keys())
    assert [new[k] is output[k] for k in output if k != key] == [True] * (len(output) - 1)
    assert output[key] is getattr(output, key) is ONE
    assert NEW in [item for item in new.to_tuple() if item is NEW]
    check_replaced(dict(output))


@pytest.mark.parametrize("name", [n for n in STRUCTURES if n not in ("packed-sequence",)])
def test_activation(name: str) -> None:
    """The activation is the tensor that holds 1 in each structure."""
    found = activation_of(STRUCTURES[name]())
    assert found is not None
    assert found.tolist() == [1]


@pytest.mark.parametrize(
    "output",
    [
        None,
        "text",
        5,
        (),
        [],
        {},
        (None, 3),
        {"a": None},
        Plain("a", "b"),  # type: ignore[arg-type]
        Object(a=ONE),
        object(),
    ],
    ids=lambda output: type(output).__name__,
)
def test_no_activation(output: Any) -> None:
    """What holds no tensor has no activation, and none can be put there."""
    assert activation_of(output) is None
    with pytest.raises(TypeError, match=f"{type(output).__name__} holds no tensor"):
        replace(output, NEW)


def test_read_only_mapping() -> None:
    """A mapping that cannot be changed is refused by name."""
    with pytest.raises(TypeError, match="mappingproxy is a mapping that cannot be changed"):
        replace(types.MappingProxyType({"a": ONE}), NEW)


class Shares(MutableMapping[str, Any]):
    """A mapping whose shallow copies share what they hold."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {"a": ONE}

    def __getitem__(self, key: str) -> Any:
        return self.held[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.held[key] = value

    def __delitem__(self, key: str) -> None:
        del self.held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


def test_mapping_that_shares_is_not_written_to() -> None:
    """A mapping that cannot be copied is refused, and stays as it was."""
    output = Shares()
    with pytest.raises(TypeError, match="Shares cannot be copied"):
        replace(output, NEW)
    assert output["a"] is ONE


LEAVES = st.sampled_from([None, "text", 3, ONE, TWO])
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.builds(Named, inner, inner),
        st.builds(Frozen, inner, inner),
        st.builds(Plain, inner, inner),
        st.builds(Slotted, inner, inner),
        st.builds(Attrs, inner, inner),
    ),
    max_leaves=8,
)


@given(NESTED)
def test_replace_in_any_structure(output: Any) -> None:
    """Whatever is nested in what: one place changes, or the structure is refused."""
    if activation_of(output) is None:
        with pytest.raises(TypeError, match="holds no tensor"):
            replace(output, NEW)
    elif isinstance(output, Tensor):
        assert replace(output, NEW) is NEW
    else:
        old, tensor = fields_of(output), activation_of(output)
        changed = fields_of(replace(output, NEW))
        places = [at for at in old if changed[at] is not old[at]]
        assert len(places) == 1
        assert (old[places[0]], changed[places[0]]) == (tensor, NEW)
        assert all(fields_of(output)[at] is old[at] for at in old)


class Takes(nn.Module):
    """A module with three inputs."""

    def forward(self, ids: Any, mask: Any = None, *, scale: Any = None) -> None:
        """Do nothing."""


def inputs(*args: Any, **kwargs: Any) -> Inputs:
    """Return the inputs of a call of `Takes`."""
    return inputs_of(Takes(), args, kwargs)


class TestInputs:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            pytest.param(inputs(ONE, TWO), (ONE, TWO), id="positional"),
            pytest.param(inputs(mask=TWO, ids=ONE), (ONE, TWO), id="keyword"),
            pytest.param(inputs(ONE, scale=NEW, mask=TWO), (ONE, TWO, NEW), id="mixed"),
            pytest.param(inputs(more=NEW, ids=ONE), (ONE, NEW), id="unknown-name-last"),
            pytest.param(inputs(), (), id="none"),
        ],
    )
    def test_order(self, given: Inputs, expected: tuple[Any, ...]) -> None:
        """Inputs stand in the order of the parameters of `forward`, however they were passed."""
        assert isinstance(given, tuple)
        assert len(given) == len(expected)
        assert all(one is other for one, other in zip(given, expected, strict=True))

    def test_how_they_were_passed(self) -> None:
        """Positional and keyword inputs are also there apart."""
        given = inputs(ONE, scale=NEW, mask=TWO)
        assert given.args == (ONE,)
        assert given.kwargs == {"scale": NEW, "mask": TWO}
        assert given.names == ("mask", "scale")

    @pytest.mark.parametrize(
        "given",
        [
            inputs(ONE, TWO),
            inputs(mask=TWO, ids=ONE),
            inputs({"ids": ONE, "mask": TWO}),
            inputs(ids=ONE, more={"mask": TWO}),
            (ONE, TWO),
        ],
        ids=["positional", "keyword", "mapping", "mapping-by-keyword", "plain-tuple"],
    )
    def test_by_name(self, given: Any) -> None:
        """Every way of passing gives the names of the parameters."""
        found = named_inputs(Takes(), given)
        assert found["ids"] is ONE or found["ids"]["ids"] is ONE
        assert found["mask"] is TWO

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            pytest.param((ONE, TWO), ONE, id="first"),
            pytest.param((None, "text", TWO), TWO, id="after-others"),
            pytest.param(([None, TWO], ONE), TWO, id="in-a-list"),
            pytest.param(({"a": 1, "b": ONE},), ONE, id="in-a-mapping"),
            pytest.param((), None, id="none"),
            pytest.param(([], {}, None), None, id="empty"),
        ],
    )
    def test_first(self, given: tuple[Any, ...], expected: Tensor | None) -> None:
        """The first tensor is found inside tuples, lists and mappings."""
        assert first_input(given) is expected

    @pytest.mark.parametrize(
        ("given", "new", "args", "kwargs"),
        [
            pytest.param(inputs(ONE, TWO), NEW, (NEW, TWO), {}, id="positional"),
            pytest.param(inputs(mask=TWO, ids=ONE), NEW, (), {"mask": TWO, "ids": NEW}, id="kw"),
            pytest.param(inputs(None, mask=TWO), NEW, (None,), {"mask": NEW}, id="mixed"),
            pytest.param(inputs([3, ONE], TWO), NEW, ([3, NEW], TWO), {}, id="in-a-list"),
            pytest.param(inputs({"a": ONE}), NEW, ({"a": NEW},), {}, id="in-a-mapping"),
            pytest.param(inputs(ids=(ONE, TWO)), NEW, (), {"ids": (NEW, TWO)}, id="kw-tuple"),
            pytest.param(inputs(ONE, TWO), (NEW,), (NEW,), {}, id="tuple-fewer"),
            pytest.param(inputs(ONE), (NEW, TWO), (NEW, TWO), {}, id="tuple-more"),
            pytest.param(inputs(ONE, mask=TWO), (NEW,), (NEW,), {"mask": TWO}, id="tuple-args"),
            pytest.param(inputs(ONE, mask=TWO), (TWO, NEW), (TWO,), {"mask": NEW}, id="tuple-all"),
            pytest.param(
                inputs(ids=ONE, mask=TWO), (NEW,), (), {"ids": NEW, "mask": TWO}, id="tuple-kw"
            ),
            pytest.param(inputs(ids=ONE), (NEW, TWO), (NEW, TWO), {"ids": ONE}, id="tuple-longer"),
        ],
    )
    def test_replace(
        self, given: Inputs, new: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """A tensor goes where the first tensor was, a tuple in the places of the inputs."""
        before = (repr(given.args), repr(given.kwargs))

        got_args, got_kwargs = replace_input(given, new)

        assert repr((got_args, got_kwargs)) == repr((args, kwargs))
        assert (repr(given.args), repr(given.kwargs)) == before

    def test_nothing_to_replace(self) -> None:
        """Inputs without a tensor are refused."""
        with pytest.raises(TypeError, match="inputs hold no tensor"):
            replace_input(inputs(None, scale=3), NEW)

    def test_no_signature(self) -> None:
        """A module whose `forward` has no signature keeps keywords in the order of the call."""

        class Odd(nn.Module):
            forward = staticmethod(max)

        assert inputs_of(Odd(), (), {"b": ONE, "a": TWO}).names == ("b", "a")
