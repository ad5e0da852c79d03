"""A selection in one open scope: what core's scopes ask which part of an activation is meant.

What is selected is the same at every layer of a forward that has the same axes. So it is worked out
for the first of them and kept with the forward (`Part`): at the others it costs a look.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from tenterhook.scopes import Entry, Form, Place
from tenterhook_selections.axes import Axes, Keys, absent_of, stacked
from tenterhook_selections.carriers import Carriers, first_of_logits
from tenterhook_selections.eager import eager
from tenterhook_selections.forwards import (
    Forward,
    begin,
    end,
    is_beside,
    running_forward,
    that_take_text,
)
from tenterhook_selections.generate_calls import OfOneModel
from tenterhook_selections.parts import (
    Mask,
    SelectedChange,
    SelectedDetection,
    SelectedRecorder,
)
from tenterhook_selections.receipts import Receipt
from tenterhook_selections.texts import Texts
from tenterhook_selections.tokens import Seen
from tenterhook_selections.watch import Watch


class Choice(Protocol):
    """What a selection says, as far as it is put to work; `Selection` is one."""

    @property
    def every(self) -> int:
        """The first call of a layer and each `every`-th one after it."""

    @property
    def rows(self) -> object:
        """Rows of the batch; `None` for all."""

    @property
    def features(self) -> object:
        """Indices along the last axis; `None` for all."""

    @property
    def heads(self) -> object:
        """Heads of an attention; `None` for all."""

    @property
    def of_tokens(self) -> bool:
        """Whether it selects among tokens."""

    @property
    def tokens(self) -> object:
        """Which tokens; `None` for all."""

    @property
    def phase(self) -> object:
        """`"prompt"`, `"generated"` or `None`."""

    @property
    def step(self) -> object:
        """Forwards of a generation, or of the model; `None` for all."""

    def is_at(self, step: int) -> bool:
        """Whether a step is selected, counted from 0."""

    def token_mask(self, shape: torch.Size, device: torch.device, seen: Seen | None) -> Tensor:
        """Return which rows and tokens are selected, a bool mask of the first axis or two."""

    def feature_index(self, count: int, device: torch.device) -> Tensor | None:
        """Return the selected features of `count`, long `(n,)`; `None` for all of them."""

    def head_index(self, count: int, device: torch.device) -> Tensor | None:
        """Return the selected heads of `count`, long `(n,)`; `None` for all of them."""


@attrs.frozen(eq=False)
class Part:
    """What is selected of the activations of one shape in one forward."""

    mask: Tensor
    """Bool, of the first axis or two."""

    index: Tensor
    """Long `(n,)`: which rows of the activation, its selected axes made one, are selected."""

    rows: Tensor
    """Long `(n,)`, on the CPU: the row of the batch of each selected token."""

    columns: Tensor
    """Long `(n,)`, on the CPU: where it stands in the forward."""

    places: Tensor | None
    """Long `(n, 2)`, on the CPU: row and position; `None` where tokens are not selected."""

    is_all: bool
    """Whether everything is selected."""

    count: int
    """How many tokens are selected, or rows."""

    is_searched: bool = False
    """Whether it is of a step of a search."""

    is_mixed: bool = False
    """Whether the rows are those of beams or candidates, not of what is returned."""


@attrs.frozen(eq=False)
class Picked:
    """Which part of one activation is selected."""

    part: Part | None
    """Which rows; `None` for all of the activation, its axes as they are."""

    features: Tensor | None
    """Long `(n,)`, along the last axis; `None` for all."""

    forward: Forward | None
    """The forward that runs."""

    axes: Axes | None = None
    """What the axes are, where the layer says so."""

    heads: Tensor | None = None
    """Long `(n,)`, along the axis of heads; `None` for all."""

    keys: Keys | None = None
    """Which key is which token; `None` where they stay as they are."""

    absent: float = 0.0
    """What stands for a key that is not there."""

    @property
    def places(self) -> Tensor | None:
        """Where the selected tokens stand; `None` where tokens are not what was selected."""
        return None if self.part is None else self.part.places

    def of(self, tensor: Tensor) -> Tensor:
        """Take that part out of an activation of the same shape: a copy, or a view of it all."""
        return self._taken(tensor, self.absent)

    def put(self, tensor: Tensor, values: Tensor) -> Tensor:
        """Return the activation with `values`, as `of` gives them, in the selected part's place.

        Raises `ValueError` for values of another shape.
        """
        numbers = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
        index = self._taken(numbers, -1)
        if values.shape != index.shape:
            raise ValueError(
                f"Values of shape {tuple(values.shape)} are put back where the selection means "
                f"{tuple(index.shape)}. Give what a capture with the same selection gave."
            )
        there = index >= 0
        return tensor.reshape(-1).index_copy(0, index[there], values[there]).reshape(tensor.shape)

    def _taken(self, tensor: Tensor, absent: float) -> Tensor:
        part, axes = self.part, self.axes
        joined = part is not None and part.mask.ndim > 1
        if axes is not None and joined:
            tensor = axes.tokens_second(tensor)
        if part is not None:
            flat = tensor if part.mask.ndim == 1 else tensor.flatten(0, 1)
            tensor = flat if part.is_all else flat.index_select(0, part.index)
        if self.keys is not None and part is not None:
            tensor = self.keys.aligned(tensor, part.rows, absent)
        if self.heads is not None and axes is not None:
            at = axes.heads_of_tokens() if joined else axes.heads
            tensor = tensor if at is None else tensor.index_select(at, self.heads)
        return tensor if self.features is None else tensor.index_select(-1, self.features)

    def alone(self) -> "Picked":
        """Return the same without the forward, to be kept when that is over."""
        return attrs.evolve(self, forward=None)


@attrs.define
class _Asked:
    """What the forwards had that a selection was asked for, to say why it matched nothing."""

    forwards: int = 0
    longest: int = 0
    generated: bool = False
    masked: bool = False

    def of(self, seen: Seen | None) -> None:
        """Take note of a forward's tokens."""
        if seen is None:
            return
        self.forwards += 1
        self.longest = max([self.longest, *seen.count[seen.real.any(1)].tolist()])
        self.generated = self.generated or bool(seen.generated.any())


_Mask = tuple["weakref.ref[SelectionAtWork]", "weakref.ref[nn.Module]", Part, Axes | None]


class _Latest(threading.local):
    mask: _Mask | None = None


latest = _Latest()
"""What was selected at the layer that this thread is changing, by whom. It keeps neither alive, nor
the forward: that ends when it ends."""


class SelectionAtWork:
    """A selection in one open scope; see `tenterhook.scopes.Selecting`."""

    def __init__(self, selection: Choice, model: nn.Module) -> None:
        self.selection = selection
        self.every = selection.every
        self._of_tokens = selection.of_tokens  # every layer asks
        self.places: Sequence[Place] = (OfOneModel(model),)
        """What else is to know of the scope."""
        self.receipt: Any = Receipt()
        """What was changed in the scope."""
        self.left_over: list[Callable[[], str | None]] = []
        """Each says at the end of the scope what it had and was not asked for, if anything."""
        self._model = model
        self._steps = 0
        self._carriers = Carriers.of(model)
        self._parts: list[weakref.ref[Any]] = []
        """What runs at the layers, weakly: it knows the selection, and a cycle would keep a model.
        """
        self._key = object()
        self._texts = Texts()
        self._of_calls: dict[int, list[int]] = {}
        """Which texts each call is of, by the list of where its tokens stood."""
        self._absent: dict[int, float] = {}
        """What stands for keys that are not there, by the same list, of layers that have keys."""
        self._asked = _Asked()

    @cached_property
    def modules(self) -> Sequence[nn.Module]:
        """The modules whose forwards are taken note of: the model first."""
        return that_take_text(self._model)

    @cached_property
    def _watch(self) -> Watch:
        return Watch(self._model, self.modules)

    @eager
    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Take note of the state that a forward returns."""
        end(module, output)

    @eager
    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take note of the inputs of a forward; they are looked at when a layer asks."""
        forward = begin(module, args, kwargs)
        if forward is not None and module is self._model:
            forward.masks[self] = self._steps
            self._steps += 1

    def detecting(self) -> "SelectionAtWork":
        """Return itself: it looks on while controllers are off."""
        return self

    def change(self, entry: Entry) -> Entry:
        """Return what runs a hook's entry at one layer, for the selected part alone."""
        kind = SelectedChange if entry.detecting() is None else SelectedDetection
        part = kind(entry, self)
        self._parts.append(weakref.ref(part))
        return part

    def recorder(self, layer: str, at: int, form: Form) -> SelectedRecorder:
        """Return what keeps the selected part of what a layer gives, in a capture."""
        part = SelectedRecorder(layer, at, form, self)
        self._parts.append(weakref.ref(part))
        return part

    def mask(
        self, module: nn.Module, tensor: Tensor, given: Tensor | None, call: int = 0
    ) -> Mask | None:
        """Return where the selected part of `tensor` is; `None` where nothing of it is selected.

        `given` is the first input of `module`, `call` which of its calls it is, from 0 on.
        """
        if tensor.is_nested:
            raise ValueError(_NESTED)
        axes = Axes.of(module)
        part, _ = self._part(module, tensor, given, axes, call, changes=True)
        latest.mask = weakref.ref(self), weakref.ref(module), part, axes
        if not part.count:
            return None
        is_moved = axes is not None and part.mask.ndim > 1 and axes.tokens != 1
        mask = part.mask.reshape(part.mask.shape + (1,) * (tensor.ndim - part.mask.ndim))
        if is_moved and axes is not None:
            mask = mask.movedim(1, axes.tokens)
        selection = self.selection
        if selection.features is not None:
            features = selection.feature_index(tensor.shape[-1], tensor.device)
            mask = mask & _among(features, tensor.shape[-1])
        if selection.heads is not None:
            at = _axis_of_heads(module, axes)
            heads = selection.head_index(tensor.shape[at], tensor.device)
            chosen = _among(heads, tensor.shape[at])
            mask = mask & chosen.reshape(-1, *(1,) * (tensor.ndim - at - 1))
        is_plain = not is_moved and selection.features is None and selection.heads is None
        of_rows = part.mask.ndim == 1 and tensor.ndim > 2
        seq = tensor.shape[1 if axes is None else axes.tokens] if of_rows else 1
        return Mask(mask, part.count * seq, part.index if is_plain else None, part.mask.ndim)

    def pick(
        self, module: nn.Module, tensor: Tensor, given: Tensor | None, call: int = 0
    ) -> Picked:
        """Return which part of `tensor` is selected; see `mask`."""
        if tensor.is_nested:
            raise ValueError(_NESTED)
        selection = self.selection
        part, forward, axes = None, None, Axes.of(module)
        if self._of_tokens or selection.rows is not None or selection.step is not None:
            part, forward = self._part(module, tensor, given, axes, call, changes=False)
        return self.picked(module, tensor, part, forward, axes)

    def picked(
        self,
        module: nn.Module,
        tensor: Tensor,
        part: Part | None,
        forward: Forward | None,
        axes: Axes | None,
    ) -> Picked:
        """Return what is selected of an activation, of which `part` are the rows."""
        selection = self.selection
        features = None
        if selection.features is not None:
            features = selection.feature_index(tensor.shape[-1], tensor.device)
        if axes is None and selection.heads is None:
            return Picked(part, features, forward)
        heads = None
        if selection.heads is not None:
            count = tensor.shape[_axis_of_heads(module, axes)]
            heads = selection.head_index(count, tensor.device)
        keys = None
        if axes is not None and axes.has_keys and part is not None and part.mask.ndim > 1:
            keys = self._keys(forward, tensor.shape[-1])
        return Picked(part, features, forward, axes, heads, keys, absent_of(module))

    def _keys(self, forward: Forward | None, count: int) -> Keys | None:
        if forward is None:
            return None
        name = (Keys, count)
        if name not in forward.masks:
            seen = self._watch.tokens_for(self.selection, forward)
            forward.masks[name] = None if seen is None else Keys.of(seen, count)
        found: Keys | None = forward.masks[name]
        return found

    def recorded(self, picked: Picked, calls: list[Tensor], places: list[Tensor]) -> None:
        """Take note of where a pick was added: a search puts it in order at its end."""
        part = picked.part
        if part is None or part.places is None:
            return
        number = 0 if picked.forward is None else self._texts.number(picked.forward)
        self._of_calls.setdefault(id(places), []).append(number)
        if picked.axes is not None and picked.axes.has_keys:
            self._absent[id(places)] = picked.absent
        if picked.forward is None or not part.is_searched:
            return
        step = picked.forward.whole_step
        if step is not None and step.text is not None:
            step.search.record(step, part.rows, part.columns, calls, places)

    def by_row(self, calls: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Return what was kept of each row, `(tokens, features)`, in token order.

        Of heads it is `(tokens, heads, features)`, of a pattern `(tokens, heads, keys)`, with keys
        counted from the row's first token. Of several batches, or generations, the rows of one come
        after those of the other. Of a position of one text that several calls saw outside of a
        generation, the last counts.
        """
        seen: dict[tuple[int, int], dict[int, Tensor]] = {}
        numbers = self._of_calls.get(id(places), [])
        for values, where, number in zip(calls, places, numbers, strict=True):
            for value, (row, position) in zip(values, where.tolist(), strict=True):
                seen.setdefault((number, row), {})[position] = value
        rows = [sorted(seen[row].items()) for row in sorted(seen)]
        absent = self._absent.get(id(places))
        if absent is None:
            return [torch.stack([value for _, value in row]) for row in rows]
        return [stacked([value for _, value in row], row[-1][0] + 1, absent) for row in rows]

    def unmatched(self, *, so_far: bool = False) -> list[str]:
        """Return, once, a sentence that says where nothing was selected; none if all matched.

        It says why. A layer that was never called is no matter of the selection. `so_far` leaves
        out what waits for its time: generated tokens, while none are generated; steps; calls.
        """
        if so_far and self._waits():
            return []
        left: list[str] = []
        if not so_far:
            left = [said for each in self.left_over if (said := each()) is not None]
            self.left_over = []
        parts = (part for each in self._parts if (part := each()) is not None)
        layers = dict.fromkeys(each.layer for each in parts if each.asked and not each.matched)
        names = ", ".join(map(repr, layers))
        if not layers:
            return left
        self._parts = []
        return [f"{self.selection} matched no token at {names}.{self._likeliest()}", *left]

    def _waits(self) -> bool:
        """Whether a later run may select what none has had yet."""
        selection = self.selection
        asks_made = "generated" in (selection.phase, selection.tokens)
        return (
            (asks_made and not self._asked.generated)
            or selection.step is not None
            or selection.every > 1
        )

    def _likeliest(self) -> str:
        """Return the likeliest cause of a selection that matched nothing, if one is known."""
        root, phase, asked = self._model, self.selection.phase, self._asked
        if not self._steps and not asked.forwards:
            return (
                f" The {type(root).__name__} that was attached was not called, but a part of it, "
                "or another object: attach to what is called."
            )
        if asked.forwards and not asked.longest:
            return " All that it was given was padding, or of rows that had ended."
        if asked.forwards and phase == "generated" and not asked.generated:
            return " Nothing was generated: the model was called, and not to go on from a past."
        if self.selection.step is not None:
            return ""
        mask = "" if asked.masked else " and the model got no attention mask, so padding counts"
        return f" The longest row had {asked.longest} tokens{mask}." if asked.longest else ""

    def _part(
        self,
        module: nn.Module,
        tensor: Tensor,
        given: Tensor | None,
        axes: Axes | None,
        call: int,
        *,
        changes: bool,
    ) -> tuple[Part, Forward | None]:
        selection = self.selection
        shape = tensor.shape
        if axes is not None and self._of_tokens:
            shape = torch.Size((shape[0], shape[axes.tokens], 1))  # one part for all that have them
        forward = running_forward((id(module), changes), self.modules)
        why = None
        if self._of_tokens:
            sized = None if axes is not None else tensor  # its size need not tell the axes
            why = self._carriers.why_not(module, forward, given, sized)
        elif selection.rows is not None and forward is not None:
            why = self._carriers.why_no_rows(module, forward, given, tensor)
        if why is not None:
            raise ValueError(f"{'Tokens' if self._of_tokens else 'Rows'} are selected, and {why}.")
        if forward is None:
            if self._of_tokens and is_beside(self._model):
                nothing = Seen.nothing(*shape[:2]) if len(shape) > 1 else None
                return self._work_out(shape, tensor.device, nothing, at=False), None
            seen = self._watch.tokens_for(selection, None)
            at = selection.step is None or selection.is_at(call)
            return self._work_out(shape, tensor.device, seen, at=at), None
        first = first_of_logits(module, forward, shape) if self._of_tokens else 0
        key = (self._key, shape, tensor.device, first)
        part = forward.masks.get(key)
        if part is None:
            seen = self._watch.tokens_for(selection, forward)
            self._asked.masked |= forward.named.get("attention_mask") is not None
            at = selection.step is None or selection.is_at(self._step_of(forward))
            step = forward.whole_step
            needed = first
            if step is not None and step.text is not None and step.text.kind != "assisted":
                # Without a cache, earlier steps made those of tokens that run again.
                needed = max(0, min(first, step.text.begin - shape[1] - step.start))
            part = self._work_out(shape, tensor.device, seen, at=at, first=first, needed=needed)
            if step is not None and step.text is not None:
                mixed = step.text.kind != "one by one"
                part = attrs.evolve(part, is_searched=True, is_mixed=mixed)
            forward.masks[key] = part
        return part, forward

    def _step_of(self, forward: Forward) -> int:
        """Return which step a forward is: of its generation, or of the model in this scope."""
        step = forward.whole_step
        if step is not None:
            return step.number
        each: Forward | None = forward
        while each is not None:
            if self in each.masks:
                number: int = each.masks[self]
                return number
            each = each.outer
        return 0

    def _work_out(
        self,
        shape: torch.Size,
        device: torch.device,
        seen: Seen | None,
        *,
        at: bool = True,
        first: int = 0,
        needed: int = 0,
    ) -> Part:
        """Return what is selected of an activation that begins with column `first` of a forward.

        Raises `ValueError` where tokens are selected that are among the `needed` columns before.
        """
        selection = self.selection
        self._asked.of(seen)
        whole = torch.Size((shape[0], first + shape[1], *shape[2:])) if first else shape
        # On the CPU: a device would be waited for, and a meta device cannot tell.
        mask = selection.token_mask(whole, torch.device("cpu"), seen)
        mask = mask if at else torch.zeros_like(mask)
        if first:
            if bool(mask[:, :needed].any()):
                raise ValueError(
                    f"Tokens are selected of which the model makes no logits here: it makes those "
                    f"of the last {shape[1]} of {whole[1]} alone (logits_to_keep), as generate "
                    "asks it to. Select tokens='last' or phase='generated', or select at the layer "
                    "before."
                )
            mask = mask[:, first:]
        flat = mask.reshape(-1).nonzero()[:, 0]
        width = 1 if mask.ndim == 1 else mask.shape[1]
        if mask.ndim == 1 and selection.of_tokens and seen is not None:
            width = seen.real.shape[1]  # batch and tokens in one axis
        rows, columns = flat // width, flat % width + first
        places = None
        if selection.of_tokens:
            position = columns if seen is None else seen.position[rows, columns]
            places = torch.stack([rows, position], 1)
        count = flat.numel()
        index, is_all = flat.to(device), count == mask.numel()
        return Part(mask.to(device), index, rows, columns, places, is_all, count)


def _among(index: Tensor | None, count: int) -> Tensor:
    """Return which of `count` are chosen, bool `(count,)`."""
    assert index is not None
    chosen = torch.zeros(count, dtype=torch.bool, device=index.device)
    chosen[index] = True
    return chosen


def _axis_of_heads(layer: nn.Module, axes: Axes | None) -> int:
    if axes is None or axes.heads is None:
        raise ValueError(
            f"Heads are selected, and this {type(layer).__name__} does not say that it has an axis "
            "of them. Name a place that has: 'q.3', 'k.3', 'v.3', 'z.3', 'scores.3', 'pattern.3' "
            "(plugin interiors), or set module.axes on your own, as ('batch', 'tokens', 'heads', "
            "'features')."
        )
    return axes.heads


_NESTED = (
    "A selection takes activations whose rows are of one length, and this is a nested tensor. "
    "Capture it whole and choose among the rows that unbind() gives, or pad it."
)
