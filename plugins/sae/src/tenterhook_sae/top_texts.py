"""The texts that activate each latent most, in bounded memory."""

import threading
import warnings
from array import array
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook import HookContext
from tenterhook.hooks import HookWarning
from tenterhook.selections import Seen
from tenterhook_sae.following import Following
from tenterhook_sae.sparse_latents import SparseLatents


@attrs.frozen(kw_only=True)
class TopText:
    """A text, and where in it a latent is most active."""

    score: float
    """How active the latent is there."""

    text: str
    """The whole text, without special tokens."""

    token: str
    """The token at `position`, as text."""

    token_id: int

    position: int
    """The place of the token in `token_ids`."""

    token_ids: tuple[int, ...]
    """The text as the model read it, special tokens included, padding left out."""


class _Row:
    """A sequence of the batch, as far as this thread has seen it."""

    __slots__ = ("ids", "text")

    def __init__(self, ids: list[int], text: int | None = None) -> None:
        self.ids, self.text = ids, text


class TopTexts:
    """Per latent the best texts of everything seen: scores, places, and the texts they name.

    The arrays are `(n_latents, top_k)`, best first. A text that no entry names any more is
    dropped, so memory is bounded by `n_latents * top_k` entries and texts.
    """

    def __init__(self, n_latents: int, top_k: int) -> None:
        self.enabled = True
        self._top_k = top_k
        self._scores = torch.zeros(n_latents, top_k)
        self._texts = torch.full((n_latents, top_k), -1)
        self._places = torch.zeros(n_latents, top_k, dtype=torch.int64)
        self._floor = torch.zeros(n_latents)
        """What a score must exceed to be among the best of its latent; where the latents are."""
        self._ids: dict[int, array[int]] = {}
        self._numbers: dict[bytes, int] = {}
        self._next = 0
        self._live = 0
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self._here = threading.local()
        self._warned = False

    # --- seeing

    def see(
        self, latents: Tensor | SparseLatents, following: Following, context: HookContext | None
    ) -> None:
        """Take note of the latents of one call, `(batch, seq, n_latents)` or flat."""
        ids, seen = following.token_ids, following.seen
        if ids is None or latents.shape[:-1].numel() != ids.numel():
            self._warn(ids is None, latents.shape)
            return
        seen = Seen.of_all(*ids.shape) if seen is None else seen
        rows = self._rows(ids, seen)
        special = set() if context is None else context.special_token_ids
        counted = self._counted(ids, seen, special)
        if self._floor.device != latents_device(latents):
            self._floor = self._floor.to(latents_device(latents))
        latent, place, score = _better(latents, self._floor, counted)
        if not len(latent):
            return
        with self._lock:
            if context is not None:
                self._tokenizer = context.tokenizer
            self._merge(latent, place, score, rows, seen, ids.shape[1])

    def _warn(self, no_ids: bool, shape: torch.Size) -> None:
        if not self._warned:
            self._warned = True
            why = (
                "the model was given no token ids"
                if no_ids
                else f"latents of shape {tuple(shape)} do not go with its token ids"
            )
            warnings.warn(
                f"Texts are tracked, and {why}; such calls are not counted. Attach the SAE to a "
                "layer of a model that is called with input_ids.",
                HookWarning,
                stacklevel=3,
            )

    def _rows(self, ids: Tensor, seen: Seen) -> list[_Row]:
        """Return the rows of the batch; one that goes on, step by step, with what came before."""
        real = seen.real.tolist()
        new = [
            [id for id, is_real in zip(row, mask, strict=True) if is_real]
            for row, mask in zip(ids.tolist(), real, strict=True)
        ]
        past = (seen.count - seen.real.sum(1)).tolist()
        before: Sequence[_Row] = getattr(self._here, "rows", ())
        lengths = [len(row.ids) for row in before]
        if all(past) and lengths == past:  # a cache has what came before
            new = [row.ids + more for row, more in zip(before, new, strict=True)]
        elif not (
            lengths == [len(ids) - 1 for ids in new]
            and all(row.ids == ids[:-1] for row, ids in zip(before, new, strict=True))
        ):  # no step without a cache, which gives all again and one token more
            before = [_Row([]) for _ in new]
        texts: set[int] = set()
        rows = []
        for row, known in zip(new, before, strict=True):  # of equal prompts the first goes on
            text = None if known.text in texts else known.text
            texts |= set() if text is None else {text}
            rows.append(_Row(row, text))
        self._here.rows = rows
        return rows

    def _counted(self, ids: Tensor, seen: Seen, special: set[int]) -> Tensor:
        """Return which tokens count, bool `(batch * seq,)` on the CPU."""
        counted = seen.real
        if special:
            counted = counted & ~torch.isin(ids.cpu(), torch.tensor(sorted(special)))
        return counted.reshape(-1)

    def _merge(
        self,
        latent: Tensor,
        place: Tensor,
        score: Tensor,
        rows: list[_Row],
        seen: Seen,
        seq: int,
    ) -> None:
        batch_row = place // seq
        number = torch.full((len(rows),), -1)
        for at in _distinct(batch_row).tolist():
            number[at] = self._number(rows[at])
        first = torch.tensor([len(row.ids) for row in rows]) - seen.real.sum(1)
        at = seen.real.cumsum(1).reshape(-1)[place] - 1 + first[batch_row]
        touched = _distinct(latent)
        known = self._texts[touched] >= 0
        column = [
            (latent, touched[:, None].expand_as(known)[known]),
            (score, self._scores[touched][known]),
            (number[batch_row], self._texts[touched][known]),
            (at, self._places[touched][known]),
        ]
        # What is there already comes first, so that among equals it stays.
        latent, score, text, at = (torch.cat([old, new]) for new, old in column)
        # By latent, then score, best first; a positive float's bits grow with it.
        bits = score.view(torch.int32).to(torch.int64)
        order = ((latent << 32) - bits).argsort(stable=True)
        latent, score, text, at = latent[order], score[order], text[order], at[order]
        # Of each latent's entries of one text the first, which is the best.
        pair = latent * self._next + text
        by_pair = pair.argsort(stable=True)
        again = torch.zeros_like(latent, dtype=torch.bool)
        again[by_pair[1:]] = pair[by_pair[1:]] == pair[by_pair[:-1]]
        latent, score, text, at = latent[~again], score[~again], text[~again], at[~again]
        counts = torch.bincount(latent, minlength=len(self._scores))[touched]
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(latent)) - starts.repeat_interleave(counts)
        best = rank < self._top_k
        latent, rank = latent[best], rank[best]
        self._scores[latent, rank] = score[best]
        self._texts[latent, rank] = text[best]
        self._places[latent, rank] = at[best]
        self._floor[touched] = self._scores[touched, -1].to(self._floor.device)
        self._drop_texts()

    def _number(self, row: _Row) -> int:
        """Return the number of a row's text; the same for the same tokens."""
        ids = array("q", row.ids)
        if row.text is None or row.text not in self._ids:
            key = ids.tobytes()
            found = self._numbers.get(key)
            if found is None:
                found, self._next = self._next, self._next + 1
                self._ids[found], self._numbers[key] = ids, found
            row.text = found
        elif len(self._ids[row.text]) < len(ids):  # it went on since
            old = self._ids[row.text].tobytes()
            if self._numbers.get(old) == row.text:
                del self._numbers[old]
            self._ids[row.text] = ids
            self._numbers.setdefault(ids.tobytes(), row.text)
        return row.text

    def _drop_texts(self) -> None:
        if len(self._ids) <= 2 * self._live + 1024:
            return
        named = set(_distinct(self._texts).tolist())
        for number in [n for n in self._ids if n not in named]:
            ids = self._ids.pop(number).tobytes()
            if self._numbers.get(ids) == number:
                del self._numbers[ids]
        self._live = len(self._ids)

    # --- asking

    def best(self, latent: int) -> list[TopText]:
        """Return the best texts of a latent, best first."""
        with self._lock:
            found = [
                (score, list(self._ids[text]), place)
                for score, text, place in zip(
                    self._scores[latent].tolist(),
                    self._texts[latent].tolist(),
                    self._places[latent].tolist(),
                    strict=True,
                )
                if text >= 0
            ]
        return [
            TopText(
                score=score,
                text=self._decoded(ids, whole=True),
                token=self._decoded([ids[place]]),
                token_id=ids[place],
                position=place,
                token_ids=tuple(ids),
            )
            for score, ids, place in found
        ]

    def _decoded(self, ids: list[int], *, whole: bool = False) -> str:
        """Return the text of tokens; where the model has no tokenizer, their ids."""
        if self._tokenizer is None:
            return " ".join(map(str, ids))
        text: str = self._tokenizer.decode(ids, skip_special_tokens=whole)
        return text


def latents_device(latents: Tensor | SparseLatents) -> torch.device:
    """Return where the latents are."""
    return latents.values.device if isinstance(latents, SparseLatents) else latents.device


def _better(
    latents: Tensor | SparseLatents, floor: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latent, place in the batch and score of what exceeds the floor, on the CPU."""
    if isinstance(latents, SparseLatents):
        entry = (latents.values.float() > floor[latents.indices]).nonzero().reshape(-1)
        place = torch.searchsorted(latents.offsets, entry, right=True) - 1
        latent, score = latents.indices[entry], latents.values[entry]
    else:
        flat = latents.reshape(-1, latents.shape[-1])
        place, latent = (flat.float() > floor).nonzero(as_tuple=True)
        score = flat[place, latent]
    latent, place, score = latent.cpu(), place.cpu(), score.float().cpu()
    keep = counted[place]
    return latent[keep], place[keep], score[keep]


def _distinct(numbers: Tensor) -> Tensor:
    unique: Any = torch.unique  # it has no types
    found: Tensor = unique(numbers)
    return found
