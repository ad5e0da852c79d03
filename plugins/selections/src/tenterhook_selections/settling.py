"""What captures have kept of a search, put in order when it has returned.

A token that a step was fed belongs to a returned row where the text up to it is the row's. So beams
are followed through the search, and rejected candidates drop out: each token of each returned row
is kept once, where the first step had it.
"""

from typing import Any

import torch
from torch import Tensor

from tenterhook_selections.search_texts import RIGHT, Fed, Text


def owner_of(text: Text, step: Fed, sequences: Tensor) -> Tensor:
    """Return which slot has each column of each returned row, long `(rows, seq)`.

    -1 where the step has not that token of that row. Raises `ValueError` where the step was fed
    what no returned row is.
    """
    assert text.row_ends is not None
    assert text.of_prompt is not None
    columns = torch.arange(step.start, step.start + step.seq)
    rows = len(sequences)
    if text.kind == "one by one":
        slot = torch.arange(rows)[:, None].expand(rows, step.seq)
        fits = torch.ones(rows, step.seq, dtype=torch.bool)
        _check(text, step, sequences, columns)
    elif text.kind == "assisted":
        slot = torch.zeros(rows, step.seq, dtype=torch.long)
        same = _is_same(text, step.ids, sequences, columns)
        fits = same.int().cumprod(1).bool()
    else:
        slot, fits = _followed(text, step, sequences, columns)
    fits = fits & (columns < text.row_ends[:, None]) & (columns >= 0)
    first = torch.where(columns < text.begin)[0]
    prompts = text.mask[text.of_prompt * text.copies][:, columns[first].clamp(min=0)]
    fits[:, first] &= prompts
    return torch.where(fits, slot, -1)


def _is_same(text: Text, ids: Tensor | None, sequences: Tensor, columns: Tensor) -> Tensor:
    """Return where what a step was fed is what was returned, `(rows, seq)`."""
    at = columns - text.offset
    found = torch.ones(len(sequences), len(columns), dtype=torch.bool)
    known = (at >= 0) & (at < sequences.shape[1])
    if ids is not None:
        fed, whole = ids.cpu()[:, -len(columns) :], sequences.cpu()
        found[:, known] = fed[:, known] == whole[:, at[known]]
    return found & ((at < sequences.shape[1]) | (text.kind == "one by one"))


def _check(text: Text, step: Fed, sequences: Tensor, columns: Tensor) -> None:
    ids = step.ids
    if ids is None or ids.shape != (len(sequences), step.seq):
        return
    real = columns < text.row_ends[:, None]  # type: ignore[index]
    if not bool((_is_same(text, ids, sequences, columns) | ~real).all()):
        raise ValueError(
            "Tokens are selected, and the steps of the generation were fed others than it "
            f"returned, so it cannot be told which are which. Right are {RIGHT}."
        )


def _followed(text: Text, step: Fed, sequences: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of beams, the slot whose text is a returned row's for longest, and where it is.

    Both `(rows, seq)`.
    """
    assert text.of_prompt is not None
    words, whole = step.words, sequences.cpu()
    rows = len(whole)
    if words is None:  # fed after the last look at the logits: nothing came of it
        return torch.zeros(rows, step.seq).long(), torch.zeros(rows, step.seq).bool()
    words = words.cpu()
    width = min(words.shape[1], whole.shape[1])
    by_prompt = len(words) // text.copies, text.copies, width
    beams = words[:, :width].reshape(by_prompt)[text.of_prompt]
    alike = (beams == whole[:, None, :width]).int().cumprod(2).sum(2)  # (rows, copies)
    longest, which = alike.max(1)
    slot = text.of_prompt * text.copies + which
    fits = columns < longest[:, None] + text.offset
    return slot[:, None].expand(rows, step.seq), fits


class CallRecord:
    """Which tokens of a step one call of a layer has."""

    __slots__ = ("at", "columns", "rows", "step")

    def __init__(self, step: Fed, rows: Tensor, columns: Tensor, at: int) -> None:
        self.step, self.rows, self.columns, self.at = step, rows, columns, at


class KeptCalls:
    """What one capture keeps of a search at one layer."""

    def __init__(self, calls: list[Tensor], places: list[Tensor]) -> None:
        self.calls, self.places = calls, places
        self.records: list[CallRecord] = []
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
                    owners[id(step)] = owner_of(text, step, sequences)
                moves[self.history] = self._moves(text, record, owners[id(step)])
            index, places, self.seen = moves[self.history]
            values = self.calls[record.at]
            if len(index) != len(values) or not torch.equal(index, torch.arange(len(values))):
                self.calls[record.at] = values.index_select(0, index.to(values.device))
            self.places[record.at] = places
        self.records = []

    def _moves(
        self, text: Text, record: CallRecord, owner: Tensor
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
