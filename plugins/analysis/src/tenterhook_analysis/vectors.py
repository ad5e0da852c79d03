"""Steering vectors: the difference between the means of two kinds of texts, layer by layer.

How well a vector tells the kinds apart is measured on what it was not made of: for each fold the
vector of the other folds, and a threshold in the middle between their means, say which kind the
texts of the fold are. The vector that is returned is made of everything.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import attrs
import torch
from torch import Tensor

from tenterhook_analysis.errors import OtherLayers, UnreadableVector
from tenterhook_analysis.grids import Grid
from tenterhook_analysis.results import Array, Result
from tenterhook_analysis.row_blocks import folds_of, row_blocks
from tenterhook_store import Run
from tenterhook_store.progress import showing
from tenterhook_transformers.language_model import LanguageModel

Rows = Iterable[tuple[Tensor, Tensor]]
"""Rows `[n, features]` in float64, and the fold of each, `[n]`; given anew each time."""


@final
@attrs.frozen(eq=False, kw_only=True)
class SteeringVectors(Result):
    """A vector for each layer, from the second kind of texts to the first."""

    layers: tuple[str, ...]
    vectors: tuple[Tensor, ...]
    """float32 `[features]` of each layer."""
    accuracy: Tensor
    """float64 `[layer]`: of held-out rows, the mean of the shares of both kinds that are told
    right; NaN where nothing could be held out."""
    counts: tuple[int, int]
    """How many rows of each kind they are made of."""
    folds: int

    def __getitem__(self, layer: str) -> Tensor:
        """Return the vector of a layer; `KeyError` where there is none."""
        if layer not in self.layers:
            raise KeyError(f"There is no vector of {layer!r}, but of {', '.join(self.layers)}.")
        return self.vectors[self.layers.index(layer)]

    @property
    def best(self) -> str:
        """The layer whose vector has the highest held-out accuracy, the first of equal ones."""
        return self.layers[int(torch.nan_to_num(self.accuracy, nan=-1.0).argmax())]

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """The layers."""
        return {"layer": self.layers}

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The held-out accuracy and the length of each vector."""
        norms = torch.stack([each.double().norm() for each in self.vectors])
        return {"accuracy": Array(self.accuracy, ("layer",)), "norm": Array(norms, ("layer",))}

    def grid(self) -> Grid:
        """Return accuracy by layer."""
        return Grid(
            title=f"Held-out accuracy, {self.folds} folds, {self.counts[0]:,} and "
            f"{self.counts[1]:,} rows",
            rows=self.layers[::-1],
            columns=["accuracy"],
            values=self.accuracy.flip(0)[:, None],
            value_name="accuracy",
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with a tensor for each layer, by its name."""
        from safetensors.torch import save_file

        tensors = dict(zip(self.layers, self.vectors, strict=True))
        save_file({name: each.contiguous() for name, each in tensors.items()}, os.fspath(path))

    def __repr__(self) -> str:
        known = ", ".join(
            f"{name} {accuracy:.2f}"
            for name, accuracy in zip(self.layers, self.accuracy.tolist(), strict=True)
        )
        return f"SteeringVectors(held-out accuracy: {known})"


def mean_difference(
    run_a: Run, run_b: Run, layers: Sequence[str] | None = None, *, folds: int = 5
) -> SteeringVectors:
    """Return, for each layer of two runs, the mean row of the first less that of the second.

    `layers` are those that both have, unless given. Folds are of documents: the n-th of both runs
    are in one fold, so pairs of texts stay together. Source: Marks and Tegmark 2023, "The geometry
    of truth" (mass-mean probing). Cost: each layer of both runs is read twice, a block at a time.

    Raises `OtherLayers` (a `ValueError`) where the runs share no layer or widths differ.
    """
    names = [name for name in run_a.layers if name in run_b.layers] if layers is None else layers
    wanted = tuple(run_a[name].name for name in names)
    for name in wanted:
        if name not in run_b.layers or run_a[name].shape[1] != run_b[name].shape[1]:
            raise OtherLayers(run_a.id, run_b.id, tuple(run_a.layers), tuple(run_b.layers))
    if not wanted:
        raise OtherLayers(run_a.id, run_b.id, tuple(run_a.layers), tuple(run_b.layers))
    count = folds_of(folds, min(len(run_a.documents), len(run_b.documents)))
    rows = 2 * len(wanted) * (run_a.ranges.rows + run_b.ranges.rows)
    with showing("Comparing means", rows, "rows of layers") as work:

        def rows_of(run: Run, layer: str) -> Callable[[], Rows]:
            return lambda: ((rows, of % count) for rows, _, of in row_blocks(run, layer, work))

        return _vectors(
            {name: (rows_of(run_a, name), rows_of(run_b, name)) for name in wanted}, count
        )


def contrast(
    lm: LanguageModel,
    positive: Sequence[str],
    negative: Sequence[str],
    layers: Sequence[str | int] | None = None,
    *,
    tokens: Any = "last",
    folds: int = 5,
    batch_size: int = 16,
) -> SteeringVectors:
    """Return, for each layer, the mean over positive texts less that over negative ones.

    Of each text counts the last token, or the mean over those that `tokens` selects. `layers` are
    all blocks unless given. The n-th texts of both are in one fold. Source: Rimsky et al. 2023,
    "Steering Llama 2 via contrastive activation addition"; Turner et al. 2023. Cost: one forward of
    each text; memory is a row for each text and layer.
    """
    index = lm.layers.index
    names = index.blocks() if layers is None else [each.name for each in index.expand(layers)]
    with showing("Contrasting", len(positive) + len(negative), "texts") as work:
        sides = [
            _seen(lm, list(texts), names, tokens, batch_size, work)
            for texts in (positive, negative)
        ]
    count = folds_of(folds, min(len(positive), len(negative)))

    def rows_of(side: Mapping[str, Tensor], layer: str) -> Callable[[], Rows]:
        rows = side[layer]
        return lambda: [(rows, torch.arange(len(rows)) % count)]

    return _vectors(
        {name: (rows_of(sides[0], name), rows_of(sides[1], name)) for name in names}, count
    )


def load_vector(path: str | os.PathLike[str], layer: str | None = None) -> Tensor:
    """Return a vector `[features]` of a file: `.safetensors`, `.npy`, or `.pt` of one tensor.

    Of a file of several tensors that of `layer` is taken. Nothing is unpickled but tensors. Raises
    `UnreadableVector` (a `ValueError`).
    """
    file = Path(path)
    try:
        tensors = _read(file)
    except Exception as error:
        raise UnreadableVector(str(file), f"{type(error).__name__}: {error}") from error
    if len(tensors) > 1 and layer not in tensors:
        known = ", ".join(sorted(tensors))
        raise UnreadableVector(str(file), f"it has vectors of {known}, and none of {layer}")
    found = (
        tensors[str(layer)] if layer in tensors else next(iter(tensors.values()), torch.empty(0, 0))
    )
    found = found.squeeze() if found.ndim > 1 else found
    if found.ndim != 1 or not found.is_floating_point():
        raise UnreadableVector(str(file), f"it has {found.dtype} {list(found.shape)}, no vector")
    return found


def _read(file: Path) -> dict[str, Tensor]:
    if file.exists() and not file.is_file():
        raise IsADirectoryError("it is no file")
    if file.suffix == ".npy":
        import numpy

        return {"": torch.from_numpy(numpy.load(file, allow_pickle=False))}
    if file.suffix in (".pt", ".pth"):
        found = torch.load(file, map_location="cpu", weights_only=True)
        return dict(found) if isinstance(found, Mapping) else {"": torch.as_tensor(found)}
    from safetensors.torch import load_file

    return dict(load_file(file))


def _seen(
    lm: LanguageModel,
    texts: list[str],
    names: Sequence[str],
    tokens: Any,
    batch_size: int,
    count: Callable[[int], object],
) -> dict[str, Tensor]:
    """Return a row for each text, `[texts, features]`, of each layer."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(texts), batch_size):
        with lm.capture(*names, tokens=tokens) as captured:
            lm.inference.execute_inference(texts[start : start + batch_size])
        for name in names:
            found[name] += [rows.double().mean(0).cpu() for rows in captured.by_row(name)]
        count(len(texts[start : start + batch_size]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def _vectors(
    sides: Mapping[str, tuple[Callable[[], Rows], Callable[[], Rows]]], folds: int
) -> SteeringVectors:
    vectors, accuracies, counts = [], [], (0, 0)
    for first, second in sides.values():
        sums = [_sums(side(), folds) for side in (first, second)]
        total = [(sum_.sum(0), int(count.sum())) for sum_, count in sums]
        means = [sum_ / max(count, 1) for sum_, count in total]
        vectors.append((means[0] - means[1]).float())
        counts = total[0][1], total[1][1]
        accuracies.append(_accuracy((first, second), sums, folds))
    return SteeringVectors(
        layers=tuple(sides),
        vectors=tuple(vectors),
        accuracy=torch.tensor(accuracies, dtype=torch.float64),
        counts=counts,
        folds=folds,
    )


def _sums(rows: Rows, folds: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of each fold, `[folds, features]`, and how many there are."""
    total, counts = torch.empty(0), torch.zeros(folds, dtype=torch.float64)
    for some, of in rows:
        if not len(total):
            total = torch.zeros(folds, some.shape[1], dtype=torch.float64)
        total.index_add_(0, of, some)
        counts += torch.bincount(of, minlength=folds)
    return total, counts


def _accuracy(
    sides: tuple[Callable[[], Rows], Callable[[], Rows]],
    sums: list[tuple[Tensor, Tensor]],
    folds: int,
) -> float:
    """Return the mean share of the rows of both sides that vectors of other folds tell right."""
    if folds < 2:
        return float("nan")
    means = [
        (total.sum(0) - total) / (counts.sum() - counts).clamp_min(1)[:, None]
        for total, counts in sums
    ]
    directions = means[0] - means[1]
    thresholds = ((means[0] + means[1]) / 2 * directions).sum(1)
    shares = []
    for side, is_first in zip(sides, (True, False), strict=True):
        right = seen = 0
        for some, of in side():
            above = (some * directions[of]).sum(1) > thresholds[of]
            right += int((above == is_first).sum())
            seen += len(some)
        shares.append(right / max(seen, 1))
    return sum(shares) / 2
