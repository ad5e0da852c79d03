"""Token ids that one process worked out, shared with the run, so that no other tokenizes again.

Who begins a run keeps its tokens in it, where the store can: every token id, where each document
begins, which windows have rows, and which characters a token is of. Other processes read what their
units need, a piece at a time, and need neither the texts nor the tokenizer.

The plan has the fingerprint of it all (`about`, under `TOKENS`), which is a hash of the facts, and
the facts have the hash of each piece. So no piece is used that is not of this run. Characters are
not in the fingerprint, for no row follows from them; the store's own checksums are.
"""

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, final, overload

import attrs
import torch
from torch import Tensor

from tenterhook_capture.spilled import NumberColumn
from tenterhook_capture.text_model import TextModel
from tenterhook_capture.token_rows import (
    PARTS,
    ChosenRows,
    ChosenWindows,
    TokenCounts,
    TokenRows,
)
from tenterhook_store import TEXTS, DamagedStore, Run, RunWriter, SharedTensors, SharesTensors
from tenterhook_store.structuring import strict_converter, structured

TOKENS = "tokens_fingerprint"
"""Where the plan's `about` has the fingerprint."""

SHARED = "tokens"
"""The name that they are shared under."""

PIECE = 1 << 18
"""Tokens of a piece, and windows: 3 MB, or 15 MB where each document is one token."""

LOADED = 6
"""How many pieces are in memory."""

KINDS: Mapping[str, tuple[int, Literal["i", "q"]]] = {
    "ids": (1, "i"),
    "windows": (PARTS, "q"),
    "places": (PARTS, "q"),
    "without": (1, "q"),
    "roles": (1, "i"),
    "characters": (2, "i"),
}
"""How many numbers of each column go together, and of which kind they are."""

NEEDED = {"ids", "windows", "places", "without"}

NO_ROWS_FOLLOW = "characters"

_DTYPES = {"i": torch.int32, "q": torch.int64}


@attrs.frozen(kw_only=True)
class TokenFacts:
    """What is shared beside the numbers themselves."""

    version: int
    counts: TokenCounts
    rows: int
    longest: int
    shortest: int
    keeps_ends: bool
    lengths: dict[str, int] = attrs.field()
    """How many numbers each column has."""
    piece: int = attrs.field(validator=attrs.validators.ge(1))
    """How many tokens, or windows, a piece has."""
    sha256: tuple[str, ...]
    """Of each piece, but for the characters."""

    @lengths.validator
    def _check_lengths(self, attribute: object, lengths: Mapping[str, int]) -> None:
        if not NEEDED <= lengths.keys() <= KINDS.keys() or min(lengths.values()) < 0:
            raise ValueError(f"lengths={lengths} are not those of columns that are known")

    @classmethod
    def of(cls, rows: ChosenRows) -> "TokenFacts":
        """Look at the tokens of a capture, once, a piece at a time."""
        columns = _columns(rows)
        return cls(
            version=1,
            counts=rows.tokens.counts,
            rows=len(rows),
            longest=rows.longest,
            shortest=rows.shortest,
            keeps_ends=rows.tokens.keeps_ends,
            lengths={name: len(column) for name, column in columns.items()},
            piece=PIECE,
            sha256=tuple(_hash(piece) for piece in _pieces(columns)),
        )

    @property
    def bytes(self) -> int:
        """How much of the store the numbers take."""
        return sum(array(KINDS[name][1]).itemsize * count for name, count in self.lengths.items())

    @property
    def fingerprint(self) -> str:
        """The sha256 of them, and so of all numbers that rows follow from."""
        found = self.values()
        found["lengths"].pop(NO_ROWS_FOLLOW, None)
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()

    def values(self) -> dict[str, Any]:
        """Return them as plain JSON values."""
        found: dict[str, Any] = strict_converter().unstructure(self)
        return found


def share_tokens(writer: RunWriter, rows: ChosenRows, facts: TokenFacts) -> None:
    """Keep the tokens with a run of which they are, if its store can and has them not yet."""
    if isinstance(writer, SharesTensors) and writer.plan.about.get(TOKENS) == facts.fingerprint:
        writer.share(SHARED, map(_as_tensors, _pieces(_columns(rows))), facts.values())


def share_hashes(writer: RunWriter, hashes: NumberColumn) -> None:
    """Keep the hash of each document's text with a run, if its store can and has them not yet.

    Nothing of the run follows from them. They tell which documents another run has too.
    """
    if isinstance(writer, SharesTensors):
        parts = (hashes[at : at + PIECE] for at in range(0, len(hashes), PIECE))
        pieces = ({TEXTS: torch.frombuffer(part, dtype=torch.int64)} for part in parts)
        writer.share(TEXTS, pieces, {"documents": len(hashes), "piece": PIECE})


def shared_rows(run: Run, model: TextModel) -> tuple[ChosenRows, TokenFacts] | None:
    """Return the rows of a run by the tokens that were shared, and their facts.

    `None` where none were, as in runs of earlier versions and in stores that share nothing.

    Nothing but facts is read before tokens are asked for. Raises `DamagedStore`, then too, for what
    is not what the run was begun with.
    """
    expected = run.plan.about.get(TOKENS)
    shared = None if expected is None else run.shared(SHARED)
    if shared is None:
        return None
    where = f"the shared tokens of run {run.id}"
    try:
        facts = structured(TokenFacts, dict(shared.facts))
    except ValueError as error:
        raise DamagedStore(where, f"they cannot be read ({error})") from error
    if facts.fingerprint != expected or len(shared) != len(facts.sha256):
        raise DamagedStore(where, "they are not those that the run was begun with")
    pieces = _LoadedPieces(shared, facts, where)
    columns = {name: SharedNumbers(pieces, name) for name in facts.lengths}
    tokens = TokenRows(
        facts.counts,
        columns["ids"],
        columns["windows"],
        columns["without"],
        columns.get("roles"),
        columns.get("characters"),
        getattr(model, "tokens_beside", None),
        keeps_ends=facts.keeps_ends,
    )
    windows = ChosenWindows(
        places=columns["places"], rows=facts.rows, longest=facts.longest, shortest=facts.shortest
    )
    return ChosenRows(tokens, run.plan.spec.get("tokens"), windows), facts


def token_difference(ours: ChosenRows, theirs: ChosenRows) -> str:
    """Return which token is another one in two that are not the same, in words."""
    one, other = ours.tokens, theirs.tokens
    for first in range(0, min(len(one), len(other)), PIECE):
        pairs = zip(
            one.all_ids[first : first + PIECE], other.all_ids[first : first + PIECE], strict=False
        )
        for token, (here, there) in enumerate(pairs, first):
            if here != there:
                return f"{one.where(token)} is {there} there and {here} here"
    return "tokens not the same"


@final
class SharedNumbers(Sequence[int]):
    """One column of what is shared, read anywhere, by any thread."""

    def __init__(self, pieces: "_LoadedPieces", name: str) -> None:
        self._pieces = pieces
        self._name = name
        self._count = pieces.facts.lengths[name]
        width, self._kind = KINDS[name]
        self._stride = pieces.facts.piece * width

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> "array[int]": ...
    def __getitem__(self, key: int | slice) -> "int | array[int]":
        """Return one number, or an array of a slice of them."""
        places = range(self._count)[key]
        if isinstance(places, int):
            return self._piece(places // self._stride)[places % self._stride]
        if places.step != 1:
            return array(self._kind, map(self.__getitem__, places))
        found, at = array(self._kind), places.start
        while at < places.stop:
            piece, first = divmod(at, self._stride)
            found += self._piece(piece)[first : first + places.stop - at]
            at = (piece + 1) * self._stride
        return found

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._count, self._stride):
            yield from self[start : start + self._stride]

    def _piece(self, piece: int) -> "array[int]":
        return self._pieces.load(piece)[self._name]


class _LoadedPieces:
    """The pieces that were used last, each compared with its hash when it is loaded."""

    def __init__(self, shared: SharedTensors, facts: TokenFacts, where: str) -> None:
        self.facts = facts
        self._shared = shared
        self._where = where
        self._loaded: OrderedDict[int, dict[str, array[int]]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, number: int) -> "dict[str, array[int]]":
        """Return the columns of a piece; `DamagedStore` where they are not those of the facts."""
        with self._lock:
            found = self._loaded.get(number)
            if found is None:
                found = self._checked(number, self._shared.load(number))
                self._loaded[number] = found
                if len(self._loaded) > LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(number)
            return found

    def _checked(self, number: int, tensors: Mapping[str, Tensor]) -> "dict[str, array[int]]":
        found = {}
        for name, count in self.facts.lengths.items():
            width, kind = KINDS[name]
            stride = self.facts.piece * width
            expected = min(max(count - number * stride, 0), stride)
            tensor = tensors.get(name, torch.empty(0, dtype=_DTYPES[kind]))
            if tensor.dtype != _DTYPES[kind] or tensor.shape != (expected,):
                raise self._foreign(number)
            found[name] = array(kind)
            found[name].frombytes(tensor.numpy().tobytes())
        if _hash(found) != self.facts.sha256[number]:
            raise self._foreign(number)
        return found

    def _foreign(self, number: int) -> DamagedStore:
        reason = f"piece {number} is not what the run was begun with"
        return DamagedStore(self._where, reason)


def _columns(rows: ChosenRows) -> dict[str, NumberColumn]:
    tokens = rows.tokens
    found = {
        "ids": tokens.all_ids,
        "windows": tokens.windows,
        "places": rows.windows.places,
        "without": tokens.without,
        "roles": tokens.with_role,
        "characters": tokens.characters,
    }
    return {name: column for name, column in found.items() if column is not None}


def _pieces(columns: Mapping[str, NumberColumn]) -> "Iterator[dict[str, array[int]]]":
    """Yield the pieces; one that is at the end of the shorter columns lacks them."""
    count = max(-(-len(column) // (KINDS[name][0] * PIECE)) for name, column in columns.items())
    for number in range(count):
        piece = {}
        for name, column in columns.items():
            stride = KINDS[name][0] * PIECE
            if numbers := column[number * stride : (number + 1) * stride]:
                piece[name] = numbers
        yield piece


def _as_tensors(piece: "Mapping[str, array[int]]") -> dict[str, Tensor]:
    return {
        name: torch.frombuffer(numbers, dtype=_DTYPES[KINDS[name][1]])
        for name, numbers in piece.items()
    }


def _hash(piece: "Mapping[str, array[int]]") -> str:
    digest = hashlib.sha256()
    for name in KINDS:
        if name != NO_ROWS_FOLLOW and (numbers := piece.get(name)):
            digest.update(f"{name} {len(numbers)} ".encode())
            digest.update(numbers)
    return digest.hexdigest()
