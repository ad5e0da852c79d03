"""What runs at a layer where a part of its activations is selected: changes, detectors, recorders.

Core hands a selection what would run at the layer, and runs what it gets back. In a call:

1. The selection at work says what is selected of this activation (`SelectionAtWork.part_at`). Of a
   call that `every` leaves out, or in which nothing is selected, nothing runs.
2. A controller is given the whole activation. What it returns keeps the shape, and counts only
   where the mask says: the rest stays to the bit.
3. A detector is given the selected part in the activation's place, as a capture keeps it.
4. A gradient comes by when the forward is over. What was selected in that is noted while it runs
   (`noted`) and holds for the gradient of the same activation.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tenterhook.activations import (
    activation_of,
    first_input,
    inputs_of,
    part_of,
    replace,
    replace_input,
    shape_of,
    spread_as,
    whole,
    with_item,
    with_part,
)
from tenterhook.scopes import Entry, Form, Recorder
from tenterhook_selections.eager import eager
from tenterhook_selections.receipts import Receipt

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Picked(Protocol):
    """Which part of one activation is selected."""

    @property
    def places(self) -> Tensor | None:
        """Long `(n, 2)`, row and position; `None` where tokens are not what was selected."""

    def of(self, tensor: Tensor) -> Tensor:
        """Take that part out of an activation of the same shape."""

    def alone(self) -> "Picked":
        """Return the same, to be kept when the forward is over."""


class Mask(NamedTuple):
    """Where the selected part of one activation is."""

    where: Tensor
    """Bool, of the activation's shape or broadcast to it."""

    tokens: int
    """How many tokens it has; without an axis of them, how many rows."""

    chosen: Tensor | None = None
    """Long `(n,)`: the same among rows, or rows and tokens made one axis; `None` where features are
    selected."""

    axes: int = 1
    """How many axes `chosen` makes one."""

    def mix(self, old: Tensor, new: Tensor) -> Tensor:
        """Return `old`, with what `new` has where the selected part is."""
        index, count = self.chosen, self.where.numel()
        if index is not None and index.numel() == count:
            return new
        if index is None or old.numel() < _LARGE or index.numel() > count // _FEW:
            return torch.where(self.where, new, old)
        # Of few tokens, large: takes less than half of the time that a look at each number takes.
        flat, rows = (each.flatten(0, self.axes - 1) for each in (old, new))
        return torch.index_copy(flat, 0, index, rows.index_select(0, index)).reshape(old.shape)


_LARGE, _FEW = 65_536, 4
"""Activations of so many numbers, and one of so many tokens, are changed where they are alone."""


class AtWork(Protocol):
    """The selection, as far as what runs at a layer asks it."""

    every: int
    receipt: Receipt

    def mask(
        self, module: nn.Module, tensor: Tensor, given: Tensor | None, call: int
    ) -> Mask | None:
        """Return where the selected part is; see `SelectionAtWork.mask`."""

    def pick(self, module: nn.Module, tensor: Tensor, given: Tensor | None, call: int) -> Any:
        """Return which part is selected, a `Picked`; see `SelectionAtWork.pick`."""

    def recorded(self, picked: Any, calls: list[Tensor], places: list[Tensor]) -> None:
        """Take note of where a pick was added; see `SelectionAtWork.recorded`."""


def _given(module: nn.Module, args: Args, kwargs: Kwargs) -> Tensor | None:
    """Return the first input of a call, which is mostly a positional one."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    found = first_input(args)
    return first_input(inputs_of(module, args, kwargs)) if found is None and kwargs else found


class SelectedEntry(Entry):
    """An entry that runs for the selected part alone."""

    __slots__ = ("__weakref__", "count", "entry", "layer", "matched", "selecting")

    def __init__(self, entry: Entry, selecting: AtWork) -> None:
        super().__init__(entry.hook, entry.policy)
        self.entry, self.selecting = entry, selecting
        self.count, self.matched = 0, False
        self.layer: Any = None
        """The layer that called it."""

    @property
    def asked(self) -> bool:
        """Whether any call came by."""
        return self.count > 0

    def detecting(self) -> "SelectedEntry | None":
        """Return itself where it detects, which it does while controllers are off."""
        return None if self.entry.detecting() is None else self

    @eager  # what runs depends on the forward around it, which is read off Python's stack
    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run on what the module returned; see `Entry`."""
        self.fired = True
        return self._surfacing(self._after, module, args, kwargs, output)

    @eager
    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Run on the inputs; see `Entry`."""
        return super().before(module, args, kwargs)

    @eager
    def noted(self, module: nn.Module, args: Args, kwargs: Kwargs, tensor: Tensor) -> Any:
        """Return what is selected in this call, for the gradient of `tensor`; see `Entry`."""
        given = _given(module, args, kwargs)
        return self._surfacing(self._noted, module, tensor, given)

    def gradient(self, module: nn.Module, grad: Tensor, noted: Any = None) -> Tensor | None:
        """Run on the gradient, where something was selected in the forward; see `Entry`."""
        if noted is None:
            return None
        return self._surfacing(self._of_gradient, module, grad, noted)

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        raise AssertionError("abstract")

    def _noted(self, module: nn.Module, tensor: Tensor, given: Tensor | None) -> Any:
        raise AssertionError("abstract")

    def _of_gradient(self, module: nn.Module, grad: Tensor, noted: Any) -> Tensor | None:
        raise AssertionError("abstract")

    def _counts(self, tensor: Tensor | None) -> bool:
        """Count a call, and say whether it is selected."""
        call, self.count = self.count, self.count + 1
        self.layer = self.hook.layer_signature
        return tensor is not None and call % self.selecting.every == 0

    def __reduce__(self) -> Any:
        return self.entry.__reduce__()


class SelectedChange(SelectedEntry):
    """A controller whose change counts only where a selection says."""

    __slots__ = ()

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        given = _given(module, args, kwargs)
        old = part_of(output, self.entry.path)
        noted = self._noted(module, activation_of(old), given)
        if noted is None:
            return None
        changed = self.entry.after(module, args, kwargs, output)
        if changed is None:
            return None
        self.selecting.receipt.count_call()
        new = self._mixed(old, part_of(changed, self.entry.path), module, given, noted)
        return with_part(output, self.entry.path, new)

    def _before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        given = _given(module, args, kwargs)
        if self._noted(module, given, given) is None:
            return None
        changed = self.entry.before(module, args, kwargs)
        if changed is None:
            return None
        self.selecting.receipt.count_call()
        added = changed[0][len(args) :]  # what a tuple of inputs holds beyond those passed
        mixed = self._mixed(args[: len(changed[0])], changed[0][: len(args)], module, given)
        return (*mixed, *added), self._mixed(kwargs, changed[1], module, given)

    def _noted(self, module: nn.Module, tensor: Tensor | None, given: Tensor | None) -> Mask | None:
        if not self._counts(tensor) or tensor is None:
            return None
        mask = self.selecting.mask(module, tensor, given, self.count - 1)
        self.matched = self.matched or mask is not None
        return mask

    def _of_gradient(self, module: nn.Module, grad: Tensor, noted: Mask) -> Tensor | None:
        new = self.entry.gradient(module, grad)
        if new is None:
            return None
        self.selecting.receipt.count_call()
        self.selecting.receipt.add(grad, new, noted.where, noted.tokens)
        return noted.mix(grad, new)

    def _mixed(
        self,
        old: Any,
        new: Any,
        module: nn.Module,
        given: Tensor | None,
        noted: Mask | None = None,
    ) -> Any:
        """Return `old`, with what `new` has for each of its tensors where that is selected.

        `noted` is what is selected of `old` itself, where it is a tensor and that is known.
        """
        if new is old:
            return old
        if isinstance(old, tuple | list):
            for place, (was, now) in enumerate(zip(old, new, strict=True)):
                if now is not was:
                    old = with_item(old, place, self._mixed(was, now, module, given))
            return old
        if type(old) is dict:
            return {name: self._mixed(was, new[name], module, given) for name, was in old.items()}
        was, now = activation_of(whole(old)), activation_of(whole(new))
        if was is None or now is None or now.shape != was.shape:
            shapes = [None if each is None else shape_of(each) for each in (was, now)]
            raise ValueError(
                "A change of a selected part keeps the activation's shape {}; this one returned "
                "{}.".format(*shapes)
            )
        known = noted if old is was else None
        mask = known
        if mask is None:
            mask = self.selecting.mask(module, was, given, self.count - 1)
        if mask is None:
            return old
        now = now.to(was.dtype)
        self.selecting.receipt.add(was, now, mask.where, mask.tokens)
        return replace(old, spread_as(mask.mix(was, now), activation_of(old)))


class _Here(threading.local):
    module: nn.Module | None = None


here = _Here()
"""The layer whose selected part a detector of this thread is looking at."""


@contextmanager
def _looking_at(module: nn.Module) -> Iterator[None]:
    before, here.module = here.module, module
    try:
        yield
    finally:
        here.module = before


class SelectedDetection(SelectedEntry):
    """A detector that is given the selected part in the activation's place."""

    __slots__ = ()

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        output = whole(output)
        tensor = activation_of(output)
        picked = self._noted(module, tensor, _given(module, args, kwargs))
        if picked is not None and tensor is not None:
            with _looking_at(module):
                self.entry.after(module, args, kwargs, replace(output, picked.of(tensor)))

    def _before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        inputs = inputs_of(module, args, kwargs)
        given = whole(first_input(inputs))
        picked = self._noted(module, given, given)
        if picked is not None and given is not None:
            with _looking_at(module):
                self.entry.before(module, *replace_input(inputs, picked.of(given)))

    def _noted(
        self, module: nn.Module, tensor: Tensor | None, given: Tensor | None
    ) -> Picked | None:
        if not self._counts(tensor) or tensor is None:
            return None
        picked: Picked = self.selecting.pick(module, tensor, given, self.count - 1)
        is_empty = not picked.of(tensor).numel()
        self.matched = self.matched or not is_empty
        return None if is_empty else picked.alone()

    def _of_gradient(self, module: nn.Module, grad: Tensor, noted: Picked) -> None:
        self.entry.gradient(module, noted.of(grad))


class SelectedRecorder(Recorder):
    """Keeps the selected part of what one layer returned, or was given."""

    __slots__ = ("__weakref__", "asked", "count", "matched", "selecting", "where")

    def __init__(self, layer: str, at: int, form: Form, selecting: AtWork) -> None:
        super().__init__(layer, at, form)
        self.selecting, self.count = selecting, 0
        self.asked = self.matched = False
        """Whether anything was kept, and whether anything was selected in it."""
        self.where: list[Tensor] = []
        """Where the selected tokens of each call stood."""

    def keep(
        self, tensor: Tensor | None, module: Any, args: Any, kwargs: Any, otherwise: str
    ) -> None:
        """Keep the selected part of a tensor; see `Recorder`."""
        call, self.count = self.count, self.count + 1
        if tensor is None:
            super().keep(tensor, module, args, kwargs, otherwise)
        elif call % self.selecting.every == 0:
            given = _given(module, args, kwargs)
            try:
                picked = self.selecting.pick(module, tensor, given, call)
                part = picked.of(tensor)
            except (ValueError, IndexError) as error:
                raise type(error)(f"Layer {self.layer!r}: {error}") from None
            if (places := picked.places) is not None:
                self.where.append(places)
            self.asked, self.matched = True, self.matched or part.numel() > 0
            super().keep(part, module, args, kwargs, otherwise)
            self.selecting.recorded(picked, self.opening.own[self.at], self.where)
