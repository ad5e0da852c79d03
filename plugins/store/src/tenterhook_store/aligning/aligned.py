"""Two runs whose rows are paired by the characters they are of: made, described, and loaded from.

What of it is in a store, and how, is `keeping`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor

from tenterhook_store.aligning.alignable import Alignable, TensorStore
from tenterhook_store.aligning.columns import AlignedColumns
from tenterhook_store.aligning.keeping import AlignmentFacts, as_it_was, kept_pairs, read, save
from tenterhook_store.aligning.pairing import paired_rows
from tenterhook_store.aligning.pairs import Pairs, in_pieces, spilled
from tenterhook_store.aligning.texts import SameTexts
from tenterhook_store.columns import Also
from tenterhook_store.errors import BadSetting, CannotAlign
from tenterhook_store.loader import BLOCK_ROWS, BUFFER_ROWS, Mixing, RowLoader
from tenterhook_store.problem import Problem
from tenterhook_store.progress import Work, showing
from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.rows import Rows

Layers = str | int | Sequence[Any]
"""A layer of both runs, or two in a tuple: of the first run and of the second, each one layer or a
list of them."""


@final
class AlignedRuns:
    """Two runs, and which row of one is of the same characters as which row of the other.

    `run.align(other)` makes one. Its pairs are in the order of the first run's rows; each row is
    in one pair at most. `save` keeps it in a store, and `open_alignment` opens it again.
    """

    def __init__(
        self,
        run_a: Alignable,
        run_b: Alignable,
        facts: AlignmentFacts,
        pairs: Pairs,
        kept: tuple[TensorStore, str] | None = None,
    ) -> None:
        """`kept` is the store that it is in, and its name there; `align` and `open_alignment` make
        these.
        """
        self.run_a, self.run_b = run_a, run_b
        self.facts = facts
        self._pairs = pairs
        self._kept = kept

    @property
    def id(self) -> str:
        """The ids of both runs."""
        return f"{self.run_a.id}--{self.run_b.id}"

    @property
    def name(self) -> str | None:
        """The name that it is kept under; `None` before `save`."""
        return None if self._kept is None else self._kept[1]

    @property
    def pairs(self) -> Rows:
        """The numbers of the rows of each pair, int64 `[pairs, 2]`: first run, second run."""
        return Rows(
            "pairs",
            (len(self), 2),
            torch.int64,
            self._pairs.block,
            lambda places, check: self._pairs.take(places),
        )

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    @property
    def documents(self) -> int:
        """How many documents have pairs."""
        return self.facts.documents

    @property
    def different_documents(self) -> tuple[int, ...]:
        """The first documents, by number, that are another text in each run; they have no pairs.

        `facts.different_count` counts all of them.
        """
        return self.facts.different

    @property
    def ranges(self) -> RowRanges:
        """The pairs that are there: all of them."""
        return RowRanges.whole(len(self))

    def loader(
        self,
        layers: Layers,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mixing: Mixing = "blocks",
        buffer_rows: int = BUFFER_ROWS,
        block_rows: int = BLOCK_ROWS,
        also: Sequence[Also] = (),
        rows: slice = slice(None),
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: torch.device | str | None = None,
        threads: int = 4,
        check: bool = True,
    ) -> RowLoader:
        """Return batches of pairs for training: tuples of what each run gives, its rows aligned.

        `layers` is a layer of both runs, or two: of the first and of the second, each one layer or
        a list. What a run gives is as for `Run.loader`: a tensor `[batch, features]`, or with
        lists or `also` a dict of tensors. `rows` is a part of the pairs, by their places. All else
        is as for `Run.loader`: shuffling, ranks and workers, states to go on from.

        Raises `NotCaptured`, `BadSetting`, and while reading `DamagedStore`.
        """
        return RowLoader(
            self,
            layers,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            mixing=mixing,
            buffer_rows=buffer_rows,
            block_rows=block_rows,
            also=also,
            rows=rows,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            device=device,
            threads=threads,
            check=check,
        )

    def open_columns(self, layers: Any, also: Sequence[Also], part: RowRanges) -> AlignedColumns:
        """Return the arrays that a loader reads together."""
        return AlignedColumns(self.run_a, self.run_b, self._pairs, layers, also, part)

    def save(
        self, store: TensorStore | None = None, name: str | None = None, *, overwrite: bool = False
    ) -> "AlignedRuns":
        """Keep it in a store, and return it as it is kept.

        In the store of the first run, under the ids of both (`A--B`), unless told otherwise. One
        that is there and is the same stays. Raises `OtherAlignment` (a `ValueError`) where another
        is there, unless it may be overwritten, `BadName`, `NotWritable`.
        """
        into = self.run_a.store if store is None else store
        if into is None:
            raise BadSetting("store", None, "a store, for this run does not say in which it is")
        name = self.id if name is None else name
        runs = self.run_a, self.run_b
        save(into, name, runs, self.facts, self._pairs, overwrite=overwrite)
        return opened(into, name, runs)

    def verify(self) -> list[Problem]:
        """Pair the rows of both runs again, and return what is not as it is here; reads all spans.

        Empty where all is well. Raises `DamagedStore` where the runs themselves cannot be read.
        """
        where = "alignment" if self._kept is None else f"alignment {self._kept[1]}"
        again = align(self.run_a, self.run_b)
        found = [
            f"{name} is {getattr(self.facts, name)} here, and {getattr(again.facts, name)} by the "
            "runs as they are"
            for name in ("pairs", "documents", "different", "different_count")
            if getattr(self.facts, name) != getattr(again.facts, name)
        ]
        for number, (one, other) in enumerate(
            zip(in_pieces(self._pairs), in_pieces(again._pairs), strict=False)
        ):
            if not torch.equal(one, other):
                found.append(f"piece {number} has other pairs than the runs as they are")
        return [Problem(None, where, cause) for cause in found]

    def summary(self) -> dict[str, Any]:
        """Say what it is, in plain JSON values."""
        return {
            "run_a": self.run_a.id,
            "run_b": self.run_b.id,
            **attrs.asdict(self.facts, value_serializer=_plain),
            "only_a": self.run_a.ranges.rows - len(self),
            "only_b": self.run_b.ranges.rows - len(self),
            "name": self.name,
        }

    def __str__(self) -> str:
        """Return a line for each thing that there is to say."""
        said = self.summary()
        lines = [
            f"A {self.run_a.id}, B {self.run_b.id}: {len(self):,} rows of {self.documents:,} "
            "documents are of the same characters",
            *(
                f"only in {run}: {said[key]:,} rows"
                for run, key in (("A", "only_a"), ("B", "only_b"))
                if said[key]
            ),
        ]
        if count := self.facts.different_count:
            shown = ", ".join(map(str, self.different_documents[:10]))
            more = f" and {count - 10:,} more" if count > 10 else ""
            lines.append(f"left out, other texts in A and B: documents {shown}{more}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"AlignedRuns({self.run_a.id!r}, {self.run_b.id!r}, {len(self)} pairs)"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._kept is None:
            raise TypeError(
                "An alignment that is not kept is in this process alone. Keep it in a store for "
                "others: aligned = run.align(other).save()."
            )
        return opened, (*self._kept, (self.run_a, self.run_b))


def align(
    run_a: Alignable, run_b: Alignable, *, progress: Callable[[int, int], None] | None = None
) -> AlignedRuns:
    """Pair the rows of two runs that are of the same characters of the same document.

    Whatever their models, checkpoints and tokenizers. Documents are those of the same number; ones
    that are other texts are left out and named. Of runs that lack units, the rows that are there
    are paired. In memory are some rows of each run, or its longest document; the pairs are in a
    temporary file. `progress` is called with the rows of the first run that are done, of how many.

    Raises `CannotAlign` (a `ValueError`) for other data sets, for runs without rows, and for
    conversations that became other texts, and `NoSpans` for a run without spans.
    """
    for run in (run_a, run_b):
        if not run.plan.layers:
            reason = f"{run.id!r} keeps statistics of its layers, and no rows of them"
            raise CannotAlign(run_a.id, run_b.id, f"{reason}. Capture it with its rows")
        _ = run.spans
    is_same = SameTexts(run_a, run_b)
    documents = 0

    def parts(work: Work) -> Iterator[Tensor]:
        nonlocal documents
        for pairs, count, done in paired_rows(run_a, run_b, is_same):
            documents += count
            work.reach(done)
            yield pairs

    rows = run_a.ranges.rows
    with showing(f"Aligning {run_a.id} and {run_b.id}", rows, progress=progress) as work:
        pairs = spilled(parts(work))
        work.reach(rows)
    facts = AlignmentFacts(
        pairs=len(pairs),
        documents=documents,
        different=is_same.different,
        different_count=is_same.different_count,
    )
    return AlignedRuns(run_a, run_b, facts, pairs)


def opened(store: TensorStore, name: str, runs: Sequence[Alignable]) -> AlignedRuns:
    """Open an alignment that is kept, of these runs; see `opening.open_alignment`."""
    kept = read(store, name)
    run_a, run_b = (as_it_was(*each) for each in zip(runs, kept.runs, strict=True))
    return AlignedRuns(run_a, run_b, kept.facts, kept_pairs(store, name, kept), (store, name))


def _plain(owner: object, field: object, value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value
