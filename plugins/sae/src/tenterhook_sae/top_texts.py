"""The texts that activate each latent most, in bounded memory."""

import threading
import warnings
from array import array
from collections import deque
from itertools import chain
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook import HookContext
from tenterhook.hooks import HookWarning
from tenterhook.html import table
from tenterhook_sae.following import Following, Marks, ModelForward
from tenterhook_sae.sparse_latents import SparseLatents
from tenterhook_selections import Seen


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

    def _repr_html_(self) -> str:
        return TopTextList([self])._repr_html_()


class TopTextList(list[TopText]):
    """The texts that activate a latent most, best first; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        rows = ((f"{each.score:.4g}", each.token, each.position, each.text) for each in self)
        return table(chain([("score", "token", "position", "text")], rows))


FORWARDS = 8
"""So many forwards of a thread can be gone on with, with their caches or copies of them."""


_Entries = tuple[Tensor, Tensor, Tensor, Tensor]
"""Latents, scores, numbers of texts and places in them, each `(entries,)`, on the CPU."""


class _Row:
    """A sequence of the batch, as far as this thread has seen it."""

    __slots__ = ("ids", "text")

    def __init__(self, ids: list[int], text: int | None = None) -> None:
        self.ids, self.text = ids, text


class _Ended:
    """The rows of a forward that ended, and how to find them in the cache that it left."""

    def __init__(self, rows: list[_Row], marks: Marks | None) -> None:
        self.rows, self.marked = rows, dict[bytes, _Row]()
        doubtful = set()
        for mark, row in zip(marks or (), rows, strict=marks is not None):
            if self.marked.setdefault(mark, row).ids != row.ids:
                doubtful.add(mark)
        for mark in doubtful:
            del self.marked[mark]


class TopTexts:
    """Per latent the best texts of everything seen: scores, places, and the texts they name.

    The arrays are `(n_latents, top_k)`, best first. What exceeds the least of its latent waits
    until there is one such entry for each latent, or somebody asks; putting few in costs almost
    as much as many. A text that no entry names any more is dropped, so memory is bounded by
    `n_latents * (top_k + 1)` entries and texts.
    """

    def __init__(self, n_latents: int, top_k: int) -> None:
        self.enabled = True
        self._top_k = top_k
        self._scores = torch.zeros(n_latents, top_k)
        self._texts = torch.full((n_latents, top_k), -1)
        self._places = torch.zeros(n_latents, top_k, dtype=torch.int64)
        self._floor = torch.zeros(n_latents)
        """What a score must exceed to be among the best of its latent; where the latents are."""
        self._waiting: list[_Entries] = []
        self._n_waiting = 0
        self._ids: dict[int, array[int]] = {}
        self._numbers: dict[bytes, int] = {}
        self._next = 0
        self._live = 0
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self._here = threading.local()
        self._warned = set[str]()

    # --- seeing

    def see(
        self, latents: Tensor | SparseLatents, following: Following, context: HookContext | None
    ) -> None:
        """Take note of the latents of one call, `(batch, seq, n_latents)` or flat."""
        ids, seen, forward = following.token_ids, following.seen, following.forward
        if ids is None or latents.shape[:-1].numel() != ids.numel():
            self._warn(_NO_IDS if ids is None else _OTHER_SHAPE)
            return
        seen = Seen.of_all(*ids.shape) if seen is None else seen
        rows = self._rows(ids, seen, forward)
        if rows is None:
            self._warn(_NO_MARKS)
            return
        special = set() if context is None else context.special_token_ids
        counted = self._counted(ids, seen, special)
        if self._floor.device != latents_device(latents):
            self._floor = self._floor.to(latents_device(latents))
        latent, place, score = _better(latents, self._floor, counted)
        if not len(latent):
            return
        batch_row = place // ids.shape[1]
        before = torch.tensor([len(row.ids) for row in rows]) - seen.count
        at = seen.position.reshape(-1)[place] + before[batch_row]
        with self._lock:
            if context is not None:
                self._tokenizer = context.tokenizer
            named = set(batch_row.tolist())
            number = [self._number(row) if n in named else -1 for n, row in enumerate(rows)]
            self._waiting.append((latent, score, torch.tensor(number)[batch_row], at))
            self._n_waiting += len(latent)
            if self._n_waiting >= len(self._scores):
                self._merge()

    def _warn(self, why: str) -> None:
        if why not in self._warned:
            self._warned.add(why)
            message = f"Texts are tracked, and {why}"
            warnings.warn(message, HookWarning, stacklevel=3)

    def ended(self, forward: ModelForward, marks: Marks | None) -> None:
        """Remember the rows of a forward that ended, for those that go on with its cache."""
        self._ended.append(_Ended(forward.rows, marks))

    @property
    def _ended(self) -> "deque[_Ended]":
        ended: deque[_Ended] | None = getattr(self._here, "ended", None)
        if ended is None:
            ended = self._here.ended = deque(maxlen=FORWARDS)
        return ended

    def _rows(self, ids: Tensor, seen: Seen, forward: ModelForward | None) -> list[_Row] | None:
        """Return the rows of the batch, each with what came before it.

        `None` where the model has seen tokens before and nothing says which.
        """
        if forward is not None and forward.rows is not None:  # the layer was called before
            known: list[_Row] = forward.rows
            return known
        new: list[list[int]] = ids.tolist()
        if not seen.real.all():
            new = [
                [id for id, is_real in zip(row, mask, strict=True) if is_real]
                for row, mask in zip(new, seen.real.tolist(), strict=True)
            ]
        past = (seen.count - seen.real.sum(1)).tolist()
        marks = None if forward is None else forward.past
        if marks is None and not any(past):
            before = self._read_again(new)
        else:
            found = self._before(past, marks)
            if found is None:
                return None
            before = found
            new = [row.ids + more for row, more in zip(before, new, strict=True)]
        texts: set[int] = set()
        rows = []
        for row, known_row in zip(new, before, strict=True):  # of equal rows the first goes on
            text = None if known_row.text in texts else known_row.text
            texts |= set() if text is None else {text}
            rows.append(_Row(row, text))
        if forward is not None:
            forward.rows = rows
        return rows

    def _read_again(self, new: list[list[int]]) -> list[_Row]:
        """Return what rows go on with that were read from their beginnings.

        A step without a cache gives all again and one token more; other rows go on with nothing.
        """
        last = self._ended[-1].rows if self._ended else []
        longer = {len(row.ids) + 1 for row in last if row.ids}
        if not all(len(ids) in longer for ids in new):
            return [_Row([]) for _ in new]
        known = {tuple(row.ids): row for row in reversed(last)}
        before = [known.get(tuple(ids[:-1])) for ids in new]
        found = [row for row in before if row is not None]
        return found if len(found) == len(new) else [_Row([]) for _ in new]

    def _before(self, past: list[int], marks: Marks | None) -> list[_Row] | None:
        """Return what rows go on with of which a cache has so many tokens each, 0 if unknown."""
        if not marks:
            return None
        known: dict[bytes, _Row] = {}
        for ended in self._ended:
            known.update(ended.marked)
        before = [known.get(mark, _Row([])) for mark in marks]
        return [
            row if length in (0, len(row.ids)) else _Row([])
            for row, length in zip(before, past, strict=True)
        ]

    def _counted(self, ids: Tensor, seen: Seen, special: set[int]) -> Tensor:
        """Return which tokens count, bool `(batch * seq,)` on the CPU."""
        counted = seen.real
        if special:
            counted = counted & ~torch.isin(ids.cpu(), torch.tensor(sorted(special)))
        return counted.reshape(-1)

    def _merge(self) -> None:
        """Put in what waits."""
        if not self._waiting:
            return
        waiting = [torch.cat(column) for column in zip(*self._waiting, strict=True)]
        self._waiting, self._n_waiting = [], 0
        touched = _distinct(waiting[0])
        known = self._texts[touched] >= 0
        there = [
            touched[:, None].expand_as(known)[known],
            self._scores[touched][known],
            self._texts[touched][known],
            self._places[touched][known],
        ]
        # What is there already comes first, so that among equals it stays.
        latent, score, text, at = (
            torch.cat([old, new]) for old, new in zip(there, waiting, strict=True)
        )
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

    def best(self, latent: int) -> TopTextList:
        """Return the best texts of a latent, best first."""
        with self._lock:
            self._merge()
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
        return TopTextList(
            TopText(
                score=score,
                text=self._decoded(ids, whole=True),
                token=self._decoded([ids[place]]),
                token_id=ids[place],
                position=place,
                token_ids=tuple(ids),
            )
            for score, ids, place in found
        )

    def _decoded(self, ids: list[int], *, whole: bool = False) -> str:
        """Return the text of tokens; where the model has no tokenizer, their ids."""
        if self._tokenizer is None:
            return " ".join(map(str, ids))
        text: str = self._tokenizer.decode(ids, skip_special_tokens=whole)
        return text


_NO_IDS = (
    "the model was given no token ids; such calls are not counted. Attach the SAE to a layer of a "
    "model that is called with input_ids."
)
_OTHER_SHAPE = (
    "the shape of latents does not go with the model's token ids; such calls are not counted. "
    "Attach the SAE to a layer that returns an activation for each token."
)
_NO_MARKS = (
    "the model goes on with texts that its cache does not show; such calls are not counted. "
    "Generate with use_cache=False."
)


def latents_device(latents: Tensor | SparseLatents) -> torch.device:
    """Return where the latents are."""
    return latents.values.device if isinstance(latents, SparseLatents) else latents.device


def _better(
    latents: Tensor | SparseLatents, floor: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latent, place in the batch and score of what exceeds the floor, on the CPU."""
    if isinstance(latents, SparseLatents):
        least = floor.index_select(0, latents.indices)  # faster than floor[latents.indices]
        entry = (latents.values.float() > least).nonzero().reshape(-1)
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
