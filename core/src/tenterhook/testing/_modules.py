"""Small real modules that return an activation in every structure that models use.

A model of these keeps nothing of a call: several threads may run one at once, and what one of them
sees is its own.
"""

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTH = 8
"""Features of the activations that hooks of the contracts see."""


@dataclasses.dataclass
class Output:
    """As models of Hugging Face return: fields, some of them `None`."""

    last_hidden_state: Tensor
    note: str = "kept"
    other: Tensor | None = None


class Named(NamedTuple):
    """A named tuple."""

    hidden: Tensor
    note: str


WRAPPINGS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda x: x, lambda y: y),
    "tuple": (lambda x: (x, "kept", x.sum()), lambda y: y[0]),
    "list": (lambda x: [x, "kept", None], lambda y: y[0]),
    "dict": (lambda x: {"last_hidden_state": x, "note": "kept"}, lambda y: y["last_hidden_state"]),
    "ordered dict": (
        lambda x: OrderedDict(note="kept", last_hidden_state=x),
        lambda y: y["last_hidden_state"],
    ),
    "dataclass": (lambda x: Output(x), lambda y: y.last_hidden_state),
    "named tuple": (lambda x: Named(x, "kept"), lambda y: y.hidden),
}
"""How an activation is wrapped, and found again."""


class Inner(nn.Module):
    """The layer that hooks stand on: mixes features, returns a structure."""

    def __init__(self, structure: str) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.structure = structure

    def forward(self, x: Tensor) -> Any:
        """Take and return `(batch, seq, WIDTH)`, wrapped."""
        return WRAPPINGS[self.structure][0](torch.tanh(self.linear(x)))


class Outer(nn.Module):
    """A model around `inner`; returns a tensor, whatever structure that returned."""

    def __init__(self, structure: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, WIDTH)
        self.before = nn.Linear(WIDTH, WIDTH)
        self.inner = Inner(structure)
        self.between = nn.Identity()  # where `returned_by_inner` looks
        self.after = nn.Linear(WIDTH, WIDTH)
        self.fails = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Take ids `(batch, seq)`; return `(batch, seq, WIDTH)`."""
        x = self.before(self.embed(input_ids))
        returned = self.between(self.inner(x))
        if self.fails:
            raise RuntimeError("the model failed")
        y = WRAPPINGS[self.inner.structure][1](returned)
        result: Tensor = self.after(y) + x
        return result


@contextlib.contextmanager
def returned_by_inner(model: Outer) -> Iterator[list[Any]]:
    """List what `inner` returned, hooks included, of each call while it is open.

    A hook of PyTorch's own on the next layer sees it. An attribute of the model would be shared by
    the threads that run it, and one would see what another's call returned.
    """
    found: list[Any] = []
    handle = model.between.register_forward_hook(lambda _, given, __: found.append(given[0]))
    try:
        yield found
    finally:
        handle.remove()


def a_model(structure: str = "tensor", dtype: torch.dtype = torch.float32) -> Outer:
    """Return a model, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Outer(structure).to(dtype)


def some_ids(batch: int = 2, seq: int = 3, seed: int = 0) -> Tensor:
    """Return ids `(batch, seq)`, the same each time."""
    return torch.randint(1, 32, (batch, seq), generator=torch.Generator().manual_seed(seed))
