"""The ledger of one call of `generate`: what each step was fed, and which of it came to be text.

A *search* is what `generate` does: greedy, sampling, beams, assisted. Its rows while it runs are
*slots*: copies of prompts, beams that are exchanged, candidates that are rejected. Which of it is
text is known when it returns. So there are two questions, and the ledger answers both:

- While a step runs (`Step.tokens`): what would each token be, if it came to be text? Its column in
  the text follows from how wide the text is so far, which the search says itself, and not from the
  cache: so it is the same with and without one, in chunks, for recurrent models. A row that has
  ended is fed filling, which is no token. A second forward, for guidance, is no text at all.
  Steering goes by this.
- When it returns (`settle`): which of it is part of what was returned? A token that a step was fed
  belongs to a returned row where the text up to it is the row's. So beams are followed through the
  search, and rejected candidates drop out. Captures are put in order by this: each token of each
  returned row once, where the first step had it.

*Columns* count from the first column of the prompt's mask; those of the returned sequences begin
`offset` later where a cache from before, or embeddings, hold what comes first.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from tenterhook_selections.generation import RunningGeneration, is_part, numbers, running
from tenterhook_selections.roles import Roles
from tenterhook_selections.tokens import Seen

Kind = Literal["one by one", "beams", "assisted"]

RIGHT = (
    "greedy search, sampling, beams (num_beams), assisted decoding (assistant_model) and prompt "
    "lookup (prompt_lookup_num_tokens), with any cache or none, and prefill_chunk_size"
)
"""The searches whose tokens are known."""


class Search:
    """One call of `generate`, of one model, while it runs and until it is settled."""

    def __init__(self, model: nn.Module, within: int | None, outer: Any = None) -> None:
        self.model = model
        self.within = within
        """The `id` of the frame of the forward in which it began."""
        self.outer = outer
        """The generation around it."""
        self.number = next(numbers)
        self.text: Text | None = None
        """What is known of the text; `None` before the search itself begins."""
        self.refused: str | None = None
        """Why tokens cannot be told."""
        self.aside = 0
        """Not 0 while something runs the model on other text: a logits processor, for guidance; a
        stopping criterion; a streamer."""
        self.is_draft = False
        """Whether it makes candidates for the search around it, by the same model."""
        self.layers: dict[int, _Layer] = {}
        """What captures keep of it, by the list that they keep it in."""
        self.sequences: Tensor | None = None
        """What it returned."""

    @property
    def prompt(self) -> Tensor:
        """Long `(batch,)`: the real tokens of each prompt."""
        if self.text is None:
            return torch.zeros(1, dtype=torch.long)
        return self.text.lengths[:: self.text.copies]

    @property
    def roles(self) -> Sequence[Roles] | None:
        """Who says what in each prompt, where whoever called `generate` said so."""
        outer = self.outer
        return (
            outer.roles
            if isinstance(outer, RunningGeneration) and outer.has_part(self.model)
            else None
        )

    def has_part(self, module: nn.Module) -> bool:
        """Whether the module has a part in it: is the model, within it or around it."""
        return is_part(module, self.model)

    @contextmanager
    def stepping_aside(self) -> Iterator[None]:
        """Have forwards in this block be no steps: somebody else's code runs."""
        self.aside += 1
        try:
            yield
        finally:
            self.aside -= 1

    def no_step(self, seq: int) -> "Step":
        """Return what a forward is that runs beside the search: none of its text."""
        return Step(self, None, seq, 0)

    def begin_step(self, batch: int, seq: int, *, named: Any = None) -> "Step | None":
        """Return the step that a forward of `(batch, seq)` is; `None` before the search begins."""
        if self.is_draft or self.aside or self.refused is not None:
            return self.no_step(seq)
        if self.text is None:  # what is run beforehand, as an encoder
            return None
        start = self.text.start_of(seq)
        if batch != self.text.slots or start < -self.text.virtual:
            self.refused = (
                f"A step of the generation was given {(batch, seq)} tokens, which does not follow "
                f"from {self.text.slots} rows of {self.text.width} so far."
            )
            return self.no_step(seq)
        step = Step(self, self.text, seq, start)
        step.ids = None if named is None else named.get("input_ids")
        self.text.fed(step)
        return step

    def record(
        self, step: "Step", rows: Tensor, columns: Tensor, calls: list[Tensor], places: list[Tensor]
    ) -> None:
        """Take note that the last of `calls` has these rows and columns of a step's tokens."""
        layer = self.layers.setdefault(id(calls), _Layer(calls, places))
        layer.records.append(_CallRecord(step, rows, columns, len(calls) - 1))

    def settle(self, sequences: Tensor) -> None:
        """Put in order what captures have kept, now that the search has returned `sequences`.

        Raises `ValueError` where the steps were fed something else.
        """
        text = self.text
        if text is None:
            return
        self.sequences = sequences
        text.settle(sequences)
        layers = [layer for layer in self.layers.values() if layer.records]
        if not layers:
            return
        if self.refused is not None:
            raise ValueError(self.refused)
        owners: dict[int, Tensor] = {}
        moves: dict[Any, tuple[Tensor, Tensor]] = {}
        for layer in layers:
            layer.settle(text, owners, moves)

    @property
    def is_known(self) -> bool:
        """Whether it is over, and all is known of what it returned."""
        return self.sequences is not None and self.refused is None

    @property
    def real(self) -> Tensor:
        """Bool `(rows, seq)`: which of the tokens that it returned after the prompt are text."""
        assert self.text is not None
        assert self.sequences is not None
        assert self.text.row_ends is not None
        width = self.sequences.shape[1] + self.text.offset
        return torch.arange(self.text.begin, width) < self.text.row_ends[:, None]

    @property
    def last_of_slots(self) -> Tensor | None:
        """What goes on, in each slot of the cache, to a returned row's end, `(slots, 1)`.

        `None` where a row goes on from none of them, as one that ended before the others.
        """
        assert self.text is not None
        return None if self.sequences is None else self.text.last_of_slots(self.sequences)

    @contextmanager
    def run_on(self, *, slots: bool) -> Iterator[None]:
        """Have the forward in this block run what no step ran, as one more step.

        Its rows are the slots, which are given `last_of_slots`; or the returned rows, whole or from
        some token on. What it has of tokens that captures have not seen is kept.
        """
        assert self.text is not None
        assert self.sequences is not None
        again = self
        if not slots:
            again = Search(self.model, self.within, self.outer)
            again.number = self.number
            again.text = self.text.of_rows(self.sequences)
            again.layers, again.refused = self.layers, self.refused
        token = running.set(again)
        try:
            yield
        finally:
            running.reset(token)
        again.settle(self.sequences)


class Step:
    """One forward of a search."""

    __slots__ = ("ids", "number", "search", "seq", "start", "text", "words")

    def __init__(self, search: Search, text: "Text | None", seq: int, start: int) -> None:
        self.search = search
        self.text = text
        """`None` where it is no text of the search's."""
        self.seq, self.start = seq, start
        """How many columns it was fed, from which one on; negative ones are virtual."""
        self.number = 0
        """Which of the search's it is, from 0 on."""
        self.ids: Tensor | None = None
        """What it was fed, `(slots, seq)`; `None` where it was embeddings."""
        self.words: Tensor | None = None
        """The text of each slot up to the step's end, where slots are exchanged."""

    def tokens(self, shape: tuple[int, int], ids: Tensor | None) -> Seen:
        """Return the tokens of the step as they would be if all of them came to be text.

        Raises `ValueError` where that cannot be told.
        """
        if self.text is None:
            if self.search.refused is not None and not self.search.aside:
                raise ValueError(self.search.refused)
            return Seen.nothing(*shape)
        earlier = partial(self.text.earlier, max(self.start, 0))
        seen = self.text.seen(self.start, self.seq)
        return attrs.evolve(seen, ids=ids, roles=self.search.roles, earlier=earlier)


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
        self._pending: list[Step] = []
        self._next = self.begin - to_feed
        self.goes_on = self._next > virtual
        """Whether a cache holds what came before."""
        self._is_prompt = True
        self._over: Tensor = torch.full((self.slots,), _NEVER)
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

    def fed(self, step: Step) -> None:
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
            fresh = over.cpu() & (self._over == _NEVER)
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

    def owners(self, step: Step, sequences: Tensor) -> Tensor:
        """Return which slot has each column of each returned row, long `(rows, seq)`.

        -1 where the step has not that token of that row. Raises `ValueError` where the step was fed
        what no returned row is.
        """
        assert self.row_ends is not None
        assert self.of_prompt is not None
        columns = torch.arange(step.start, step.start + step.seq)
        rows = len(sequences)
        if self.kind == "one by one":
            slot = torch.arange(rows)[:, None].expand(rows, step.seq)
            fits = torch.ones(rows, step.seq, dtype=torch.bool)
            self._check(step, sequences, columns)
        elif self.kind == "assisted":
            slot = torch.zeros(rows, step.seq, dtype=torch.long)
            same = self._is_same(step.ids, sequences, columns)
            fits = same.int().cumprod(1).bool()
        else:
            slot, fits = self._followed(step, sequences, columns)
        fits = fits & (columns < self.row_ends[:, None]) & (columns >= 0)
        first = torch.where(columns < self.begin)[0]
        prompts = self.mask[self.of_prompt * self.copies][:, columns[first].clamp(min=0)]
        fits[:, first] &= prompts
        return torch.where(fits, slot, -1)

    def _is_same(self, ids: Tensor | None, sequences: Tensor, columns: Tensor) -> Tensor:
        """Return where what a step was fed is what was returned, `(rows, seq)`."""
        at = columns - self.offset
        found = torch.ones(len(sequences), len(columns), dtype=torch.bool)
        known = (at >= 0) & (at < sequences.shape[1])
        if ids is not None:
            fed, text = ids.cpu()[:, -len(columns) :], sequences.cpu()
            found[:, known] = fed[:, known] == text[:, at[known]]
        return found & ((at < sequences.shape[1]) | (self.kind == "one by one"))

    def _check(self, step: Step, sequences: Tensor, columns: Tensor) -> None:
        ids = step.ids
        if ids is None or ids.shape != (len(sequences), step.seq):
            return
        real = columns < self.row_ends[:, None]  # type: ignore[index]
        if not bool((self._is_same(ids, sequences, columns) | ~real).all()):
            raise ValueError(
                "Tokens are selected, and the steps of the generation were fed others than it "
                f"returned, so it cannot be told which are which. Right are {RIGHT}."
            )

    def _followed(self, step: Step, sequences: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return, of beams, the slot whose text is a returned row's for longest, and where it is.

        Both `(rows, seq)`.
        """
        assert self.of_prompt is not None
        words, text = step.words, sequences.cpu()
        rows = len(text)
        if words is None:  # fed after the last look at the logits: nothing came of it
            return torch.zeros(rows, step.seq).long(), torch.zeros(rows, step.seq).bool()
        words = words.cpu()
        width = min(words.shape[1], text.shape[1])
        by_prompt = len(words) // self.copies, self.copies, width
        beams = words[:, :width].reshape(by_prompt)[self.of_prompt]
        alike = (beams == text[:, None, :width]).int().cumprod(2).sum(2)  # (rows, copies)
        longest, which = alike.max(1)
        slot = self.of_prompt * self.copies + which
        fits = columns < longest[:, None] + self.offset
        return slot[:, None].expand(rows, step.seq), fits


_NEVER = 2**62


class _CallRecord:
    """Which tokens of a step one call of a layer has."""

    __slots__ = ("at", "columns", "rows", "step")

    def __init__(self, step: Step, rows: Tensor, columns: Tensor, at: int) -> None:
        self.step, self.rows, self.columns, self.at = step, rows, columns, at


class _Layer:
    """What one capture keeps of a search at one layer."""

    def __init__(self, calls: list[Tensor], places: list[Tensor]) -> None:
        self.calls, self.places = calls, places
        self.records: list[_CallRecord] = []
        self.seen: Tensor | None = None
        """Which columns of which returned rows it has, bool `(rows, width)`."""
        self.history: tuple[int, ...] = ()

    def settle(self, text: Text, owners: dict[int, Tensor], moves: dict[Any, Any]) -> None:
        """Keep of each call what came to be text and was not seen before, by returned rows.

        `owners` and `moves` hold what was worked out for other layers.
        """
        sequences = text.sequences
        for record in self.records:
            step = record.step
            self.history = (*self.history, id(step), id(record.rows))
            if self.history not in moves:
                if id(step) not in owners:
                    owners[id(step)] = text.owners(step, sequences)
                moves[self.history] = self._moves(text, record, owners[id(step)])
            index, places, self.seen = moves[self.history]
            values = self.calls[record.at]
            if len(index) != len(values) or not torch.equal(index, torch.arange(len(values))):
                self.calls[record.at] = values.index_select(0, index.to(values.device))
            self.places[record.at] = places
        self.records = []

    def _moves(
        self, text: Text, record: _CallRecord, owner: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return which of a call's rows come where: indices, places, and what is seen now."""
        step = record.step
        rows = len(owner)
        width = max(text.width, step.start + step.seq) + 1
        seen = torch.zeros(rows, width, dtype=torch.bool) if self.seen is None else self.seen
        if seen.shape[1] < width:
            seen = torch.cat([seen, seen.new_zeros(rows, width - seen.shape[1])], 1)
        place = torch.full((text.slots, step.seq), -1, dtype=torch.long)
        place[record.rows, record.columns] = torch.arange(len(record.rows))
        index = place.gather(0, owner.clamp(min=0)) if rows else place[:0]
        index = torch.where(owner >= 0, index, -1)
        columns = torch.arange(step.start, step.start + step.seq)
        fresh = ~seen[:, columns.clamp(min=0)] & (columns >= 0)
        index = torch.where(fresh, index, -1)
        row, column = (index >= 0).nonzero(as_tuple=True)
        seen = seen.clone()
        seen[row, columns[column]] = True
        assert text.of_prompt is not None
        slot = text.of_prompt[row] * text.copies
        position = text.place(slot, columns[column])
        return index[row, column], torch.stack([row, position], 1), seen


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
