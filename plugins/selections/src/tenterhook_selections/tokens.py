"""The tokens of one forward: which are real, read off its attention mask, and where they stand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_selections.generation import Running, copies_of, running_generation
from tenterhook_selections.roles import Roles


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

    ids: Tensor | None = None
    """Int `(batch, seq)`, on the model's device: the ids that the forward was given, where it was
    given ids."""

    unread: str | None = None
    """What was given as attention mask, where it does not say which tokens are real."""

    roles: Sequence[Roles] | None = None
    """Who says what in each prompt; `None` where it is not known."""

    earlier: Callable[[], Tensor | None] | None = None
    """Gives the ids of earlier columns, `(batch, n)`, -1 for no token; see `ids_so_far`."""

    untold: str | None = None
    """Why what the model gives for them is not what it gives for their text."""

    known: Tensor = attrs.field()
    """Long `(batch, seq)`: how many tokens its row had when a token was new.

    All of the prompt for a token of the prompt, and for one that was generated all up to itself. So
    `"last"` means the same tokens whether a generation feeds one at a time, all of them again, or
    several candidates at once.
    """

    first: int = 0
    """The column of the first token, in what the model was given before and now."""

    columns: Tensor | None = None
    """Bool `(batch, n)`: which columns up to now hold a token, those of earlier forwards first;
    `None` where that is not known."""

    @known.default
    def _known(self) -> Tensor:
        return self.count[:, None].expand(self.position.shape)

    @property
    def generated(self) -> Tensor:
        """Bool `(batch, seq)`: the real tokens that the model generated."""
        return self.real & (self.position >= self.prompt[:, None])

    def last(self, count: int) -> "Seen":
        """Return the last `count` of these tokens; those before count as earlier ones."""
        return attrs.evolve(
            self,
            real=self.real[:, -count:],
            position=self.position[:, -count:],
            known=self.known[:, -count:],
            ids=None if self.ids is None else self.ids[:, -count:],
            earlier=None,
            first=self.first + self.real.shape[1] - count,
        )

    def ids_so_far(self, row: int) -> list[int] | None:
        """Return the ids of a row's text from its first token on, this forward's included.

        So a selector can look back while a model generates. `None` where they are not known: with
        a cache and beams, or in a loop of one's own.
        """
        real = self.real[row]
        if self.ids is None or not bool(real.any()):
            return None if self.ids is None else []
        first = int(self.position[row][real].min())
        before = self.earlier() if first and self.earlier is not None else None
        past = [] if before is None else before[row][before[row] >= 0].tolist()
        if len(past) != first:
            return None
        return [*past, *self.ids[row].cpu()[real].tolist()]

    @classmethod
    def of_all(cls, batch: int, seq: int) -> "Seen":
        """Return tokens that are all real and all given."""
        mask = torch.ones(batch, seq, dtype=torch.bool)
        return cls.read(mask, seq, generation=running_generation())

    @classmethod
    def nothing(cls, batch: int, seq: int) -> "Seen":
        """Return tokens none of which are any of the text's."""
        none = torch.zeros(batch, seq, dtype=torch.bool)
        zeros = torch.zeros(batch, dtype=torch.long)
        return cls(none, none.long(), zeros, zeros)

    @classmethod
    def read(cls, mask: Tensor, seq: int, *, generation: Running | None = None) -> "Seen":
        """Return what a mask `(batch, past + seq)` says of the last `seq` tokens.

        `generation` is the one that the forward is a step of.
        """
        mask = mask.bool().cpu()
        total = mask.sum(1)
        place = mask.cumsum(1) - 1
        past = mask.shape[1] - seq
        copies = copies_of(len(mask), generation)
        if generation is not None and copies * len(generation.prompt) == len(mask):
            prompt = generation.prompt.repeat_interleave(copies)
            known = torch.maximum(place[:, past:] + 1, prompt[:, None])
            return cls(
                mask[:, past:],
                place[:, past:],
                total,
                prompt,
                copies,
                roles=generation.roles,
                known=known,
                first=past,
                columns=mask,
            )
        prompt = mask[:, :past].sum(1) if past else total
        real = mask[:, past:]
        return cls(real, place[:, past:], total, prompt, copies, first=past, columns=mask)

    @classmethod
    def of_call(
        cls,
        named: Mapping[str, Any],
        past: int,
        *,
        generation: Running | None = None,
        virtual: int = 0,
        before: Tensor | None = None,
    ) -> "Seen | None":
        """Return the tokens of a call of the whole model; `None` where it was given none.

        `named` are its inputs by name; `past` is how many tokens its cache held as it began;
        `generation` is the one that the call is a step of; `virtual` of the columns, or of what the
        cache holds, come before the text and are none of it. `before` says which of the tokens
        behind a state are real, bool `(batch, n)`.
        """
        shape = token_shape(named)
        if shape is None:
            return None
        ids = ids_of(named)
        seen = cls._of_shape(named, past, shape, generation, virtual, before)
        return seen if ids is None else attrs.evolve(seen, ids=ids)

    @classmethod
    def _of_shape(
        cls,
        named: Mapping[str, Any],
        past: int,
        shape: tuple[int, int],
        generation: Running | None,
        virtual: int,
        before: Tensor | None,
    ) -> "Seen":
        batch, seq = shape
        mask = named.get("attention_mask")
        unread = None
        if isinstance(mask, Mapping):  # one for each kind of layer
            mask = mask.get("full_attention", mask)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= seq:
            real = mask.bool().cpu()
        elif (keys := _keys_seen(mask, batch, past + seq)) is not None:
            real = keys.cpu()
        else:
            real = torch.ones(batch, past + seq, dtype=torch.bool)
            unread = None if mask is None else _described(mask)
        if before is not None and len(before) == batch and real.shape[1] == seq:
            real = torch.cat([before, real], 1)
        if virtual:
            real = real.clone()
            real[:, :virtual] = False
        seen = cls.read(real, seq, generation=generation)
        return seen if unread is None else attrs.evolve(seen, unread=unread)


def _keys_seen(mask: Any, batch: int, width: int) -> Tensor | None:
    """Return what a mask `(batch, heads, seq, keys)` says of the first `width` tokens.

    Bool, or what is added to the scores: a token that no query sees is padding. `None` for a mask
    of another form.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[3] < width:
        return None
    visible = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask != 0
    return visible[..., :width].flatten(1, 2).any(1).expand(batch, width)


def _described(mask: Any) -> str:
    shape = f" of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else ""
    return f"{type(mask).__name__}{shape}"


def ids_of(named: Mapping[str, Any]) -> Tensor | None:
    """Return the token ids among a call's inputs, `(batch, seq)`; `None` where there are none.

    By their name; for a model that takes an attention mask and has another name for them, its
    first input of whole numbers.
    """
    ids = named.get("input_ids")
    if ids is not None or "input_ids" in named:
        whole = isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_nested
        return ids if whole else None
    mask = named.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or "inputs_embeds" in named:
        return None
    for name, value in named.items():
        if name != "attention_mask" and isinstance(value, Tensor):
            whole = not value.is_floating_point() and value.dtype != torch.bool
            fits = value.ndim == 2 and value.shape[0] == mask.shape[0]
            return value if whole and fits and value.shape[1] <= mask.shape[1] else None
    return None


def token_shape(named: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return `(batch, seq)` of the text that a call was given; `None` where it was given none."""
    ids = ids_of(named)
    if ids is not None:
        return ids.shape[0], ids.shape[1]
    embedded = named.get("inputs_embeds")
    if isinstance(embedded, Tensor) and embedded.ndim == 3:
        return embedded.shape[0], embedded.shape[1]
    return None


def same_text(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    """Whether a call of a part, within a call of the whole, runs on the same text.

    It has the same ids, or embeddings of as many, and no other mask.
    """
    one, two = ids_of(outer), ids_of(inner)
    if one is not None and two is not None:
        same = one is two or (one.shape == two.shape and one.data_ptr() == two.data_ptr())
    else:
        same = two is None and token_shape(outer) == token_shape(inner)
    return same and not _differ(outer.get("attention_mask"), inner.get("attention_mask"))


def _differ(one: Any, two: Any) -> bool:
    """Whether two masks `(batch, seq)` are not the same; of other forms nothing is known."""
    if one is two or not (isinstance(one, Tensor) and isinstance(two, Tensor)):
        return False
    return one.ndim == two.ndim == 2 and one.shape == two.shape and not bool((one == two).all())


def past_length(named: Mapping[str, Any]) -> int:
    """Return how many tokens the cache among a call's inputs holds; 0 without one."""
    length = getattr(named.get("past_key_values"), "get_seq_length", None)
    try:
        return 0 if length is None else int(length())
    except (ValueError, TypeError):  # of layers that keep a state, and no tokens
        return 0
