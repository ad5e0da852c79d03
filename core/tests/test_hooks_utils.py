"""The activation of inputs and outputs, and the in-place way of putting another there."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tenterhook.hooks.utils import (
    apply_modification_to_output,
    extract_tensor_from_input,
    extract_tensor_from_output,
)

ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


class Pair(NamedTuple):
    """A named tuple whose first field is no tensor."""

    name: str
    value: Tensor


@dataclass
class Hidden:
    """An output object."""

    last_hidden_state: Any = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param((ONE, TWO), ONE, id="tensor"),
        pytest.param(((ONE, TWO), TWO), ONE, id="tuple"),
        pytest.param(([None, TWO], ONE), TWO, id="list"),
        pytest.param([ONE], ONE, id="inputs-in-a-list"),
        pytest.param(((), ONE), None, id="empty-tuple"),
        pytest.param((), None, id="nothing"),
        pytest.param([], None, id="empty-list"),
        pytest.param(None, None, id="none"),
        pytest.param((None, ONE), None, id="first-is-none"),
        pytest.param(("text", ONE), None, id="first-is-text"),
        pytest.param((5,), None, id="number"),
    ],
)
def test_from_input(given: Any, expected: Tensor | None) -> None:
    """The first item if it is a tensor, else the first tensor inside it."""
    assert extract_tensor_from_input(given) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(ONE, ONE, id="tensor"),
        pytest.param((ONE, TWO), ONE, id="tuple"),
        pytest.param((None, TWO, ONE), TWO, id="later-in-tuple"),
        pytest.param([None, TWO], TWO, id="list"),
        pytest.param(Pair("x", TWO), TWO, id="named-tuple"),
        pytest.param(Hidden(TWO), TWO, id="last_hidden_state"),
        pytest.param(SimpleNamespace(last_hidden_state=ONE), ONE, id="any-object"),
        pytest.param(Hidden(None), None, id="none-inside"),
        pytest.param(Hidden("text"), None, id="text-inside"),
        pytest.param((), None, id="empty-tuple"),
        pytest.param([None], None, id="no-tensor"),
        pytest.param(None, None, id="none"),
        pytest.param("text", None, id="text"),
    ],
)
def test_from_output(given: Any, expected: Tensor | None) -> None:
    """A tensor itself, the first of a tuple or list, the last hidden state, else `None`."""
    assert extract_tensor_from_output(given) is expected


class TestApply:
    def test_into_a_tensor(self) -> None:
        """A tensor is written to."""
        output = torch.zeros(2)
        apply_modification_to_output(output, torch.ones(2))
        assert output.tolist() == [1, 1]

    def test_into_a_parameter(self) -> None:
        """A tensor that requires a gradient is written to as well."""
        output = torch.nn.Parameter(torch.zeros(2))
        apply_modification_to_output(output, torch.ones(2))
        assert output.tolist() == [1, 1]
        assert output.requires_grad

    def test_into_a_list(self) -> None:
        """The first tensor of a list is replaced, not written to."""
        old, new, rest = torch.zeros(1), torch.ones(1), torch.zeros(1)
        output = [None, old, rest]
        apply_modification_to_output(output, new)
        assert output[1] is new
        assert output[2] is rest
        assert old.tolist() == [0]

    def test_into_a_tuple(self) -> None:
        """The first tensor of a tuple is written to."""
        old, rest = torch.zeros(1), torch.zeros(1)
        apply_modification_to_output((None, old, rest), torch.ones(1))
        assert (old.tolist(), rest.tolist()) == ([1], [0])

    def test_into_an_object(self) -> None:
        """The last hidden state of an output object is set, not written to."""
        old, new = torch.zeros(1), torch.ones(3)
        output = Hidden(old)
        apply_modification_to_output(output, new)
        assert output.last_hidden_state is new
        assert old.tolist() == [0]

    @pytest.mark.parametrize("make", [lambda t: t, lambda t: [t], lambda t: (t,), Hidden])
    def test_casts(self, make: Any) -> None:
        """The tensor takes the dtype of what it replaces."""
        output = make(torch.zeros(1, dtype=torch.bfloat16))
        apply_modification_to_output(output, torch.tensor([3.0], dtype=torch.float64))
        found = extract_tensor_from_output(output)
        assert found is not None
        assert (found.dtype, found.item()) == (torch.bfloat16, 3)

    @pytest.mark.parametrize("make", [lambda t: [t], Hidden], ids=["list", "object"])
    def test_moves_to_the_device_asked_for(self, make: Any) -> None:
        """`target_device` says where the tensor goes, else the output's device does."""
        output = make(torch.zeros(1))
        apply_modification_to_output(output, torch.ones(1), "meta")
        assert extract_tensor_from_output(output).device.type == "meta"  # type: ignore[union-attr]

        output = make(torch.zeros(1, device="meta"))
        apply_modification_to_output(output, torch.ones(1))
        assert extract_tensor_from_output(output).device.type == "meta"  # type: ignore[union-attr]

    @pytest.mark.parametrize("output", [None, "text", (), [], Hidden(None)], ids=repr)
    def test_nothing_to_change(self, output: Any) -> None:
        """An output without a tensor is left alone."""
        before = repr(output)
        apply_modification_to_output(output, torch.ones(1))
        assert repr(output) == before

    @pytest.mark.parametrize("make", [lambda t: t, lambda t: (t,)], ids=["tensor", "tuple"])
    def test_never_broadcasts(self, make: Any) -> None:
        """A tensor of another shape does not spread over the output without a word."""
        with pytest.raises(RuntimeError, match=r"shape \(1,\) does not fit .* \(3,\)"):
            apply_modification_to_output(make(torch.zeros(3)), torch.ones(1))
