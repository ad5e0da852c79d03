"""A run, opened for reading: its rows, its statistics, its text, and what made it.

A `Run` knows no files. A store makes it of functions that read, and the run says which rows there
are and hands out what reads them. Importing this imports no torch, and neither does looking at how
far a run is: what reads rows is imported when it is asked for.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, final

import attrs

from tenterhook_store.errors import NotCaptured, NotKept, ReplacedRun
from tenterhook_store.int8_error import SCALE, int8_errors
from tenterhook_store.kept_tensors import KeptTensors
from tenterhook_store.limits import held_now
from tenterhook_store.narrowing import OUT_OF_RANGE, out_of_range
from tenterhook_store.notebook import run_html
from tenterhook_store.plan import ROW_ARRAYS, LayerArray, RunPlan
from tenterhook_store.row_ranges import Missing, ranges
from tenterhook_store.shared_tensors import SharedTensors
from tenterhook_store.statistics import DEFAULT_QUANTILES, quantile_error, reduced
from tenterhook_store.tokenizer import load_tokenizer
from tenterhook_store.unit_numbers import UnitNumbers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tenterhook_store.aligning.aligned import AlignedRuns
    from tenterhook_store.columns import Also
    from tenterhook_store.dataset import RowDataset
    from tenterhook_store.document_map import DocumentMap
    from tenterhook_store.loader import Mixing, RowLoader
    from tenterhook_store.norm_bounds import NormBounds
    from tenterhook_store.rows import Rows
    from tenterhook_store.search import By, Hits

ReadRows = Callable[[str, int, int], "Tensor"]
"""Reads rows `start` to `stop` of a layer, or of `token`, `document` or `position`."""

TakeRows = Callable[[str, "Tensor", bool], "Tensor"]
"""Reads any rows of one, int64 `[n]`, in their order; and whether to check what is read."""


class Reopens(Protocol):
    """A store, as far as a run needs it: where other processes open the run again."""

    def run(self, run_id: str) -> "Run":
        """Open a run for reading."""


@final
class Run:
    """What a run held when it was opened: the rows that were committed by then.

    Rows have the numbers that the plan gives them. `len(run)` counts the first of them, up to the
    first unit that is missing, and those of units after it are read by their numbers: `ranges`
    says which. Open it again to see more. Stores make these; `store.run(id)` opens one.
    """

    def __init__(
        self,
        run_id: str,
        plan: RunPlan,
        committed: Iterable[int],
        *,
        read_layer: ReadRows,
        read_number: ReadRows,
        load_records: Callable[[], dict[str, Any]],
        load_attributes: Callable[[], dict[str, Any]],
        kept: KeptTensors,
        take_layer: TakeRows | None = None,
        take_number: TakeRows | None = None,
        store: "Reopens | None" = None,
        load_recent: Callable[[int], dict[str, Any]] | None = None,
        load_shared: Callable[[str], SharedTensors | None] | None = None,
        dropped: Iterable[int] = (),
    ) -> None:
        """Make a run that reads by these functions, which any thread may call.

        `read_layer` and `read_number` read rows that follow each other; `take_layer` and
        `take_number` read any rows. Without the latter, rows are picked from what is read around
        them. `kept` reads the small tensors of units. `load_recent` returns what `load_records`
        does, but of units those alone that were committed last, as many as it is told.
        `load_shared` returns what was shared under a name, if anything was. `dropped` are the
        units of a run with a limit whose rows are gone. `store` is where other processes open the
        run again; without it the run cannot be pickled.
        """
        self.id = run_id
        self.plan = plan
        self._dropped = frozenset(dropped)
        self._set_committed(committed)
        self._read_layer = read_layer
        self._read_number = read_number
        self._load_records = load_records
        self._load_recent = load_recent
        self._load_shared = load_shared
        self._take_layer = take_layer
        self._take_number = take_number
        self._store = store
        self._load_attributes = load_attributes
        self._kept = kept
        self._tokenizer: Any = None

    def _set_committed(self, committed: Iterable[int]) -> None:
        """Have these units be all that are committed."""
        self.committed = frozenset(committed)
        """Numbers of the units that are committed."""
        self.dropped = self._dropped & self.committed
        """Numbers of those of them whose rows were dropped; empty for a run without a limit."""
        self.ranges = held_now(self.id, self.plan, self.committed, self.dropped)
        """The rows that are there, as slices: `for part in run.ranges: run[layer][part]`."""
        self._documents: DocumentMap | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every unit of the plan is committed."""
        return len(self.committed) == self.plan.unit_count

    @property
    def missing(self) -> Sequence[int]:
        """Numbers of the units that are not committed, rising: a sequence of ints.

        It takes the memory of its stretches, however many units a plan has.
        """
        return UnitNumbers.missing(self.committed, self.plan.unit_count)

    @property
    def rows_committed(self) -> int:
        """How many rows can be read, wherever in the run they are."""
        return self.ranges.rows

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the model's order."""
        names = {layer.name for layer in self.plan.layers if layer.dtype == "int8"}
        scales = {name + SCALE for name in names}
        return tuple(each.name for each in self.plan.layers if each.name not in scales)

    def __len__(self) -> int:
        """How many rows there are before the first that is missing; all, of a complete run."""
        return self.ranges.first

    def __getitem__(self, layer: str | int) -> "Rows":
        """Return the rows of a layer, `[rows, features]`, by its name or another spelling of it.

        Nothing is read before the rows are indexed. Rows that are stored as int8 are read as
        float32. Raises `NotCaptured` (a `KeyError`) where there is none.
        """
        other: Any = self.plan.about.get("spellings", {})
        try:
            array = self.plan.layer(other.get(str(layer), layer))
        except KeyError:
            raise NotCaptured(layer, self.layers, self.id) from None
        scales = [each for each in self.plan.layers if each.name == array.name + SCALE]
        if array.dtype == "int8" and scales:
            from tenterhook_store.int8 import int8_rows

            return int8_rows(self._layer(array), self._layer(scales[0]), self.ranges)
        return self._layer(array)

    def _layer(self, array: LayerArray) -> "Rows":
        from tenterhook_store.rows import Rows
        from tenterhook_store.tensors import torch_dtype

        read, take = self._read_layer, self._take_layer
        return Rows(
            array.name,
            (len(self), array.features),
            torch_dtype(array.dtype),
            lambda start, stop: read(array.name, start, stop),
            take and (lambda rows, check: take(array.name, rows, check)),
            self.ranges,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __contains__(self, layer: object) -> bool:
        return layer in self.layers

    @property
    def tokens(self) -> "Rows":
        """The token id of every row, int32 `[rows]`."""
        return self._numbers("token")

    @property
    def spans(self) -> "Rows":
        """The characters of its document that every row's token is of, int32 `[rows, 2]`.

        `text[start:stop]` of a span is what the tokenizer says the token stands for: of a text the
        document itself, of a conversation the text that the chat template makes of it. The tokens
        of one character that is cut in bytes each have that character. A special token that the
        tokenizer adds has `(-1, -1)`.

        Raises `NoSpans` (a `LookupError`) where the run has none: one of an earlier version, of
        token ids, or of a tokenizer that does not tell.
        """
        from tenterhook_store.spans import span_rows

        return span_rows(self)

    @property
    def documents(self) -> "DocumentMap":
        """Where every row comes from."""
        if self._documents is None:
            from tenterhook_store.document_fields import DocumentFields, field_names
            from tenterhook_store.document_map import DocumentMap

            self._documents = DocumentMap(
                self._numbers("document"),
                self._numbers("position"),
                self.plan.documents,
                self.ranges,
                fields=field_names(self.plan),
                # Not the run itself, which would be in a cycle, and its files mapped until later.
                read_field=DocumentFields(self.id, self.plan, self.committed, self._kept).read,
                run_id=self.id,
            )
        return self._documents

    def unit_tensors(self, number: int) -> list[str]:
        """Return the names of the small tensors that are stored with a unit, sorted.

        Empty for a unit that was not committed when the run was opened; `IndexError` where the
        plan has no such unit.
        """
        self.plan.unit(number)
        return self._kept.names(number) if number in self.committed else []

    def unit_tensor(self, number: int, name: str) -> "Tensor":
        """Return a small tensor that is stored with a unit, bit for bit, the caller's own.

        It has the shape and dtype it was written with, and is on the CPU.
        Raises `NotKept` (a `LookupError`) where the unit has none of that name or is not
        committed, and `IndexError` where the plan has no such unit.
        """
        known = self.unit_tensors(number)
        if name not in known:
            raise NotKept(name, number, known, self.id)
        return self._kept.load(number, name)

    def shared(self, name: str) -> SharedTensors | None:
        """Return the tensors that were shared with all of the run under a name.

        `tokens` are the token ids of the documents, which whoever began the run has worked out for
        the others. `None` where there is nothing of that name, as in runs of earlier versions, and
        where the store shares nothing. Raises `DamagedStore` where it is not of this run.
        """
        return None if self._load_shared is None else self._load_shared(name)

    def reduced(
        self, layer: str | int, what: str, *, q: Sequence[float] = DEFAULT_QUANTILES, ddof: int = 0
    ) -> Any:
        """Return a statistic of a layer's rows that was computed as they were captured.

        It is merged over the units that are committed, and on the CPU:

        - `"mean"` and `"var"` are float64 `[features]`, `"cov"` is float64 `[features, features]`.
          `ddof` is taken off the count of rows that `"var"` and `"cov"` are divided by.
        - `"quantiles"` is `[len(q), features]`. Each is a value of the layer, whose rank is wrong
          by `quantile_error(layer)` of all rows at most.
        - `"topk"` is a `TopTokens`.

        Raises `NotReduced` (a `LookupError`) where the capture did not compute it, and
        `NotCaptured`.
        """
        return reduced(self, layer, what, q=q, ddof=ddof)

    def quantile_error(self, layer: str | int) -> float:
        """Return by how much of all rows the rank of a quantile can be wrong; 0 if exact."""
        return quantile_error(self, layer)

    def norm_bounds(self, layer: str | int) -> "NormBounds | None":
        """Return between which lengths (L2) a layer's rows lie, for each chunk of 256 rows.

        Of the units that are committed, and of the rows as they are read. `None` where the run has
        none, as those of earlier versions. Raises `NotCaptured`.
        """
        from tenterhook_store.norm_bounds import norm_bounds

        return norm_bounds(self, layer)

    def search(
        self,
        direction: Any,
        k: int = 100,
        *,
        layer: str | int | None = None,
        by: "By" = "dot",
        threads: int = 2,
    ) -> "Hits":
        """Find the `k` rows with the largest dot product with a direction, or cosine.

        `direction` is numbers `[features]`; `layer` may be left out where the run has one. The
        result is that of multiplying all rows that are there in float64, the highest first, of
        equal ones the first; rows whose product is NaN, and of cosines rows of zeros, are left out.
        With `by="dot"`, chunks whose `norm_bounds` say that no row is high enough are not read.

        `threads` read and multiply; each takes some 30 MB. Raises `BadSetting` (a `ValueError`) for
        a direction that does not fit, `NotCaptured`, `DamagedStore`.
        """
        from tenterhook_store.search import search

        return search(self, direction, k, layer=layer, by=by, threads=threads)

    def align(
        self, other: "Run", *, progress: Callable[[int, int], None] | None = None
    ) -> "AlignedRuns":
        """Pair the rows of this run with those of another that are of the same characters.

        Whatever the tokenizers, models and checkpoints, and in whichever stores; see
        `tenterhook_store.align`. Raises `CannotAlign` (a `ValueError`) and `NoSpans`.
        """
        from tenterhook_store.aligning.aligned import align

        return align(self, other, progress=progress)

    def as_of(self, units: Iterable[int]) -> "Run":
        """Return this run as it was when these units were committed, and no others.

        Raises `ReplacedRun` where one of them is not committed.
        """
        units = frozenset(units)
        if gone := sorted(units - self.committed):
            raise ReplacedRun(self.id, [f"unit {gone[0]} was there, and is missing"])
        found = copy.copy(self)
        found._set_committed(units)
        return found

    @property
    def store(self) -> "Reopens | None":
        """The store that it is in, where that is known."""
        return self._store

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that `Store.set_attribute` has set, as they are now."""
        return self._load_attributes()

    def decode(self, rows: Any, tokenizer: Any = None) -> str:
        """Return the text of the tokens of some rows, by any index that `tokens` takes.

        `tokenizer` is anything with `decode(ids)`. Without one, the model that the run names is
        loaded for its tokenizer. That takes the time and the memory of the model, once. Raises
        `NoTokenizer` where it cannot be loaded.
        """
        ids: list[int] = self.tokens[rows].flatten().tolist()
        if tokenizer is None:
            self._tokenizer = self._tokenizer or load_tokenizer(self.id, self.plan.about)
            tokenizer = self._tokenizer
        return str(tokenizer.decode(ids))

    def text(
        self, start: int | None = None, stop: int | None = None, *, tokenizer: Any = None
    ) -> str:
        """Return the text of rows `start` to `stop`; see `decode`."""
        return self.decode(slice(start, stop), tokenizer)

    def loader(
        self,
        layers: str | int | Sequence[str | int],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mixing: "Mixing" = "blocks",
        buffer_rows: int = 65_536,
        block_rows: int = 256,
        also: "Sequence[Also]" = (),
        rows: slice = slice(None),
        missing: Missing | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: "torch.device | str | None" = None,
        threads: int = 4,
        check: bool = True,
    ) -> "RowLoader":
        """Return batches of rows for training, streamed: a torch `IterableDataset`.

        Of one layer they are tensors `[batch, features]`. Of a list of layers, or with `also`
        (`tokens`, `spans`, `documents`, `positions`, `rows`), they are dicts of aligned tensors by
        the names given. `device` is where batches are copied to, on CUDA through pinned memory.

        Shuffling follows from `seed` and the epoch. With `mixing="blocks"` the run is cut into
        blocks of `block_rows` rows, which are taken in random order, `buffer_rows` rows at a time,
        and each such bufferful is shuffled. Of a block's rows, a batch has
        `block_rows * batch_size / buffer_rows` in the mean, and all are given within `buffer_rows`
        rows of each other (twice that where a block falls on the border of two). With
        `mixing="exact"` rows are read one by one, in a random order of all of them.

        `rows` is a part of the run, as a slice of row numbers. Of a run that lacks units, the rows
        before the first that is missing are given, with a `UserWarning` where there are others;
        `missing="skip"` gives all that are there, and `missing="stop"` spares the warning.

        All ranks and workers together give every row once. `rank` and `world_size` are those of
        `torch.distributed`, or of the variables that torchrun sets, unless given. `drop_last`
        leaves out batches that are not full, and those that only some ranks would have.

        `threads` read ahead. Memory is `buffer_rows` rows and `2 * threads` blocks; with
        `mixing="exact"`, or without shuffling, it is `threads` batches and, up to four million
        rows, 8 bytes a row. What is read is compared with its checksum; `check=False` spares that
        with `mixing="exact"`. Raises `NotCaptured`, `BadSetting`, and while reading `DamagedStore`.
        """
        from tenterhook_store.loader import RowLoader

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
            missing=missing,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            device=device,
            threads=threads,
            check=check,
        )

    def dataset(
        self,
        layers: str | int | Sequence[str | int],
        *,
        also: "Sequence[Also]" = (),
        rows: slice = slice(None),
        missing: Missing | None = None,
        check: bool = True,
    ) -> "RowDataset":
        """Return the rows as a map-style torch `Dataset`; what it takes is as for `loader`."""
        from tenterhook_store.dataset import RowDataset

        return RowDataset(self, layers, also=also, rows=rows, missing=missing, check=check)

    @property
    def metadata(self) -> dict[str, Any]:
        """What made it, in plain JSON values.

        `run`, `rows`, `rows_committed`, `complete`, `layers`, `spec` and what `plan.about` has;
        `start` and `end` (UTC, ISO 8601; `end` is `None` until it is complete), `sessions` (one
        for each process that wrote: versions, platform, device, code revision, times),
        `units` (times and counts of each committed unit) and `attributes`; of rows stored as int8
        also `int8`, by layer the fields of `Int8Error`; of rows cast to a narrower dtype
        `out_of_range`, by layer how many `values` there were and how many were `too_large` and
        `too_small` for it; of a run with a limit `dropped`, the first and last unit of each stretch
        whose rows are gone.
        """
        records = self._load_records()
        sessions = sorted(records["sessions"], key=lambda session: str(session.get("start")))
        off = {name: attrs.asdict(each) for name, each in int8_errors(records["units"]).items()}
        lost = out_of_range(records["units"])
        ends = [session["end"] for session in sessions if session.get("end")]
        return {
            "run": self.id,
            "rows": self.plan.rows,
            "rows_committed": self.rows_committed,
            "complete": self.is_complete,
            "layers": {
                layer.name: {"features": layer.features, "dtype": layer.dtype}
                for layer in self.plan.layers
            },
            **self.plan.about,
            "spec": dict(self.plan.spec),
            "start": sessions[0].get("start") if sessions else None,
            "end": max(ends) if ends and self.is_complete else None,
            "sessions": sessions,
            "units": records["units"],
            "attributes": self.attributes,
            **({"int8": off} if off else {}),
            **({OUT_OF_RANGE: lost} if lost else {}),
            **({"dropped": ranges(sorted(self.dropped))} if self.dropped else {}),
        }

    def recent(self, units: int = 1000) -> dict[str, Any]:
        """Return `sessions` and `units` of `metadata`, of the last units that were committed alone.

        A run of 100,000 units has as many records, and how it goes is known from the last of them.
        """
        if self._load_recent is None:
            found = self._load_records()
            last = found["units"][-units:] if units else []
            return {"sessions": found["sessions"], "units": last}
        return self._load_recent(units)

    def __repr__(self) -> str:
        state = (
            "complete" if self.is_complete else f"{self.rows_committed} of {self.plan.rows} rows"
        )
        return f"Run({self.id!r}, layers={list(self.layers)}, {state})"

    def _repr_html_(self) -> str:
        return run_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the store and the id: another process opens the run, and sees the same rows."""
        if self._store is None:
            raise TypeError(f"Run {self.id!r} cannot be pickled: its store does not say where.")
        return _reopen, (self._store, self.id, self.committed, self.plan)

    def _numbers(self, array: str) -> "Rows":
        from tenterhook_store.rows import Rows
        from tenterhook_store.tensors import torch_dtype

        read, take = self._read_number, self._take_number
        return Rows(
            array,
            (len(self),),
            torch_dtype(ROW_ARRAYS[array]),
            lambda start, stop: read(array, start, stop),
            take and (lambda rows, check: take(array, rows, check)),
            self.ranges,
        )


def _reopen(store: Reopens, run_id: str, committed: frozenset[int], plan: RunPlan) -> Run:
    run = store.run(run_id)
    if differences := plan.differences(run.plan):
        raise ReplacedRun(run_id, differences)
    run._set_committed(committed)  # and not what was committed since
    return run
