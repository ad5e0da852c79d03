"""What is known to make two runs differ, looked for in a sample of the rows that do.

Each kind is a change that turns the rows of one run into those of the other: another layer's rows,
another document's, those of the token before, or the same rows normalised. A kind is named where
the changed rows are as close as rounding explains, or, of a norm, where they fit as well.
"""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_store.comparing.pairing import Pair
from tenterhook_store.readable import Readable
from tenterhook_store.rounding import are_close, narrower, relative_errors
from tenterhook_store.rows import Rows
from tenterhook_store.tensors import torch_dtype

DOCUMENTS = 64
"""Documents of a sample."""

ROWS = 64
"""Rows of each of them, the first."""

FEW = 8
"""Documents that a sentence names."""

MOST = 0.9
"""The part of the sample that a change has to explain."""

NORM_FIT = 2e-3
"""What a normalisation may leave of the variance of the rows that it explains."""


@attrs.frozen
class RunDifference:
    """One thing that was recognised."""

    kind: str
    """`layers`, `documents`, `first token`, `norm`, `dtype`, `padding side`, `shift`, `tokens`."""
    text: str
    """It in words."""

    def __str__(self) -> str:
        return self.text


@attrs.frozen(eq=False)
class Sampled:
    """The first rows of a document that differs, numbers in both runs, int64 `[rows]`."""

    number: int
    rows_a: Tensor
    rows_b: Tensor

    @classmethod
    def of(cls, pair: Pair) -> "Sampled":
        """Return those of a pair."""
        return cls(pair.number, pair.rows_a[:ROWS].clone(), pair.rows_b[:ROWS].clone())


class Sample:
    """Rows of two runs of some documents, read by layer when they are asked for."""

    def __init__(self, a: Readable, b: Readable, documents: Sequence[Sampled]) -> None:
        self.a, self.b, self.documents = a, b, documents
        self._lengths = [len(each.rows_a) for each in documents]
        self._few: dict[str, Tensor] = {}

    def dtype(self, layer_a: str, layer_b: str) -> str:
        """Return the narrower dtype of a layer of each."""
        return narrower(stored_dtype(self.a, layer_a), stored_dtype(self.b, layer_b))

    def of_a(self, layer: str) -> list[Tensor]:
        """Return the rows of each document in the first run, `[rows, features]` each."""
        return self._read(self.a[layer], [each.rows_a for each in self.documents])

    def of_b(self, layer: str) -> list[Tensor]:
        """Return their partners in the second."""
        return self._read(self.b[layer], [each.rows_b for each in self.documents])

    def few_of_b(self, layer: str) -> Tensor:
        """Return the second run's rows of the first documents; read once, for all layers."""
        if layer not in self._few:
            self._few[layer] = self.b[layer].take(_few([each.rows_b for each in self.documents]))
        return self._few[layer]

    def few_of_a(self, layer: str) -> Tensor:
        """Return the first run's rows of the first documents."""
        return self.a[layer].take(_few([each.rows_a for each in self.documents]))

    def _read(self, rows: Rows, numbers: list[Tensor]) -> list[Tensor]:
        return list(torch.split(rows.take(torch.cat(numbers)), self._lengths))


def _few(numbers: list[Tensor]) -> Tensor:
    return torch.cat([each[:16] for each in numbers[:8]])


def stored_dtype(run: Readable, layer: str) -> str:
    """Return the dtype that a layer is stored in: `int8` where it is read as floats."""
    return run.plan.layer(layer).dtype


def another_layer(sample: Sample, layer: str, layers: Sequence[str]) -> str | None:
    """Return the other layer of the second run whose rows are those of this one of the first."""
    rows = sample.few_of_a(layer)
    found: list[tuple[float, str]] = []
    # Rows of layers that follow each other may be near, so the nearest is meant, and no near one.
    least = torch.inf if layer not in layers else _error(rows, sample.few_of_b(layer)) / 4
    for other in layers:
        if other == layer or sample.b[other].shape[1:] != rows.shape[1:]:
            continue
        theirs = sample.few_of_b(other)
        error = _error(rows, theirs)
        if error <= least and _mostly(are_close(rows, theirs, sample.dtype(layer, other))):
            found.append((error, other))
    return min(found)[1] if found else None


def _error(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or not len(one):
        return torch.inf
    return float(relative_errors(one, other).median())


def layers_text(found: Sequence[tuple[str, str]], orders: Sequence[Sequence[str]]) -> str:
    """Say which layer of the first run is which of the second; one of the orders is the model's."""
    steps = [
        {order.index(b) - order.index(a) for a, b in found}
        for order in orders
        if {name for each in found for name in each} <= {*order}
    ]
    is_next = any(each in ({1}, {-1}) for each in steps)
    off = "layers are off by one" if is_next else "layers are others"
    named = ", ".join(f"{a} of A is {b} of B" for a, b in found[:FEW])
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    return f"{off}: {named}{more}"


def exchanged_documents(sample: Sample, layer: str) -> list[tuple[int, int]]:
    """Return documents of the first run, each with that of the second which has its rows."""
    of_a, of_b = sample.of_a(layer), sample.of_b(layer)
    dtype, found = sample.dtype(layer, layer), []
    for at, rows in enumerate(of_a):
        for other, theirs in enumerate(of_b):
            # Two may begin with the same tokens, so the last row that both have tells them apart.
            count = min(len(rows), len(theirs))
            if other == at or not _close(rows[count - 1 : count], theirs[count - 1 : count], dtype):
                continue
            if _close(rows[:count], theirs[:count], dtype):
                found.append((sample.documents[at].number, sample.documents[other].number))
                break
    return found


def shifts(sample: Sample, layer: str) -> dict[int, int]:
    """Return, for documents whose rows moved, by how many tokens: 1 is one later in the second.

    By the document's number; those of a row alone, and those that did not move, are left out.
    """
    dtype, found = sample.dtype(layer, layer), {}
    of_a, of_b = sample.of_a(layer), sample.of_b(layer)
    for document, rows, theirs in zip(sample.documents, of_a, of_b, strict=True):
        count = len(rows)
        # The nearest first. A row that many tokens share, as the first of them all, proves nothing.
        for by in sorted((by for by in range(1 - count, count) if by), key=abs):
            if count - abs(by) < min(2, count - 1):
                continue
            here, there = rows[max(-by, 0) : count - max(by, 0)], theirs[max(by, 0) :]
            if _close(here, there[: len(here)], dtype):
                found[document.number] = by
                break
    return found


def norm_of(sample: Sample, layer: str, other: str | None = None) -> str | None:
    """Say which run's rows are the other's, normalised; `None` where neither's are.

    RMS and layer norm, up to a scale and a shift for each feature. `other` is the layer of the
    second run, where it goes by another name there.
    """
    both = sample.of_a(layer), sample.of_b(layer if other is None else other)
    a, b = (torch.cat(each).to(torch.float64) for each in both)
    if a.shape != b.shape:
        return None
    if len(a) < 8 or a.shape[1] < 2 or not (a.isfinite().all() and b.isfinite().all()):
        return None
    for plain, normed, text in (
        (a, b, "rows of B are those of A after a norm"),
        (b, a, "rows of B are those of A before a norm"),
    ):
        left = _left(plain, normed)
        for name, center in (("RMS norm", False), ("layer norm", True)):
            rows = plain - plain.mean(dim=1, keepdim=True) if center else plain
            size = rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
            fit = _left(rows / size, normed)
            if fit < NORM_FIT and fit < left / 10:
                return f"{text} ({name})"
    return None


def rounded_dtype(sample: Sample, layer: str) -> str | None:
    """Say that one run's rows were rounded to a narrower dtype than they are stored in.

    `None` unless those of one alone were, and rounding to it explains the difference.
    """
    a, b = torch.cat(sample.of_a(layer)), torch.cat(sample.of_b(layer))
    for name in ("bfloat16", "float16"):
        kind = torch_dtype(name)
        if not (a.is_floating_point() and b.is_floating_point() and a.dtype.itemsize > 2):
            return None
        fits = [bool((rows.to(kind).to(rows.dtype) == rows).all()) for rows in (a, b)]
        if fits[0] != fits[1] and _close(a, b, name):
            who = "A" if fits[0] else "B"
            return f"rows of {who} were rounded to {name} before they were stored"
    return None


def _left(rows: Tensor, wanted: Tensor) -> float:
    """Return the part of the variance that a scale and a shift of each feature leave."""
    x, y = rows - rows.mean(dim=0), wanted - wanted.mean(dim=0)
    scale = (x * y).sum(dim=0) / x.square().sum(dim=0).clamp(min=1e-30)
    whole = float(y.square().sum())
    return float((y - scale * x).square().sum()) / whole if whole else 1.0


def _close(one: Tensor, other: Tensor, dtype: str) -> bool:
    return len(one) > 0 and _mostly(are_close(one, other, dtype))


def _mostly(close: Tensor) -> bool:
    return len(close) > 0 and float(close.double().mean()) >= MOST
