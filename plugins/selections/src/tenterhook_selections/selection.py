"""Which part of an activation: tokens, rows of the batch, features, calls. Values that serialise.

Token positions count the real tokens of each row, padding left out, from the first token that
the model has seen: on the left or on the right, in one forward or step by step with a cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activations import inputs_of, named_inputs, parameters_of
from tenterhook_selections.calls import calls_here, is_call_of, note, noted

Where = int | str | slice | Sequence[int]
"""Positions: one, several, a slice (as `slice` or as text, `"2:5"`), or `"last"`."""

Positions = tuple[int, ...] | str


def _positions(where: Where | None) -> Positions | None:
    """Return positions in the form that a `Selection` keeps: a tuple of ints, or `"2:5"`."""
    if where is None:
        return None
    if isinstance(where, bool) or not isinstance(where, int | str | slice | Sequence):
        raise ValueError(
            f"{where!r} is not a selection of positions: give an int, several, a slice, '2:5' or "
            "'last'."
        )
    if isinstance(where, int):
        return (where,)
    if isinstance(where, slice):
        parts = [where.start, where.stop, *([] if where.step is None else [where.step])]
        where = ":".join("" if part is None else str(part) for part in parts)
    if where == "last":
        return (-1,)
    if isinstance(where, str):
        _slice(where)
        return where
    if not len(where) or any(type(p) is bool or not isinstance(p, int) for p in list[Any](where)):
        raise ValueError(f"{where!r} are not positions: give ints, a slice, '2:5' or 'last'.")
    return tuple(int(p) for p in where)


def _slice(text: str) -> slice:
    parts = text.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    step = numbers[2] if len(numbers) == 3 else None
    if len(numbers) not in (2, 3) or (step is not None and step < 1):
        raise ValueError(
            f"{text!r} is not a selection of positions. Give an int, several, 'last', or a slice "
            "with a positive step such as '2:5', '-3:' or '::2'."
        )
    return slice(*numbers)


def _at_least_one(_: object, attribute: "attrs.Attribute[int]", value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name}={value!r} is not a whole number of at least 1.")


@attrs.frozen
class Selection:
    """A part of the activations of a layer; what is `None` selects everything."""

    tokens: Positions | None = attrs.field(default=None, converter=_positions)
    """Positions among the real tokens of each row; negative ones count from the latest token."""

    phase: Literal["prompt", "generated"] | None = attrs.field(default=None)
    """Tokens that were given, or tokens that the model generated."""

    rows: Positions | None = attrs.field(default=None, converter=_positions)
    """Rows of the batch; in `generating`, as `LanguageModel.generate` has it, all beams or samples
    of a row."""

    features: Positions | None = attrs.field(default=None, converter=_positions)
    """Indices along the last axis."""

    every: int = attrs.field(default=1, validator=_at_least_one)
    """The first call of a layer and each `every`-th one after it."""

    @phase.validator
    def _check_phase(self, _: object, phase: object) -> None:
        if phase not in (None, "prompt", "generated"):
            raise ValueError(f"phase={phase!r} is not 'prompt' or 'generated'.")

    @property
    def of_tokens(self) -> bool:
        """Whether it selects among tokens."""
        return self.tokens is not None or self.phase is not None

    @property
    def everything(self) -> bool:
        """Whether it selects all there is."""
        parts = (self.tokens, self.phase, self.rows, self.features)
        return self.every == 1 and all(part is None for part in parts)

    def positions(self, count: int) -> Sequence[int]:
        """Return the selected ones of `count` tokens, ascending, those alone that are there."""
        if self.tokens is None:
            return range(count)
        if isinstance(self.tokens, str):
            return range(count)[_slice(self.tokens)]
        found = {at if at >= 0 else count + at for at in self.tokens}
        return sorted(at for at in found if 0 <= at < count)

    def token_mask(self, shape: torch.Size, device: torch.device, seen: "Seen | None") -> Tensor:
        """Return which rows and tokens are selected, a bool mask of the first axis or two.

        `shape` is the activation's, `(batch, seq, ...)` or, as some layers have it,
        `(batch * seq, features)`; `seen` is what the forward was given. Raises `ValueError` where
        tokens are selected and the activation has no axis of them.
        """
        flat = seen is not None and len(shape) == 2 and shape[0] == seen.real.numel()
        if seen is not None and flat and (self.of_tokens or shape[0] != len(seen.real)):
            whole = torch.Size((*seen.real.shape, shape[1]))
            mask = self.token_mask(whole, device, seen)
            return (mask if mask.ndim == 2 else mask[:, None].expand(whole[:2])).reshape(-1)
        rows = self._row_mask(shape[0], seen, device)
        if not self.of_tokens:
            return rows
        if len(shape) < 3 or (seen is not None and tuple(shape[:2]) != tuple(seen.real.shape)):
            said = "" if seen is None else f", here {tuple(seen.real.shape)}"
            raise ValueError(
                f"Tokens are selected, and the activation of shape {tuple(shape)} does not have "
                f"the axes of batch and tokens{said}, and features after them."
            )
        seen = seen or Seen.of_all(shape[0], shape[1])
        mask = seen.real.clone()
        if self.tokens is not None:
            mask &= _among(self.tokens, seen.position, seen.count[:, None])
        if self.phase is not None:
            generated = seen.position >= seen.prompt[:, None]
            mask &= generated if self.phase == "generated" else ~generated
        return mask.to(device) & rows[:, None]

    def feature_index(self, count: int, device: torch.device) -> Tensor | None:
        """Return the selected features of `count`, long `(n,)`; `None` for all of them.

        Raises `IndexError` for a feature that is not there.
        """
        if self.features is None:
            return None
        return _indices(self.features, count, "feature").to(device)

    def _row_mask(self, batch: int, seen: "Seen | None", device: torch.device) -> Tensor:
        if self.rows is None:
            return torch.ones(batch, dtype=torch.bool, device=device)
        copies = _copies(batch, _generation.get()) if seen is None else seen.copies
        mask = torch.zeros(batch // copies, dtype=torch.bool)
        mask[_indices(self.rows, batch // copies, "row")] = True
        return mask.repeat_interleave(copies).to(device)


def check_one_sequence(selection: Selection | None, module: nn.Module) -> None:
    """Raise `ValueError` where tokens are selected in a model with two sequences of them."""
    if selection is None or not selection.of_tokens:
        return
    kind: Any = type(module)
    if "decoder_input_ids" in parameters_of(kind):
        raise ValueError(
            f"{type(module).__name__} has two sequences, the encoder's and the decoder's, and "
            f"{selection} does not say whose tokens. Attach to one of its parts and select there: "
            "tenterhook.attach(model.get_encoder()), or get_decoder()."
        )


def _indices(where: Positions, count: int, what: str) -> Tensor:
    everything = torch.arange(count)
    if isinstance(where, str):
        return everything[_slice(where)]
    for index in where:
        if not -count <= index < count:
            raise IndexError(f"There is no {what} {index}; there are {count}.")
    return everything[list(where)]


def _among(where: Positions, position: Tensor, count: Tensor) -> Tensor:
    """Return which positions `(batch, seq)` are among `where`, in rows of `count` `(batch, 1)`."""
    if not isinstance(where, str):
        found = torch.zeros_like(position, dtype=torch.bool)
        for index in where:
            found |= position == (index if index >= 0 else count + index)
        return found
    part = _slice(where)
    start = torch.zeros_like(count) + (part.start or 0)
    stop = count if part.stop is None else torch.zeros_like(count) + part.stop
    start = torch.where(start < 0, (count + start).clamp(min=0), start)
    stop = torch.where(stop < 0, count + stop, stop)
    return (position >= start) & (position < stop) & ((position - start) % (part.step or 1) == 0)


@attrs.frozen(eq=False)
class Seen:
    """The tokens of one forward: which are real, and where they stand in their rows."""

    real: Tensor
    """Bool `(batch, seq)`: no padding; on the CPU, as all of these."""

    position: Tensor
    """Long `(batch, seq)`: the place of a real token among its row's, past ones counted."""

    count: Tensor
    """Long `(batch,)`: the real tokens of each row so far, this forward's included."""

    prompt: Tensor
    """Long `(batch,)`: how many of a row's real tokens were given and not generated."""

    copies: int = 1
    """How many rows of this forward (beams, samples) stand for one row of the batch."""

    unread: str | None = None
    """What was given as attention mask, where it does not say which tokens are real."""

    @classmethod
    def of_all(cls, batch: int, seq: int) -> "Seen":
        """Return tokens that are all real and all given."""
        mask = torch.ones(batch, seq, dtype=torch.bool)
        return cls.read(mask, seq, generation=_generation.get())

    @classmethod
    def read(cls, mask: Tensor, seq: int, *, generation: "Generation | None" = None) -> "Seen":
        """Return what a mask `(batch, past + seq)` says of the last `seq` tokens.

        `generation` is the one that the forward is a step of.
        """
        mask = mask.bool().cpu()
        total = mask.sum(1)
        place = mask.cumsum(1) - 1
        past = mask.shape[1] - seq
        running, copies = generation, _copies(len(mask), generation)
        if running is not None and copies * len(running.prompt) == len(mask):
            prompt = running.prompt.repeat_interleave(copies)
        else:
            prompt = mask[:, :past].sum(1) if past else total
        return cls(mask[:, past:], place[:, past:], total, prompt, copies)

    @classmethod
    def of_call(
        cls, named: Mapping[str, Any], past: int, *, generation: "Generation | None" = None
    ) -> "Seen | None":
        """Return the tokens of a call of the whole model; `None` where it was given none.

        `named` are its inputs by name; `past` is how many tokens its cache held as it began;
        `generation` is the one that the call is a step of.
        """
        shape = _token_shape(named)
        if shape is None:
            return None
        batch, seq = shape
        mask = named.get("attention_mask")
        if isinstance(mask, Mapping):  # one for each kind of layer
            mask = mask.get("full_attention", mask)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= seq:
            return cls.read(mask, seq, generation=generation)
        real = _keys_seen(mask, batch, past + seq)
        if real is not None:
            return cls.read(real, seq, generation=generation)
        everything = torch.ones(batch, past + seq, dtype=torch.bool)
        seen = cls.read(everything, seq, generation=generation)
        return seen if mask is None else attrs.evolve(seen, unread=_said(mask))


def _keys_seen(mask: Any, batch: int, width: int) -> Tensor | None:
    """Return what a mask `(batch, heads, seq, keys)` says of the first `width` tokens.

    Bool, or what is added to the scores: a token that no query sees is padding. `None` for a mask
    of another form.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[3] < width:
        return None
    visible = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask != 0
    return visible[..., :width].flatten(1, 2).any(1).expand(batch, width)


def _said(mask: Any) -> str:
    shape = f" of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else ""
    return f"{type(mask).__name__}{shape}"


def _token_shape(named: Mapping[str, Any]) -> tuple[int, int] | None:
    ids = named.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2:
        return ids.shape[0], ids.shape[1]
    embedded = named.get("inputs_embeds")
    if isinstance(embedded, Tensor) and embedded.ndim == 3:
        return embedded.shape[0], embedded.shape[1]
    return None


def _past_length(named: Mapping[str, Any]) -> int:
    length = getattr(named.get("past_key_values"), "get_seq_length", None)
    return 0 if length is None else int(length())


@attrs.frozen(eq=False)
class Generation:
    """A generation that runs in this thread or task."""

    prompt: Tensor
    """Long `(batch,)`: the real tokens of each prompt."""

    model: nn.Module | None = None
    """The model that generates; `None` where nobody said."""

    within: FrameType | None = None
    """The call of a module in which the generation began."""

    def has_step(self, module: nn.Module) -> bool:
        """Whether the innermost call that runs here, which is one of `module`, is a step of it.

        Not one within another call of `module`, as a hook makes it to look at other text, and none
        of a model that has no part in it.
        """
        if self.model is not None and not _is_part(module, self.model):
            return False
        _, *outer = calls_here()
        for call in outer:
            if call is self.within:
                break
            if is_call_of(call, module):
                return False
        return True


def _is_part(one: nn.Module, other: nn.Module) -> bool:
    """Return whether one of the two modules is the other, or a part of it."""
    if one is other:
        return True
    return any(part is one for part in other.modules()) or any(m is other for m in one.modules())


_generation: ContextVar[Generation | None] = ContextVar("tenterhook_generation", default=None)


def _copies(batch: int, generation: Generation | None) -> int:
    """Return how many rows of a forward stand for one prompt of the generation."""
    if generation is None or batch % len(generation.prompt):
        return 1
    return batch // len(generation.prompt)


@contextmanager
def generating(prompt_lengths: Sequence[int], *, model: nn.Module | None = None) -> Iterator[None]:
    """Say that the forwards in this block generate from prompts of so many real tokens each.

    Without it, the tokens of a forward that has a past count as generated, all others as prompt.
    A forward that a hook makes within one of them is none of them; nor, where `model` is named, is
    one of a model that has no part in it.
    """
    lengths = torch.as_tensor(list(prompt_lengths))
    token = _generation.set(Generation(lengths, model, next(calls_here(), None)))
    try:
        yield
    finally:
        _generation.reset(token)


@attrs.define(eq=False)
class _Forward:
    """What one forward that runs was given."""

    named: Mapping[str, Any]
    past: int
    generation: Generation | None
    seen: Seen | None = None
    is_read: bool = False
    kept: dict[str, Any] = attrs.field(factory=dict)


_backward_id: Any = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # private to torch


class Watch:
    """Remembers what the forward that runs was given; a step of a scope on the whole model.

    A hook that needs to know, as one that keeps texts does, has one of its own on the model it is
    attached to: `before` as a forward pre-hook `with_kwargs`. Where a hook runs the model itself,
    the forward is the innermost one.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = module
        self._padded = False

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """The inputs, by name, of the forward that runs in this thread; `None` outside one."""
        forward = self._forward()
        return None if forward is None else forward.named

    @property
    def seen(self) -> Seen | None:
        """The tokens of the forward that runs in this thread; `None` outside one."""
        forward = self._forward()
        return None if forward is None else self._tokens(forward)

    def seen_for(self, selection: Selection, given: Tensor | None = None) -> Seen | None:
        """Return `seen`, for a selection that is to pick among the tokens.

        `given` is the first input of the layer. Raises `ValueError` where tokens are selected and
        it cannot be known which are real.
        """
        forward = self._forward()
        if forward is None:
            if selection.of_tokens:
                self._check_outside()
            return None
        other = forward.named.get("encoder_hidden_states")
        if selection.of_tokens and other is not None and other is given:
            raise ValueError(
                "Tokens are selected, and the layer is given the encoder's, whose padding a "
                "decoder does not know. Select them in the encoder: tenterhook.attach(encoder)."
            )
        seen = self._tokens(forward)
        if selection.of_tokens and seen is not None and seen.unread is not None:
            raise ValueError(
                f"Tokens are selected, and the attention mask, a {seen.unread}, does not say which "
                "are real. Give the model a mask (batch, seq) of 1 and 0, or one prepared for "
                "attention (batch, heads, seq, keys)."
            )
        return seen

    def _tokens(self, forward: _Forward) -> Seen | None:
        if not forward.is_read:
            seen = forward.seen = Seen.of_call(
                forward.named, forward.past, generation=forward.generation
            )
            forward.is_read = True
            if seen is not None and bool((seen.count != seen.real.shape[1]).any()):
                self._padded = True
        return forward.seen

    def _check_outside(self) -> None:
        """Raise where a forward runs that nobody took note of."""
        whole = self._module
        if whole is not None and any(is_call_of(call, whole) for call in calls_here()):
            raise ValueError(
                "Tokens are selected in a scope that was opened while the model ran, which "
                "does not know what the model was given. Open the scope before."
            )
        if self._padded and _backward_id() != -1:
            raise ValueError(
                "The layer runs again during backward(), as activation checkpointing has it, "
                "and it is not known for which of the forwards, so not which tokens are real. "
                "Select tokens without checkpointing, or in batches without padding."
            )

    @property
    def kept(self) -> dict[str, Any] | None:
        """What hooks keep with the forward that runs, to be forgotten with it; `None` outside."""
        forward = self._forward()
        return None if forward is None else forward.kept

    def quiet(self) -> "Watch":
        """Run while controllers are off, too."""
        return self

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take note of the inputs; they are looked at when a selection asks.

        All but the length of the cache, which grows as the layers run.
        """
        call = next(calls_here(), None)
        if call is None:
            return
        named = named_inputs(module, inputs_of(module, args, kwargs))
        running = _generation.get()
        if running is not None and not running.has_step(module):
            running = None
        note(call, self, _Forward(named, _past_length(named), running))

    def _forward(self) -> _Forward | None:
        """Return the innermost forward that runs here."""
        found = (noted(call, self) for call in calls_here())
        return next((forward for forward in found if forward is not None), None)
