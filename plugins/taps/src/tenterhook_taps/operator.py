"""The custom operator that stands for a tap in a compiled graph.

The compiler sees an operator with the shape of its result and nothing else. When the compiled model
runs, the operator runs Python: it finds the tap, which records the activation if somebody captures,
and returns what the activation is multiplied by and what is added to it, one small tensor. So
nothing that changes at a tap is in the graph, and nothing is compiled anew. The product and the sum
are in the graph: the compiler fuses them with what comes before and after, and autograd knows them.

Three tricks hold this up.

- The operator finds its tap by a number, and the number is in a tensor rather than in the graph, so
  that one graph serves all blocks of a kind where each is compiled alone.
- It says that it writes to that tensor, and does not. An operator that writes is neither dropped
  where nobody uses its result, nor merged with another that has the same inputs: a tap captures
  each call of its layer. test_taps_compiled.py, `test_every_call_counts`.
- It is defined by `torch.library.define`. `torch.library.custom_op` looks after gradients and
  aliases, which are none of its concern, and takes 33 microseconds a call instead of 2.
"""

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor


class Standing(Protocol):
    """What the operator knows of a tap."""

    def called(self, activation: Tensor) -> Tensor | None:
        """Take note of a call; return its change, or `None` to leave the activation alone.

        See `neutral`. What it raises surfaces from the compiled model.
        """


_standing: "weakref.WeakValueDictionary[int, Standing]" = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def number_for(tap: Standing) -> Tensor:
    """Return the number that the operator finds `tap` by, int64 `()`, on the CPU."""
    number = next(_numbers)
    _standing[number] = tap
    with torch.inference_mode(False):
        return torch.tensor(number, device="cpu")


def forget(number: Tensor) -> None:
    """Have code that was compiled with a tap leave activations alone."""
    _standing.pop(int(number), None)


def neutral(activation: Tensor) -> Tensor:
    """Return the change that leaves `activation` as it is: `(batch, 1, ..., 1 + width)`.

    First on the last axis is what a row is multiplied by, then what is added to each feature. In
    float32 or better, so that a sum in a lower precision is rounded once.
    """
    change = _room_for(activation).zero_()
    change[..., 0] = 1
    return change


def changed(activation: Tensor, change: Tensor) -> Tensor:
    """Return the changed activation, in memory of its own, of the same dtype."""
    return (activation * change[..., :1] + change[..., 1:]).to(activation.dtype)


def _room_for(activation: Tensor) -> Tensor:
    shape = activation.shape
    rows = shape[:-1]
    width = shape[-1] if shape else 0
    wide = torch.promote_types(activation.dtype, torch.float32)
    return activation.new_empty((*rows[:1], *(1 for _ in rows[1:]), 1 + width), dtype=wide)


# A CUDA graph would replay what the tap did when it was recorded. Not in each version of torch.
_NOT_IN_CUDA_GRAPHS: Any = getattr(torch.Tag, "cudagraph_unsafe", None)

torch.library.define(
    "tenterhook_taps::tap",
    "(Tensor activation, Tensor(a!) number) -> Tensor",
    tags=() if _NOT_IN_CUDA_GRAPHS is None else (_NOT_IN_CUDA_GRAPHS,),
)


def _run(activation: Tensor, number: Tensor) -> Tensor:
    tap = _standing.get(int(number))
    change = None if tap is None else tap.called(activation)
    if change is None:
        key = activation.shape, activation.dtype, activation.device
        change = _neutral.get(key)
        if change is None:
            if len(_neutral) >= MOST_KEPT:
                _neutral.clear()
            with torch.inference_mode(False):
                change = _neutral[key] = neutral(activation)
    return change.clone()  # compiled code may use the memory of a result for something else


_neutral: dict[Any, Tensor] = {}

MOST_KEPT = 64
"""How many changes are kept for calls of the same shape: to copy one is a third of making it."""

torch.library.impl("tenterhook_taps::tap", "CompositeExplicitAutograd", _run)
torch.library.register_fake("tenterhook_taps::tap", lambda activation, _: _room_for(activation))

tap: Any = torch.ops.tenterhook_taps.tap.default
"""`tap(activation, number)`: the change of the activation, see `neutral`."""
