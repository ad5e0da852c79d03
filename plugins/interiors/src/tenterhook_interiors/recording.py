"""What one small forward of a twin showed: each module's inputs and output, in order of ending.

And the arithmetic that names are held to: whether two tensors are one, as far as the dtype says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activations import activation_of, inputs_of

_WITHIN = {torch.float16: 8e-3, torch.bfloat16: 6e-2}
_USUAL = 2e-5
"""How far two ways of computing one tensor may be apart, by the norm of the difference.

In float64 too: softmaxes are float32 there.
"""


def same(found: Tensor | None, wanted: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether two tensors are one, of the same shape, as far as rounding in `dtype` lets it be."""
    if found is None or wanted is None or found.shape != wanted.shape:
        return False
    found, wanted = found.double(), wanted.double()
    size = wanted.norm()
    if not bool(torch.isfinite(size)) or not bool(size):
        return bool(torch.equal(found, wanted))
    return bool((found - wanted).norm() <= _WITHIN.get(dtype, _USUAL) * size)


@attrs.frozen(eq=False)
class Call:
    """One call of a module."""

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]
    given: Tensor | None
    """The first float tensor that it took."""
    result: Tensor | None
    """The activation of what it returned."""


@attrs.frozen(eq=False)
class Recording:
    """The calls of one forward, and what it returned."""

    calls: Mapping[str, Call]
    """By path, in the order in which they ended; of a module that was called twice, none."""
    output: Any

    def of(self, path: str) -> Call | None:
        """Return the call of a module, if there was one."""
        return self.calls.get(path)

    def inside(self, path: str) -> Iterator[Call]:
        """Yield the calls of the modules inside one, in the order in which they ended."""
        for name, call in self.calls.items():
            if name.startswith(f"{path}."):
                yield call


def record(model: nn.Module, inputs: Mapping[str, Any]) -> Recording:
    """Run the model and record; nothing stays on it."""
    calls: dict[str, Call] = {}
    given: dict[str, tuple[Any, ...]] = {}
    twice: set[str] = set()
    handles = []

    def hook(path: str) -> Any:
        def seen(module: nn.Module, args: Any, output: Any) -> None:
            twice.update({path} & calls.keys())
            taken = given.pop(path, ())
            first = next((each for each in taken if _is_float(each)), None)
            calls[path] = Call(path, module, taken, first, _copy(activation_of(output)))

        return seen

    def before(path: str) -> Any:
        def seen(module: nn.Module, args: Any, kwargs: Any) -> None:
            given[path] = tuple(map(_copy, inputs_of(module, args, kwargs)))

        return seen

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
            handles.append(module.register_forward_hook(hook(path)))
    try:
        with torch.no_grad():
            output = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Recording({path: call for path, call in calls.items() if path not in twice}, output)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _copy(value: Any) -> Any:
    """Return a copy of a tensor: layers may write to what they took, or to what others returned."""
    return value.clone() if isinstance(value, Tensor) else value


def logits_of(output: Any) -> Tensor | None:
    """Return the logits, of a model without any its last hidden state."""
    found = getattr(output, "logits", None)
    if found is None:
        found = activation_of(output)
    return found if isinstance(found, Tensor) else None


def is_linear(module: nn.Module) -> bool:
    """Whether a module has a weight of two axes."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2
