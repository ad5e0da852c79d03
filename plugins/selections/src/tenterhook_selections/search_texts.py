"""The text of a search while it runs: what each slot's tokens are, and where its rows end.

A *slot* is a row of the model while `generate` runs. Columns count from the first column of the
prompt's mask. How wide the text is so far the search says itself, as it looks at the logits and
asks which rows have ended; so it is the same with and without a cache.

Which of it is part of what was returned, once it is over, says `settling`.
"""

from collections.abc import Collection
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tenterhook_selections.tokens import Seen

Kind = Literal["one by one", "beams", "assisted"]

RIGHT = (
    "greedy search, sampling, beams (num_beams), assisted decoding (assistant_model) and prompt "
    "lookup (prompt_lookup_num_tokens), with any cache or none, and prefill_chunk_size"
)
"""The searches whose tokens are known."""


class Fed(Protocol):
    """What a step was fed; `Step` is one."""

    start: int
    """Its first column."""

    seq: int
    """How many columns it was fed."""

    number: int
    """Which of the search's steps it is, from 0 on."""

    ids: Tensor | None
    """What it was fed, `(slots, seq)`; `None` where it was embeddings."""

    words: Tensor | None
    """The text of each slot up to the step's end, where slots are exchanged."""


class Text:
    """What is known of the text of a search's slots."""

    def __init__(
        self,
        kind: Kind,
        mask: Tensor,
        *,
        copies: int,
        offset: int,
        to_feed: int,
        in_chunks: bool = False,
        virtual: int = 0,
        ends: frozenset[int] = frozenset(),
        padding: int | None = None,
    ) -> None:
        """`mask` says which columns of each slot's prompt are real, `(slots, width)`, on the CPU.

        `copies` slots stand for one prompt. `to_feed` columns of the prompt are not in the cache
        yet. `ends` are the ids that end a row; what ended without one is filled with `padding`,
        `None` where nothing can.
        """
        self.kind = kind
        self.mask = mask.bool()
        self.slots, self.begin = mask.shape
        self.copies, self.offset = copies, offset
        self.virtual = virtual
        self.in_chunks = in_chunks
        self.ends, self.padding = ends, padding
        self.untold: str | None = None
        """Why its tokens cannot be selected; see `Seen.untold`."""
        self.width = self.begin
        """How wide the text is so far."""
        self.lengths = self.mask.sum(1)
        self.positions = self.mask.cumsum(1) - 1
        self.sequences = mask[:, :0]
        self.held: Tensor | None = None
        """Of beams, the text that the cache holds of each slot, `(slots, seq)`."""
        self.latest: Tensor | None = None
        """Of other searches, the text of each slot at the last look, `(slots, seq)`."""
        self._next_words: Tensor | None = None
        self._count = 0
        self._pending: list[Fed] = []
        self._next = self.begin - to_feed
        self.goes_on = self._next > virtual
        """Whether a cache holds what came before."""
        self._is_prompt = True
        self._over: Tensor = torch.full((self.slots,), NEVER)
        self._news: list[tuple[int, Tensor]] = []
        self.row_ends: Tensor | None = None
        self.of_prompt: Tensor | None = None

    # --- while it runs

    def start_of(self, seq: int) -> int:
        """Return the column of the first of `seq` tokens that the next step is fed."""
        if self._is_prompt:
            if self.in_chunks or self.kind == "assisted":
                return self._next
            return self.begin - seq
        return self.width - 1 if self.kind == "assisted" else self.width - seq

    def fed(self, step: Fed) -> None:
        """Take note of a step that begins."""
        step.number, self._count = self._count, self._count + 1
        if self._next_words is not None:
            step.words = self._next_words
        elif self.kind == "beams":
            self._pending.append(step)
        if self._is_prompt:
            self._next = step.start + step.seq

    def scored(self, ids: Tensor) -> None:
        """Take note of the slots' text `(slots, seq)` as the last step's logits are looked at."""
        if self.kind == "assisted":
            return  # looked at candidates, too
        for step in self._pending:
            step.words = ids
        if self.kind == "one by one":
            self.latest = ids
        self._pending, self.held = [], ids
        self._is_prompt = False
        self.width = ids.shape[1] + self.offset + 1

    def reordered(self, beams: Tensor) -> None:
        """Take note that the slots of the cache go on from those of these indices, `(slots,)`."""
        if self.held is not None:
            self.held = self.held[beams.to(self.held.device)]

    def extended(self, ids: Tensor, over: Any, fills: bool) -> None:
        """Take note of the text `(slots, seq)` after a step, and of which slots are `over`.

        `fills` says whether those are given padding from now on.
        """
        if self.kind == "beams":
            return
        self._is_prompt = False
        self.latest = ids
        self.width = ids.shape[1] + self.offset
        if fills and isinstance(over, Tensor) and over.shape == (self.slots,):
            self._news.append((self.width, over))

    def earlier(self, start: int) -> Tensor | None:
        """Return the ids of each slot's text before a column, `(slots, start)`; -1 for no token.

        `None` where they are not known, as while beams are exchanged.
        """
        text = self.held if self._next_words is not None else self.latest
        if self.offset or text is None or text.shape[1] < start:
            return None
        real = torch.arange(start) < self.ended()[:, None]
        given = min(start, self.begin)
        real[:, :given] &= self.mask[:, :given]
        return torch.where(real, text[:, :start].cpu(), -1)

    def ended(self) -> Tensor:
        """Return the column behind the last token of each slot, long `(slots,)`."""
        for width, over in self._news:
            fresh = over.cpu() & (self._over == NEVER)
            self._over = torch.where(fresh, width, self._over)
        self._news = []
        return self._over

    def seen(self, start: int, seq: int) -> Seen:
        """Return the tokens of the slots in `seq` columns from `start` on."""
        columns = torch.arange(start, start + seq)
        ended = self.ended()[:, None]
        real = self._over.new_zeros((self.slots, seq), dtype=torch.bool)
        position = torch.zeros((self.slots, seq), dtype=torch.long)
        given = columns[(columns >= 0) & (columns < self.begin)]
        at = slice(max(-start, 0), max(-start, 0) + len(given))
        real[:, at], position[:, at] = self.mask[:, given], self.positions[:, given]
        made = columns >= self.begin
        lengths = self.lengths[:, None]
        real[:, made] = columns[made] < ended
        position[:, made] = lengths + (columns[made] - self.begin)
        count = self.lengths + (torch.minimum(self._over, columns[-1:] + 1) - self.begin).clamp(0)
        known = torch.maximum(position + 1, lengths)
        return Seen(
            real,
            position,
            count,
            self.lengths,
            self.copies,
            known=known,
            first=start,
            untold=self.untold,
            columns=self._columns(start + seq),
        )

    def _columns(self, end: int) -> Tensor:
        """Return which columns before `end` hold a token, virtual ones first."""
        made = torch.ones(self.slots, max(end - self.begin, 0), dtype=torch.bool)
        none = torch.zeros(self.slots, self.virtual, dtype=torch.bool)
        return torch.cat([none, self.mask[:, :end], made], 1)

    # --- when it has returned

    def settle(self, sequences: Tensor) -> None:
        """Work out which columns of the returned rows are text."""
        rows = len(sequences)
        self.sequences = sequences
        width = sequences.shape[1] + self.offset
        each = max(rows * self.copies // self.slots, 1)
        self.of_prompt = torch.arange(rows) // each  # the prompt that a returned row goes on from
        if self.kind == "one by one":
            ends = self.ended().clamp(max=width)
        else:
            made = sequences[:, self.begin - self.offset :].cpu()
            ends = self.begin + real_tokens(made, self.ends, self.padding).sum(1)
        self.row_ends = ends

    def last_of_slots(self, sequences: Tensor) -> Tensor | None:
        """Return what goes on to the rows' ends in the slots' cache; see `Search`."""
        assert self.row_ends is not None
        assert self.of_prompt is not None
        if self.held is None or bool((self.row_ends < self.width).any()):
            return None
        held = self.held.cpu().reshape(-1, self.copies, self.held.shape[1])[self.of_prompt]
        text = sequences.cpu()
        alike = (held == text[:, None, :-1]).all(2)
        if held.shape[2] != text.shape[1] - 1 or not bool(alike.any(1).all()):
            return None
        slot = self.of_prompt * self.copies + alike.int().argmax(1)
        row = torch.zeros(self.slots, dtype=torch.long)
        row[slot] = torch.arange(len(text))
        last = sequences[row.to(sequences.device), -1:]
        self._next_words = torch.cat([self.held, last.to(self.held.device)], 1)
        return last

    def of_rows(self, sequences: Tensor) -> "Text":
        """Return the text of the returned rows, as slots of their own, whole."""
        assert self.row_ends is not None
        assert self.of_prompt is not None
        slot = self.of_prompt * self.copies
        again = Text(
            "one by one",
            self.mask[slot],
            copies=max(len(sequences) * self.copies // self.slots, 1),
            offset=self.offset,
            to_feed=0,
            virtual=self.virtual,
        )
        again._is_prompt = False
        again.width = sequences.shape[1] + self.offset
        again._over, again.latest = self.row_ends, sequences
        again.settle(sequences)
        return again

    def place(self, slot: Tensor, column: Tensor) -> Tensor:
        """Return the positions of columns among their rows' real tokens, long `(n,)`."""
        given = self.positions[slot, column.clamp(max=self.begin - 1)] if self.begin else column
        return torch.where(column < self.begin, given, self.lengths[slot] + column - self.begin)


NEVER = 2**62
"""The column behind a row that has not ended."""


def real_tokens(generated: Tensor, ends: Collection[int], padding: int | None) -> Tensor:
    """Return which generated tokens are no filling, bool `(rows, seq)`.

    A row ends with its first id among `ends`, if any; what ended otherwise, as by a stop string, is
    filled with `padding`.
    """
    real = torch.ones_like(generated, dtype=torch.bool)
    if ends:
        end = torch.isin(generated, torch.tensor(sorted(ends), device=generated.device))
        real = (end.cumsum(1) - end.int()) == 0
    if padding is not None and padding not in ends:
        real &= (generated != padding).flip(1).cumsum(1).flip(1) > 0
    return real
