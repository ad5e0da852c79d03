"""Points at what a module takes or returns: a part of it, in the shape that its name promises.

Our torch hook is on the module while the point is used. It asks whether anything runs at the point
in this thread or task, takes the part, calls the point, and puts a new part into a new structure.
"""

import threading
from collections.abc import Callable
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tenterhook.activations import activation_of, first_input, inputs_of, replace, replace_input
from tenterhook.compiling import hooks_changed
from tenterhook.points import Point
from tenterhook_interiors.compiled import PythonForward, left_to_python
from tenterhook_interiors.wanted import changes, passed, wanted

Side = Literal["before", "after"]


@attrs.frozen
class Form:
    """How a part is taken from a tensor, and a new one put in its place."""

    take: Callable[[Tensor], Tensor]
    put: Callable[[Tensor, Tensor], Tensor]


WHOLE = Form(lambda tensor: tensor, lambda tensor, new: new)


def heads_of(start: int, heads: int, size: int) -> Form:
    """Return the form of heads that lie side by side in the last axis, from `start` on."""
    end = start + heads * size

    def put(tensor: Tensor, new: Tensor) -> Tensor:
        return torch.cat([tensor[..., :start], new.flatten(-2), tensor[..., end:]], -1)

    return Form(lambda tensor: torch.unflatten(tensor[..., start:end], -1, (heads, size)), put)


def threes_of(at: int, heads: int, size: int) -> Form:
    """Return the form of heads each of which has its query, key and value side by side."""
    start, end = at * size, (at + 1) * size

    def parted(tensor: Tensor) -> Tensor:
        return torch.unflatten(tensor, -1, (heads, 3 * size))

    def put(tensor: Tensor, new: Tensor) -> Tensor:
        parts = parted(tensor)
        return torch.cat([parts[..., :start], new, parts[..., end:]], -1).flatten(-2)

    return Form(lambda tensor: parted(tensor)[..., start:end], put)


TURNED = Form(lambda tensor: tensor.transpose(1, 2), lambda tensor, new: new.transpose(1, 2))
"""Heads before the sequence."""


class _OnModules:
    """Torch hooks that are on modules while a point is used. A copy of a model has none of them."""

    def __init__(self, *names: str) -> None:
        self.points = {name: Point(name, self._in_use) for name in names}
        for point in self.points.values():  # so that selections take their axes for what they are
            vars(point)["batch_first"] = True
        self._uses = 0
        self._handles: list[Any] = []

    def _in_use(self, used: bool) -> None:
        self._uses += 1 if used else -1
        if used and self._uses == 1:
            self._handles = self.put_on()
        elif not self._uses:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def put_on(self) -> list[Any]:
        """Put the torch hooks on and return their handles."""
        raise AssertionError("abstract")

    def through(self, name: str, given: Any) -> Any:
        """Return what a point makes of something, the same where nothing runs there."""
        point = self.points.get(name)
        return given if point is None or not wanted(point) else passed(point, given)

    def is_put(self, name: str, given: Any, new: Any) -> bool:
        """Whether what a point returned goes on: it is another, or is to be in the graph."""
        point = self.points.get(name)
        return new is not given or (point is not None and changes(point))

    def __reduce__(self) -> Any:
        return _copied, (type(self),)


def _copied(kind: type[_OnModules]) -> _OnModules:
    new = kind.__new__(kind)
    new.points = {}
    return new


class SidePoint(_OnModules):
    """A point at the first tensor that a module takes, or its activation."""

    def __init__(self, name: str, module: nn.Module, side: Side, form: Form = WHOLE) -> None:
        super().__init__(name)
        self.name, self.module, self.side, self.form = name, module, side, form

    def put_on(self) -> list[Any]:
        """Put the hook on that side of the module."""
        compiles = hooks_changed(self.module)
        if self.side == "before":
            before = left_to_python(self.before, compiles)
            return [self.module.register_forward_pre_hook(before, with_kwargs=True)]
        return [self.module.register_forward_hook(left_to_python(self.after, compiles))]

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return new inputs, `None` where they stay."""
        if not self.points:
            return None
        inputs = inputs_of(module, args, kwargs)
        new = self._new(first_input(inputs))
        return None if new is None else replace_input(inputs, new)

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return a new output, `None` where it stays."""
        new = self._new(activation_of(output)) if self.points else None
        return None if new is None else replace(output, new)

    def _new(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not wanted(self.points[self.name]):
            return None
        given = self.form.take(tensor)
        new = passed(self.points[self.name], given)
        return self.form.put(tensor, new) if self.is_put(self.name, given, new) else None


class MidPoint(_OnModules):
    """A point at the stream between attention and MLP: the block's input plus what is added to it.

    No module has it alone: the block adds, and uses the sum twice. So a change is made of what is
    added, that the sum becomes what the hook returned.
    """

    def __init__(self, name: str, block: nn.Module, added: nn.Module, scale: float) -> None:
        super().__init__(name)
        self.name, self.block, self.added, self.scale = name, block, added, scale
        self._stream = threading.local()  # what goes into the block in a thread's forward

    def put_on(self) -> list[Any]:
        """Look at what goes into the block, and stand after what is added."""
        compiles = hooks_changed(self.block, self.added)
        begin, after = (left_to_python(each, compiles) for each in (self.begin, self.after))
        return [
            self.block.register_forward_pre_hook(begin, with_kwargs=True),
            self.added.register_forward_hook(after),
        ]

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep what goes into the block, for as long as it runs."""
        given = first_input(inputs_of(module, args, kwargs)) if self.points else None
        self._stream.given = given

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Have the sum go through the point."""
        added, stream = activation_of(output), vars(self._stream).pop("given", None)
        if added is None or stream is None or not wanted(self.points[self.name]):
            return None
        total = stream + (added if self.scale == 1 else added * self.scale)
        new = passed(self.points[self.name], total)
        if not self.is_put(self.name, total, new):
            return None
        return replace(output, (new - stream) / self.scale)


class _Shape(threading.local):
    """Batch and sequence of this thread's forward: routers see tokens in one row."""

    batch: tuple[int, ...] = ()


class Experts(_OnModules):
    """Points at a router's logits, and at the ids and weights that experts are called with."""

    def __init__(
        self, number: int, block: nn.Module, router: nn.Module | None, experts: nn.Module | None
    ) -> None:
        self.router, self.experts, self.block = router, experts, block
        self.number = number
        names = [] if router is None else [f"router.{number}"]
        if experts is not None:
            names += [f"experts.{number}{part}" for part in ("", ":ids", ":weights")]
        super().__init__(*names)
        self._shape = _Shape()
        self._modes = threading.local()

    def put_on(self) -> list[Any]:
        """Look at the block's input, and stand at the router and the experts."""
        modules = [each for each in (self.block, self.router, self.experts) if each is not None]
        compiles = hooks_changed(*modules)
        begin = left_to_python(self.begin, compiles)
        handles: list[Any] = [self.block.register_forward_pre_hook(begin, with_kwargs=True)]
        if self.router is not None:
            before = left_to_python(self.before_router, compiles)
            after = left_to_python(self.after_router, compiles)
            handles += [
                self.router.register_forward_pre_hook(before),
                self.router.register_forward_hook(after, always_call=True),
                *([PythonForward(self.router)] if compiles else []),
            ]
        if self.experts is not None:
            choose = left_to_python(self.choose, compiles)
            handles.append(self.experts.register_forward_pre_hook(choose, with_kwargs=True))
        return handles

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep batch and sequence."""
        given = first_input(inputs_of(module, args, kwargs)) if self.points else None
        if given is not None:
            self._shape.batch = tuple(given.shape[:-1])

    def before_router(self, module: nn.Module, args: Any) -> None:
        """Have what the router's product gives go through the point."""
        name = f"router.{self.number}"
        is_asked = name in self.points and wanted(self.points[name])
        mode = _Product(self, name) if is_asked else None
        self._standing().append(mode)
        if mode is not None:
            mode.__enter__()  # type: ignore[no-untyped-call]

    def after_router(self, module: nn.Module, args: Any, output: Any) -> None:
        """Take the mode away, also where the router failed."""
        mode = self._standing().pop() if self._standing() else None
        if mode is not None:
            mode.__exit__(None, None, None)

    def _standing(self) -> list[Any]:
        found: list[Any] = vars(self._modes).setdefault("modes", [])
        return found

    def choose(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Have ids and weights go through their points."""
        if not self.points:
            return None
        inputs = inputs_of(module, args, kwargs)
        ids, weights = chosen(inputs)
        old = self.shaped(inputs[ids]), self.shaped(inputs[weights])
        name = f"experts.{self.number}"
        both = self.through(name, old)
        new = (self.through(f"{name}:ids", both[0]), self.through(f"{name}:weights", both[1]))
        asked = (name, f"{name}:ids", f"{name}:weights")
        is_same = new[0] is old[0] and new[1] is old[1]
        if is_same and not any(self.is_put(each, old, old) for each in asked):
            return None
        changed = list(inputs)
        for at, each in zip((ids, weights), new, strict=True):
            changed[at] = each.reshape(inputs[at].shape)
        return replace_input(inputs, tuple(changed))

    def shaped(self, tensor: Tensor) -> Tensor:
        """Return what is of tokens in one row as `(batch, seq, ...)`."""
        return tensor.reshape(*self._shape.batch, tensor.shape[-1])


def chosen(inputs: tuple[Any, ...]) -> tuple[int, int]:
    """Return which inputs of an experts module are the ids and the weights.

    `LookupError` where there are none of one shape.
    """
    for at, ids in enumerate(inputs):
        if isinstance(ids, Tensor) and not ids.is_floating_point() and ids.ndim >= 2:
            for other, weights in enumerate(inputs):
                is_like = isinstance(weights, Tensor) and weights.shape == ids.shape
                if is_like and weights.is_floating_point():
                    return at, other
    raise LookupError("It is not called with ids and weights of experts.")


class _Product(TorchFunctionMode):
    """Has the first linear product of a router's call go through its point."""

    def __init__(self, experts: Experts, name: str) -> None:
        super().__init__()
        self._experts, self._name, self._seen = experts, name, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._seen or func is not torch.nn.functional.linear:
            return result
        self._seen = True
        given = self._experts.shaped(result)
        new = self._experts.through(self._name, given)
        is_put = self._experts.is_put(self._name, given, new)
        return new.reshape(result.shape) if is_put else result
