"""The tokens of one forward: which are real, read off its attention mask, and where they stand."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_selections.generation import RunningGeneration, copies_of, running_generation


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

    @classmethod
    def of_all(cls, batch: int, seq: int) -> "Seen":
        """Return tokens that are all real and all given."""
        mask = torch.ones(batch, seq, dtype=torch.bool)
        return cls.read(mask, seq, generation=running_generation())

    @classmethod
    def read(cls, mask: Tensor, seq: int, *, generation: RunningGeneration | None = None) -> "Seen":
        """Return what a mask `(batch, past + seq)` says of the last `seq` tokens.

        `generation` is the one that the forward is a step of.
        """
        mask = mask.bool().cpu()
        total = mask.sum(1)
        place = mask.cumsum(1) - 1
        past = mask.shape[1] - seq
        running, copies = generation, copies_of(len(mask), generation)
        if running is not None and copies * len(running.prompt) == len(mask):
            prompt = running.prompt.repeat_interleave(copies)
        else:
            prompt = mask[:, :past].sum(1) if past else total
        return cls(mask[:, past:], place[:, past:], total, prompt, copies)

    @classmethod
    def of_call(
        cls, named: Mapping[str, Any], past: int, *, generation: RunningGeneration | None = None
    ) -> "Seen | None":
        """Return the tokens of a call of the whole model; `None` where it was given none.

        `named` are its inputs by name; `past` is how many tokens its cache held as it began;
        `generation` is the one that the call is a step of.
        """
        shape = _token_shape(named)
        if shape is None:
            return None
        ids = named.get("input_ids")
        seen = cls._of_shape(named, past, shape, generation)
        return seen if ids is None else attrs.evolve(seen, ids=ids)

    @classmethod
    def _of_shape(
        cls,
        named: Mapping[str, Any],
        past: int,
        shape: tuple[int, int],
        generation: RunningGeneration | None,
    ) -> "Seen":
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
        return seen if mask is None else attrs.evolve(seen, unread=_described(mask))


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


def _token_shape(named: Mapping[str, Any]) -> tuple[int, int] | None:
    ids = named.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2:
        return ids.shape[0], ids.shape[1]
    embedded = named.get("inputs_embeds")
    if isinstance(embedded, Tensor) and embedded.ndim == 3:
        return embedded.shape[0], embedded.shape[1]
    return None


def past_length(named: Mapping[str, Any]) -> int:
    """Return how many tokens the cache among a call's inputs holds; 0 without one."""
    length = getattr(named.get("past_key_values"), "get_seq_length", None)
    return 0 if length is None else int(length())
