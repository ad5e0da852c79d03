"""The forwards that run in this thread: what each was given, and which one a layer runs in.

A *forward* is a call of a module that takes token ids, or embeddings in their place: the whole
model, and the parts of it that do. So it is noted where it really runs, whatever is wrapped around.

What happens in a call:

1. Before the module runs, `begin` notes what it is given. The note is one more local variable of
   Python's frame of the call, so it goes when the call does, however that ends: torch tells hooks
   nothing of a forward that was stopped or interrupted.
2. A layer inside asks `running_forward`. The forwards of a thread are kept in a list, the innermost
   last; that one of them still runs is told by its frame's being on the stack.
3. The tokens are worked out when the first selection asks (`Forward.tokens`), once for all.

Looking for the frame from the layer up would cost a step for each frame in between. How far away it
was the last time is remembered for each layer, so it is one look, and none of it depends on how
deep the caller's stack is: `TestTheStack` in test_forwards.py.
"""

import sys
import threading
import weakref
from collections.abc import Container, Hashable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.activations import inputs_of, named_inputs, parameters_of
from tenterhook_selections.calls import calls_here, is_call_of, note, noted
from tenterhook_selections.generation import Running, running_generation
from tenterhook_selections.searches import Search, Step
from tenterhook_selections.states import LostState, remember, tokens_behind, with_past
from tenterhook_selections.tokens import Seen, past_length, same_text, token_shape
from tenterhook_selections.virtual import learned_tokens, virtual_tokens


class Forward:
    """What one forward that runs was given."""

    __slots__ = (
        "__weakref__",
        "_is_part",
        "_tokens",
        "frame",
        "generation",
        "is_plain",
        "is_read",
        "masks",
        "module",
        "named",
        "notes",
        "outer",
        "past",
        "shape",
        "state",
        "step",
        "virtual",
    )

    def __init__(
        self, module: nn.Module, named: Mapping[str, Any], frame: int, outer: "Forward | None"
    ) -> None:
        self.module = module
        self.named = named
        """The inputs, by the names of the parameters of the module's own forward."""
        self.frame = frame
        """The `id` of Python's frame of the call."""
        self.outer = outer
        """The forward around this one."""
        self.shape = token_shape(named)
        """`(batch, seq)` of the text; `None` where none was given."""
        self.past = past_length(named)
        self.generation: Running | None = None
        self.step: Step | None = None
        """The step of a search that it is."""
        self.virtual = 0
        """How many of the first columns, or of the cache, are no text, as prompt tuning has it."""
        self.state: Tensor | LostState | None = None
        """The real tokens behind the state that it goes on from, or why they are not known."""
        self.is_plain = False
        """Whether it is known to have been given nothing but text."""
        self.is_read = False
        self._tokens: Seen | None = None
        self._is_part: bool | None = None
        self.notes: dict[str, Any] = {}
        """What hooks keep with the forward, to be forgotten with it."""
        self.masks: dict[Any, Any] = {}
        """What selections have worked out for it."""

    @property
    def tokens(self) -> Seen | None:
        """Which tokens are real, and where; `None` where no text was given."""
        if not self.is_read:
            self._tokens = self._read()
            self.is_read = True
        return self._tokens

    def _read(self) -> Seen | None:
        if self.shape is None:
            return None
        if self.step is not None:
            return self.step.tokens(self.shape, self.named.get("input_ids"))
        if self.outer is not None and self.is_part:
            return self.outer.tokens
        if isinstance(self.state, LostState):
            raise self.state
        return Seen.of_call(
            self.named,
            self.past,
            generation=self.generation,
            virtual=self.virtual,
            before=self.state,
        )

    @property
    def whole_step(self) -> Step | None:
        """The step of a search that it is, or is a part of."""
        each: Forward = self
        while each.step is None and each.outer is not None and each.is_part:
            each = each.outer
        return each.step

    @property
    def is_part(self) -> bool:
        """Whether it runs on the text of the forward around it, as a part of the model does."""
        if self._is_part is None:  # every layer asks
            self._is_part = self.outer is not None and self._is_text_of(self.outer)
        return self._is_part

    def _is_text_of(self, outer: "Forward") -> bool:
        apart = self.module is outer.module or outer.shape is None or learned_tokens(outer.module)
        return not apart and same_text(outer.named, self.named)


class _Here(threading.local):
    def __init__(self) -> None:
        self.stack: list[weakref.ref[Forward]] = []
        self.far: dict[Hashable, int] = {}
        """How many frames away the call was, by what asked."""


_here = _Here()


def takes_text(module: nn.Module) -> bool:
    """Whether a module's forward takes token ids by name: a vision tower may take embeddings."""
    return _takes_text(type(module))


def _takes_text(kind: Any) -> bool:
    found = _takes.get(kind)
    if found is None:
        found = _takes[kind] = "input_ids" in parameters_of(kind)
    return found


_takes: dict[type, bool] = {}


def that_take_text(model: nn.Module) -> list[nn.Module]:
    """Return a model and those modules in it that take token ids.

    Each scope with a selection asks. Of 165 modules `modules()` takes 2,100 calls of Python's.
    """
    found, seen = [model], {model}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    kinds = {kind for kind in set(map(type, found)) if _takes_text(kind)}
    return [module for module in found if module is model or type(module) in kinds]


def begin(module: nn.Module, args: Any, kwargs: Any) -> Forward | None:
    """Take note of a forward of `module` that begins; called by a hook before it runs."""
    call = next(calls_here(limit=_NEAR), None)
    return None if call is None else begin_at(call, module, args, kwargs)


def begin_at(call: FrameType, module: nn.Module, args: Any, kwargs: Any) -> Forward:
    """Take note of a forward whose call Python runs in this frame."""
    outer = _innermost(call)
    if outer is not None and outer.frame == id(call):  # another scope's hook took note of it
        return outer
    named = named_inputs(module, inputs_of(module, args, kwargs))
    forward = Forward(module, named, id(call), outer)
    if forward.shape is not None and not forward.is_part and not learned_tokens(module):
        _place(forward, call)
        if forward.step is None:
            try:
                forward.state = tokens_behind(type(module), named)
            except LostState as lost:
                forward.state = lost
    note(call, _KEY, forward)
    _here.stack.append(weakref.ref(forward))
    return forward


def end(module: nn.Module, output: Any) -> None:
    """Take note of what the innermost forward returned, if it is one of `module`."""
    forward = innermost_forward()
    if forward is None or forward.module is not module or forward.shape is None:
        return
    if forward.step is None and not forward.is_part:
        remember(forward.named, output, lambda: _real_of(forward))


def _real_of(forward: Forward) -> Tensor:
    shape, lost = forward.shape, isinstance(forward.state, LostState)
    assert shape is not None
    tokens = None if lost else forward.tokens
    real = torch.ones(shape, dtype=torch.bool) if tokens is None else tokens.real
    return with_past(None if isinstance(forward.state, LostState) else forward.state, real)


_KEY = "forwards"
_NEAR = 40
"""How many frames up the call is looked for whose hook runs."""


def _place(forward: Forward, call: FrameType) -> None:
    """Find out which generation the forward is a step of, if any."""
    running = running_generation()
    outer = forward.outer
    if running is not None and (
        _is_within(outer, running, forward.module)
        if outer is not None
        else _is_called_within(call, running, forward.module)
    ):
        running = None
    shape = forward.shape
    assert shape is not None
    around = None if outer is None else outer.module
    forward.virtual = virtual_tokens(forward.module, around, call)
    if running is not None and not running.has_part(forward.module):
        beside = search_beside(running, forward.module)
        forward.step = None if beside is None else beside.no_step(shape[1])
    elif isinstance(running, Search):
        forward.step = running.begin_step(*shape, named=forward.named)
    else:
        forward.generation = running


def search_beside(running: Running | None, module: nn.Module) -> Search | None:
    """Return the search of a model that `module` is a part of, around one of another model.

    What makes candidates for a search may run its model, too, and none of that is text.
    """
    around = running.outer if isinstance(running, Search) else None
    while isinstance(around, Search) and not around.has_part(module):
        around = around.outer
    return around if isinstance(around, Search) else None


def is_beside(model: nn.Module) -> bool:
    """Whether a call of a layer of `model` outside of any forward is beside a search of it."""
    running = running_generation()
    if not isinstance(running, Search):
        return False
    if running.has_part(model):
        return running.text is not None or running.aside > 0
    return search_beside(running, model) is not None


def _is_within(outer: Forward, running: Running, module: nn.Module) -> bool:
    """Whether a forward of the generation is under way, within which a hook makes one more."""
    each: Forward | None = outer
    within = running.within
    while each is not None and (within is None or each.frame != within):
        if each.module is module or (each.step is not None and each.step.search is running):
            return True
        each = each.outer
    return False


def _is_called_within(call: FrameType, running: Running, module: nn.Module) -> bool:
    """Whether a call of the module is under way that nobody took note of, by a few frames."""
    frame = call.f_back
    for _ in range(_NEAR):
        if frame is None or id(frame) == running.within:
            return False
        if frame.f_code.co_name == "_call_impl" and is_call_of(frame, module):
            return True
        frame = frame.f_back
    return False


def running_forward(asks: Hashable, modules: Container[nn.Module] | None) -> Forward | None:
    """Return the innermost forward that runs in this thread, of one of `modules`; `None` for any.

    `asks` stands for the layer and the line that ask: how far away the forward was is remembered
    for them.
    """
    stack = _here.stack
    if not stack:
        return None
    forward = stack[-1]()
    if forward is not None:
        try:
            found = id(sys._getframe(_here.far.get(asks, 0))) == forward.frame
        except ValueError:  # the stack is not that deep
            found = False
    if forward is None or not found:
        forward = _innermost(sys._getframe(), asks)
    while forward is not None and modules is not None and forward.module not in modules:
        forward = forward.outer
    return forward


def _innermost(frame: FrameType, asks: Hashable = None) -> Forward | None:
    """Return the innermost forward whose call `frame` is or was made in; forget those that ended.

    A traceback that somebody holds keeps the frames of calls that are over.
    """
    stack = _here.stack
    while stack:
        forward = stack[-1]()
        if forward is not None:
            for far, each in enumerate(_frames(frame)):
                if id(each) != forward.frame:
                    continue
                is_noted: bool = noted(each, _KEY) is forward
                if is_noted:
                    if asks is not None:
                        _here.far[asks] = far
                        if len(_here.far) > _MOST:
                            _here.far.clear()
                    return forward
        stack.pop()
    return None


_MOST = 4096


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def innermost_forward() -> Forward | None:
    """Return the innermost forward that runs in this thread."""
    return _innermost(sys._getframe(1))


def storage_of(value: Any) -> int | None:
    """Return what views of one tensor share; `None` of anything else."""
    if not isinstance(value, Tensor):
        return None
    try:
        found: int = value.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # a tensor without a storage
        return None
    return found
