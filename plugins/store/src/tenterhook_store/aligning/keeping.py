"""Alignments in a store: tensors by name, which any store keeps.

alignments/NAME/facts          JSON as uint8: both runs, what was found, the sha256 of each piece;
                               written last, so that what has it is whole
alignments/NAME/pairs/000000   a piece of the pairs, int64 `[n, 2]`
"""

import hashlib
import json
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_store.aligning.alignable import Alignable, TensorStore
from tenterhook_store.aligning.pairs import PIECE, Pairs, digest, in_pieces
from tenterhook_store.errors import (
    BadName,
    DamagedStore,
    OtherAlignment,
    ReplacedRun,
    UnknownAlignment,
    UnknownTensor,
)
from tenterhook_store.names import MAX_BYTES, check_run_id
from tenterhook_store.plain_json import plain_json
from tenterhook_store.plan import RunPlan
from tenterhook_store.row_ranges import ranges
from tenterhook_store.structuring import strict_converter, structured

FOLDER = "alignments"

_ANOTHER = "give another by name= (--name)"
_AGAIN = "Align the runs again, with overwrite=True (--overwrite)."
VERSION = 1


@attrs.frozen(kw_only=True)
class AlignmentFacts:
    """What is known of an alignment beside its pairs."""

    pairs: int
    documents: int
    """Documents of which rows are paired."""
    different: tuple[int, ...]
    """Numbers of the first documents that are another text in each run, which have no pairs."""
    different_count: int
    """How many such documents there are."""


@attrs.frozen
class KeptRun:
    """A run that an alignment was made of."""

    run: str
    store: str | None
    """Where it is; `None` for the store that the alignment is in."""
    plan: str
    """The hash of its plan."""
    units: list[tuple[int, int]]
    """The units that were committed, `[first, last]` of each stretch."""


@attrs.frozen
class Kept:
    """An alignment, but for its pairs."""

    version: int
    runs: list[KeptRun]
    facts: AlignmentFacts
    pieces: list[str]
    """The sha256 of each piece."""


def save(
    store: TensorStore,
    name: str,
    runs: Sequence[Alignable],
    facts: AlignmentFacts,
    pairs: Pairs,
    *,
    overwrite: bool,
) -> None:
    """Keep an alignment under a name; one that is there and is the same stays.

    Raises `OtherAlignment` where another is there, and `DamagedStore` where what is there cannot be
    read, unless it may be overwritten, `BadName`, `NotWritable`.
    """
    _check_name(name)
    digests = [digest(piece) for piece in in_pieces(pairs)]
    kept = Kept(VERSION, [_kept(run, store) for run in runs], facts, digests)
    if name in list_alignments(store):
        is_same = _is_same(store, name, kept, overwrite=overwrite)
        if not is_same and not overwrite:
            raise OtherAlignment(name, store.location)
        if not is_same:  # else its facts would be of pairs that are gone
            store.delete_tensor(_facts_name(name))
    for number, piece in enumerate(in_pieces(pairs)):
        store.save_tensor(_piece_name(name, number), piece)
    content = json.dumps(strict_converter().unstructure(kept)).encode()
    store.save_tensor(_facts_name(name), torch.frombuffer(bytearray(content), dtype=torch.uint8))
    for number in _pieces_there(store, name):
        if number >= len(digests):  # of a longer one, which was there before or was never finished
            store.delete_tensor(_piece_name(name, number))


def kept_pairs(store: TensorStore, name: str, kept: Kept) -> Pairs:
    """Return the pairs of an alignment; reading them is `DamagedStore` where they are others."""

    def load(number: int) -> Tensor:
        where = f"{store.location}, alignment {name}"
        try:
            piece = store.load_tensor(_piece_name(name, number))
        except UnknownTensor as error:
            raise DamagedStore(where, f"piece {number} of its pairs is gone. {_AGAIN}") from error
        rows = min(PIECE, kept.facts.pairs - number * PIECE)
        is_whole = piece.dtype == torch.int64 and piece.shape == (rows, 2)
        if not is_whole or digest(piece) != kept.pieces[number]:
            raise DamagedStore(
                where, f"piece {number} of its pairs is not what was written. {_AGAIN}"
            )
        return piece

    return Pairs(kept.facts.pairs, load)


def list_alignments(store: TensorStore) -> list[str]:
    """Return the names of the alignments that a store keeps, sorted."""
    found = (each.split("/") for each in store.list_tensors())
    return sorted(
        each[1] for each in found if len(each) == 3 and each[0] == FOLDER and each[2] == "facts"
    )


def _check_name(name: str) -> None:
    """Raise `BadName` for what names no alignment: it is a part of the names of its tensors."""
    try:
        check_run_id(name)
    except BadName as error:
        raise BadName("alignment", name, f"{error.reason}; {_ANOTHER}") from error
    size, most = len(name.encode()), MAX_BYTES - len(_piece_name("", 0))
    if size > most:
        reason = f"it has {size} bytes, and {most} are the most; {_ANOTHER}"
        raise BadName("alignment", name, reason)


def _is_same(store: TensorStore, name: str, kept: "Kept", *, overwrite: bool) -> bool:
    try:
        return read(store, name) == kept
    except DamagedStore:
        if not overwrite:
            raise
        return False


def _pieces_there(store: TensorStore, name: str) -> list[int]:
    """Return the numbers of the pieces under a name, whoever wrote them."""
    begin = f"{FOLDER}/{name}/pairs/"
    found = (each.removeprefix(begin) for each in store.list_tensors() if each.startswith(begin))
    return [int(each) for each in found if each.isdecimal()]


def _kept(run: Alignable, into: TensorStore) -> KeptRun:
    theirs = run.store
    # Stores in memory are at no place: each is another.
    in_files = getattr(into, "persistent", True)
    is_here = theirs is into or (in_files and theirs and theirs.location == into.location)
    elsewhere = None if theirs is None or is_here else theirs.location
    return KeptRun(run.id, elsewhere, _signature(run.plan), _stretches(run))


def as_it_was(run: Alignable, was: KeptRun) -> Alignable:
    """Return a run with the units that it had; `ReplacedRun` where it is another one."""
    if _signature(run.plan) != was.plan:
        raise ReplacedRun(run.id, ["its plan is not the one that was aligned"])
    if any(last >= run.plan.unit_count for _, last in was.units):
        raise ReplacedRun(run.id, ["it has fewer units than were aligned"])
    units = {number for first, last in was.units for number in range(first, last + 1)}
    return run if units == run.committed else run.as_of(units)


def _stretches(run: Alignable) -> list[tuple[int, int]]:
    return [(first, last) for first, last in ranges(sorted(run.committed), None)]


def _rises(units: list[tuple[int, int]]) -> bool:
    ends = [end for each in units for end in each]
    return ends == sorted(ends)


def _signature(plan: RunPlan) -> str:
    """Return the hash of what the rows follow from: all of a plan but what is worth knowing."""
    content = attrs.evolve(plan, about={}).to_json()
    return hashlib.sha256(content.encode()).hexdigest()


def read(store: TensorStore, name: str) -> Kept:
    """Return an alignment, but for its pairs; `UnknownAlignment`, `DamagedStore`."""
    where = f"{store.location}, alignment {name}"
    if name not in (known := list_alignments(store)):
        raise UnknownAlignment(name, known, store.location)
    stored = store.load_tensor(_facts_name(name))
    if stored.dtype != torch.uint8:
        raise DamagedStore(where, f"its facts are {stored.dtype} and no JSON. {_AGAIN}")
    content = bytes(stored.flatten().tolist())
    try:
        found = structured(Kept, plain_json(content), forbid_extra=False)
    except (ValueError, RecursionError) as error:
        raise DamagedStore(where, f"its facts cannot be read ({error}). {_AGAIN}") from error
    counted = -(-found.facts.pairs // PIECE)
    is_sorted = all(_rises(each.units) for each in found.runs)
    if (
        not is_sorted
        or found.version != VERSION
        or len(found.runs) != 2
        or len(found.pieces) != counted
    ):
        raise DamagedStore(
            where, "its facts are not those of an alignment that is known here. " + _AGAIN
        )
    return found


def _facts_name(name: str) -> str:
    return f"{FOLDER}/{name}/facts"


def _piece_name(name: str, number: int) -> str:
    return f"{FOLDER}/{name}/pairs/{number:06}"
