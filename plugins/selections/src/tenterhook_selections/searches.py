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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook_selections.generation import RunningGeneration, is_part, numbers, running
from tenterhook_selections.roles import Roles
from tenterhook_selections.search_texts import Text
from tenterhook_selections.settling import CallRecord, KeptCalls
from tenterhook_selections.tokens import Seen


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
        self.layers: dict[int, KeptCalls] = {}
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
        layer = self.layers.setdefault(id(calls), KeptCalls(calls, places))
        layer.records.append(CallRecord(step, rows, columns, len(calls) - 1))

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

    def __init__(self, search: Search, text: Text | None, seq: int, start: int) -> None:
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
