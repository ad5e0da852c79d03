"""Batches of rows for training, streamed from a run in the memory of a buffer.

What happens in an epoch that is shuffled with `mixing="blocks"`:

1. `order.ShuffledBlocks` cuts the run into blocks of rows that follow each other, and shuffles the
   blocks. A rank and worker has one stretch of that order (`order.Cut`).
2. The first `buffer_rows` rows of the stretch fill the buffer: threads read a block each, and copy
   it to its places (`_Filling`).
3. The places are shuffled, and batches are copied out of them in that order.
4. The places that a batch leaves are filled with the next blocks, beside whoever trains. When the
   buffer is through, it holds the next group, and step 3 begins again.

With `mixing="exact"`, or without shuffling, there is no buffer: threads read whole batches ahead.

Every random choice follows from the seed, the epoch and a place in the order, and none from an
earlier draw. So any batch can be made again from its number alone: that is how a state is gone on
with (test_resumed_stream_is_the_same), and how workers agree without talking to each other.
"""

import operator
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar, cast, final, get_args

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tenterhook_store.columns import Also, Batch, Columns, OpensColumns, ReadTogether, Room
from tenterhook_store.errors import BadSetting, OtherLoader
from tenterhook_store.order import Bufferfuls, Cut, Permutation, ShuffledBlocks, generator, seed
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing

Mixing = Literal["blocks", "exact"]
T = TypeVar("T")

BUFFER_ROWS = 65_536
BLOCK_ROWS = 256
MAX_WORKERS = 256


@final
class RowLoader(IterableDataset[Any]):
    """Batches of rows of a run, or of two that are aligned; `run.loader` makes one.

    Iterating gives the batches of one epoch. A batch is a tensor `[batch, features]` where one
    layer was asked for and nothing beside it, otherwise a dict of aligned tensors by name. Tensors
    are on the CPU unless a device was given, in the dtype that was stored (int8 rows with a scale
    are float32), and in memory of their own.

    Each time it is iterated is another epoch, in another order, which follows from the seed and
    the epoch's number; see `set_epoch`. It can be iterated itself, or by
    `DataLoader(loader, batch_size=None, num_workers=n)`, whose workers share the rows between
    them.
    """

    def __init__(
        self,
        run: Readable | OpensColumns,
        layers: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mixing: Mixing = "blocks",
        buffer_rows: int = BUFFER_ROWS,
        block_rows: int = BLOCK_ROWS,
        also: Sequence[Also] = (),
        rows: slice = slice(None),
        missing: Missing | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: torch.device | str | None = None,
        threads: int = 4,
        check: bool = True,
    ) -> None:
        """See `Run.loader`.

        Raises `BadSetting` for a setting that makes no sense, `NotCaptured` for a layer that the
        run has not, and `MissingRows` where `rows` names some that are not there.
        """
        batch_size = _count("batch_size", batch_size, 1)
        if mixing not in get_args(Mixing):
            raise BadSetting("mixing", mixing, " or ".join(map(repr, get_args(Mixing))))
        self.run = run
        self._part = run.ranges.part(rows, missing)
        self.rank, self.world_size = _rank(rank, world_size)
        self.device = None if device is None else torch.device(device)
        self._layers = layers
        self._also = tuple(also)
        self._cut = Cut(
            rows=self._part.rows,
            batch_size=batch_size,
            drop_last=drop_last,
            world_size=self.world_size,
        )
        if drop_last and self._part.rows and not self._cut.batches:
            whole = self._part.rows // batch_size
            why = f"{self._part.rows} rows are {whole} full batches of {batch_size}"
            ranks = f", fewer than the {self.world_size} ranks" if self.world_size > 1 else ""
            hint = f"False, or batch_size smaller: {why}{ranks}, so an epoch would have none"
            raise BadSetting("drop_last", drop_last, hint)
        self._shuffle = shuffle
        self._seed = _count("seed", seed, None)
        self._mixing = mixing
        self._buffer_rows = _count("buffer_rows", buffer_rows, 1)
        self._block_rows = _count("block_rows", block_rows, 1)
        self._threads = _count("threads", threads, 1)
        self._check = check
        self._open_columns()  # raises now where layers or what else is asked for are a mistake
        # One count for each number of workers and each worker among them, so that workers that
        # are made anew for each epoch know which one it is.
        self._next_epoch = torch.zeros(_slot(0, MAX_WORKERS + 1), dtype=torch.int64)
        self._next_epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._epoch = 0
        self._given: int | None = None
        """Batches of the epoch that were given; `None` where none was begun."""
        self._resume: tuple[int, int, int] | None = None
        """Epoch, batches and workers to go on from, once."""

    def __len__(self) -> int:
        """How many batches an epoch gives on this rank."""
        return self._cut.of_rank(self.rank)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is; those after it follow. It may be going on.

        A state that was loaded is forgotten.
        """
        self._next_epoch.fill_(_count("epoch", epoch, 0))
        self._given = self._resume = None

    def __iter__(self) -> Iterator[Batch]:
        # What a DataLoader asks with tells whether it would make batches of our batches.
        asking = sys._getframe(1)
        if asking.f_code.co_name == "__init__" and asking.f_locals.get("auto_collation") is True:
            hint = "None, as in DataLoader(loader, batch_size=None): its items are batches already"
            raise BadSetting("DataLoader.batch_size", "1 or more", hint)
        worker, workers = _worker()
        if workers > MAX_WORKERS:
            raise BadSetting("num_workers", workers, f"{MAX_WORKERS} at most")
        if self.device is not None and self.device.type != "cpu" and workers:
            remedy = "left out where DataLoader has workers; they cannot share it"
            raise BadSetting("device", str(self.device), f"{remedy}. Use its pin_memory=True")
        epoch, given = self._begin(worker, workers)
        return self._give(epoch, given, worker, workers)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration is: a few plain values, to go on from in another process.

        It is the iteration of this process. Each worker of a `DataLoader` has its own;
        torchdata's `StatefulDataLoader` collects them, and torch's own does not.
        """
        worker, workers = _worker()
        epoch, given = self._epoch, self._given
        if given is None:
            epoch = int(self._next_epoch[_slot(worker, workers)])
        if self._goes_on(_slot(worker, workers)):
            epoch, given, workers = cast(tuple[int, int, int], self._resume)
        settings = self._settings()
        return {"epoch": epoch, "batches": given or 0, "workers": max(workers, 1), **settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on from a state: it gives the batches left, bit for bit.

        Raises `OtherLoader` where the state is of a loader that gives other batches, and
        `BadSetting` where it is no state.
        """
        mine = self._settings()
        if differences := [
            f"{key} is {state.get(key)!r} there and {mine[key]!r} here"
            for key in mine
            if state.get(key) != mine[key]
        ]:
            raise OtherLoader(differences)
        epoch, given, workers = (
            _count(f"state[{name!r}]", state.get(name), least)
            for name, least in (("epoch", 0), ("batches", 0), ("workers", 1))
        )
        self._resume = epoch, given, workers
        # Workers made anew for each epoch find this in their copies: what they began, they count.
        worker, of = _worker()
        slots = slice(None) if not of else _slot(worker, of)
        self._next_epoch[slots] = epoch

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._next_epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        order = f"mixing={self._mixing!r}" if self._shuffle else "in order"
        return f"RowLoader({self.run.id!r}, {self._layers!r}, {len(self)} batches, {order})"

    def _open_columns(self) -> ReadTogether:
        if isinstance(self.run, OpensColumns):
            return self.run.open_columns(self._layers, self._also, self._part)
        return Columns(self.run, self._layers, self._also, self._part)

    # --- what the batches follow from

    def _settings(self) -> dict[str, Any]:
        shuffling: dict[str, Any] = {}
        if self._shuffle:
            shuffling = {"seed": self._seed, "mixing": self._mixing}
        if self._is_mixed:
            shuffling |= {"buffer_rows": self._buffer_rows, "block_rows": self._block_rows}
            shuffling["bufferfuls"] = "equal"  # earlier versions had a last one that was smaller
        return {
            "run": self.run.id,
            "rows": self._rows_of_part(),
            "batch_size": self._cut.batch_size,
            "drop_last": self._cut.drop_last,
            "world_size": self.world_size,
            "shuffle": self._shuffle,
            **shuffling,
        }

    def _rows_of_part(self) -> list[Any]:
        """Return from where to where the rows are, and where some are left out, which."""
        pairs = self._part.pairs() or [[0, 0]]
        left_out = [f"{self._part.rows} rows, {seed(pairs):x}"] if len(pairs) > 1 else []
        return [pairs[0][0], pairs[-1][1], *left_out]

    @property
    def _is_mixed(self) -> bool:
        return self._shuffle and self._mixing == "blocks"

    def _begin(self, worker: int, workers: int) -> tuple[int, int]:
        """Count the epoch that begins; return its number and how much of it was given before."""
        slot = _slot(worker, workers)
        epoch, given = int(self._next_epoch[slot]), 0
        if self._goes_on(slot):
            epoch, given, then = cast(tuple[int, int, int], self._resume)
            if then != max(workers, 1):
                raise OtherLoader([f"workers is {then} there and {max(workers, 1)} here"])
        self._resume = None
        self._next_epoch[slot] = epoch + 1
        self._epoch, self._given = epoch, given
        return epoch, given

    def _goes_on(self, slot: int) -> bool:
        """Whether the next iteration goes on from a state that was loaded."""
        return self._resume is not None and int(self._next_epoch[slot]) == self._resume[0]

    def _give(self, epoch: int, given: int, worker: int, workers: int) -> Iterator[Batch]:
        columns = self._open_columns()
        batches = self._batches(columns, epoch, given, worker, max(workers, 1))
        try:
            for tensors in batches:
                given += 1
                self._epoch, self._given = epoch, given
                if self.device is not None:
                    tensors = [each.to(self.device, non_blocking=True) for each in tensors]
                yield columns.batch(tensors)
        finally:
            batches.close()
        if self._epoch == epoch:
            self._given = None

    # --- reading

    def _batches(
        self, columns: ReadTogether, epoch: int, given: int, worker: int, workers: int
    ) -> Generator[list[Tensor], None, None]:
        key = (self._seed, epoch)
        count = self._cut.of_worker(self.rank, worker, workers)
        if self._is_mixed:
            place = self._cut.in_one_piece(self.rank, worker, workers)
            yield from self._mixed(columns, *place, given * self._cut.batch_size, *key)
            return
        order = Permutation(self._cut.rows, *key) if self._shuffle else None
        read = (
            self._reading(columns, order, *self._cut.in_turn(number, self.rank, worker, workers))
            for number in range(given, count)
        )
        with ThreadPoolExecutor(self._threads, "tenterhook-read") as pool:
            for tensors in _ahead(pool, read, self._threads):
                yield [self._pinned(each) for each in tensors]

    def _reading(
        self, columns: ReadTogether, order: Permutation | None, start: int, stop: int
    ) -> Callable[[], list[Tensor]]:
        """Return what reads a batch: rows that follow each other, or rows of an order."""
        if order is None:
            return lambda: columns.slice(start, stop)
        return lambda: columns.take(order.stretch(start, stop), check=self._check)

    def _mixed(
        self, columns: ReadTogether, start: int, stop: int, given: int, *key: int
    ) -> Iterator[list[Tensor]]:
        """Yield the rows from one place of the shuffled blocks to another, in shuffled groups.

        A group is a bufferful, and all are as large as each other (`Bufferfuls`). `given` rows were
        yielded before the state that is gone on from. Their groups are skipped unread; of a group
        that was begun, the places that were given are filled with the next group's rows, as they
        had been.
        """
        batch = self._cut.batch_size
        if start + given >= stop:
            return
        groups = Bufferfuls(stop - start, batch, self._buffer_rows)
        number = groups.of(given)
        at = start + groups.begin(number)
        given = start + given - at
        blocks = ShuffledBlocks(self._cut.rows, self._block_rows, *key)
        pool = ThreadPoolExecutor(self._threads, "tenterhook-read")
        try:
            end = start + groups.begin(number + 1)
            room = columns.room(end - at)
            filling = _Filling(pool, columns, room, blocks.stretch(at, end), torch.arange(end - at))
            places = torch.arange(end - at)
            filling.finish()
            while at < stop:
                # Keyed by the place: the group can be shuffled again without those before it.
                order = places[torch.randperm(len(places), generator=generator(*key, at))]
                at += len(places)
                number += 1
                end = start + groups.begin(number + 1)
                places = order[: end - at]  # of the next group
                filling = _Filling(pool, columns, room, blocks.stretch(at, end), places)
                filling.begin(given)
                for first in range(given, len(order), batch):
                    tensors = room.take(order[first : first + batch], pinned=self._pins)
                    filling.begin(first + batch)
                    yield tensors
                    filling.check()
                filling.finish()
                given = 0
        finally:
            # What nobody will take need not be read.
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _pins(self) -> bool:
        return self.device is not None and self.device.type == "cuda" and torch.cuda.is_available()

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._pins else tensor


class _Filling:
    """Fills the buffer with the next group: each block by a thread, once its places are free."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        columns: ReadTogether,
        room: Room,
        blocks: Iterable[tuple[int, int]],
        places: Tensor,
    ) -> None:
        """`places` are where the rows go, int64 `[rows]`, of all blocks together."""
        self._pool = pool
        self._columns = columns
        self._room = room
        self._blocks = deque(blocks)
        self._places = places
        self._begun = 0
        self._running: deque[Future[None]] = deque()

    def begin(self, free: int) -> None:
        """Begin with what goes to the first `free` places."""
        while self._blocks and self._begun + _length(self._blocks[0]) <= free:
            start, stop = self._blocks.popleft()
            places = self._places[self._begun : self._begun + stop - start]
            self._running.append(self._pool.submit(self._fill, start, stop, places))
            self._begun += stop - start

    def check(self) -> None:
        """Raise what reading has raised."""
        while self._running and self._running[0].done():
            self._running.popleft().result()

    def finish(self) -> None:
        """Fill what is left, and wait for all of it."""
        self.begin(len(self._places))
        while self._running:
            self._running.popleft().result()

    def _fill(self, start: int, stop: int, places: Tensor) -> None:
        # Here and not where it is waited for: what was just read is in the processor's cache.
        self._room.write(places, self._columns.slice(start, stop))


def _length(block: tuple[int, int]) -> int:
    return block[1] - block[0]


def _ahead(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], T]], depth: int) -> Iterator[T]:
    """Return what the calls return, in their order, with up to `depth` more under way."""
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _worker() -> tuple[int, int]:
    """Return which worker of a `DataLoader` this is, of how many; `0, 0` outside of one."""
    info = get_worker_info()
    return (0, 0) if info is None else (info.id, info.num_workers)


def _slot(worker: int, workers: int) -> int:
    """Return a place of its own for each worker of each number of workers; 0 for none."""
    return workers * (workers - 1) // 2 + 1 + worker if workers else 0


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return this process's rank and how many there are, as torchrun and others tell."""
    if (rank is None) != (world_size is None):
        raise BadSetting("rank", rank, f"given with world_size, which is {world_size!r}, or not")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        try:
            rank = int(os.environ.get("RANK", 0))
            world_size = int(os.environ.get("WORLD_SIZE", 1))
        except ValueError:
            raise _bad_variables("whole numbers") from None
        if world_size > 1 and "RANK" not in os.environ:  # else every process would be the first
            raise _bad_variables("both set")
    rank, world_size = _count("rank", rank, 0), _count("world_size", world_size, 1)
    if rank >= world_size:
        raise BadSetting("rank", rank, f"below world_size, which is {world_size}")
    return rank, world_size


def _bad_variables(expected: str) -> BadSetting:
    found = (os.environ.get("RANK"), os.environ.get("WORLD_SIZE"))
    return BadSetting("(RANK, WORLD_SIZE)", found, f"{expected}, or rank= and world_size= given")


def _count(name: str, number: Any, least: int | None) -> int:
    """Return a whole number as an int, whatever kind it was: a random order follows from it."""
    try:
        found = None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = None
    if found is None or (least is not None and found < least):
        more = "" if least is None else f", {least} or more"
        raise BadSetting(name, number, f"a whole number{more}")
    return found
