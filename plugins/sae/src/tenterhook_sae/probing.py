"""Sparse probing: how well a label is read off a few latents, on documents that no probe has seen.

Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing",
arXiv:2305.01610, and as SAEBench (Karvonen et al. 2025, arXiv:2503.09532) measures SAEs by it. For
each class, against all others:

1. Of the units to fit on, the `k` latents are chosen whose mean differs most,
   `|mean(z_i | class) - mean(z_i | others)|`.
2. A logistic regression on these alone is fitted, the two sides weighing the same.
3. The score is its balanced accuracy on the units held out: the mean of the shares of either side
   that are told right, so that 0.5 is chance, however rare the class is.

A unit is a document, whose latents are the mean over its tokens, where a label is of documents; and
a row where it is of rows. The same is done with the features that the SAE encodes, beside.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from tenterhook_sae.errors import BadSetting, NotFinite
from tenterhook_sae.limits import SEEDS, whole
from tenterhook_sae.measured_rows import LabelledRows, Measurable, layers_measured
from tenterhook_sae.sae import Sae

BLOCK = 4096
"""Rows that are read at once at most."""

CLASSES = 100
"""No label has more classes: each needs probes of its own."""


@attrs.frozen(kw_only=True)
class SparseProbing:
    """How well a label is read off few latents; see `sparse_probing`."""

    label: str
    """The field, or `"label"` for values that were given."""

    classes: tuple[Any, ...]
    """Those that were probed for: of two the second alone."""

    scores: Mapping[int, float]
    """Held-out balanced accuracy by `k`, a mean over classes: 0.5 is chance, 1 all right."""

    input_scores: Mapping[int, float]
    """The same of as many features of what the SAE encodes."""

    latents: Mapping[Any, tuple[int, ...]]
    """Of each class the latents that were chosen, those that differ most first."""

    fitted: int
    """How many documents, or rows, probes were fitted to."""

    held_out: int
    """How many they were scored on."""


@torch.no_grad()
def sparse_probing(
    sae: Sae,
    run: Measurable,
    label: str | Sequence[Any] | Tensor,
    *,
    layer: str | int | None = None,
    k: Sequence[int] = (1, 2, 5),
    hold_out: float = 0.2,
    most: int = 20_000,
    seed: int = 0,
) -> SparseProbing:
    """Probe an SAE's latents for a label of the documents, or of the rows, of a run.

    `label` is a field that the run keeps of its documents, or a value for each document, or for
    each row; what is labelled `None` is left out. `layer` is the one that the SAE was trained on
    unless given. Of documents, drawn by `seed`, the share `hold_out` is held out; `most` documents,
    or rows, are used. Of a transcoder what it encodes is read, and of a crosscoder all layers; of
    one of two models the aligned runs of both, whose rows are the pairs.

    Reads the rows twice. Memory is a block of rows and of their latents, and `k` numbers for each
    unit and class.

    Raises `BadSetting` (a `ValueError`) for labels that cannot be probed for and settings that
    cannot be, `NotFinite`, `NoDocumentField`, `NotCaptured`.
    """
    ks = _counts(k, sae.n_latents)
    if type(hold_out) is not float or not 0 < hold_out < 1:
        raise BadSetting("hold_out", hold_out, "a share, above 0 and below 1")
    rows = LabelledRows(run, _encoded(sae, layers_measured(sae, run, layer)))
    units = _Units.of(rows, label, hold_out, whole("most", most), whole("seed", seed, 0, SEEDS))
    best, best_inputs = _most_different(sae, rows, units, max(ks))
    latents, inputs = _columns(sae, rows, units, best, best_inputs)
    scores: dict[int, list[float]] = {each: [] for each in ks}
    input_scores: dict[int, list[float]] = {each: [] for each in ks}
    for at in range(len(units.classes)):
        is_class = units.numbers == units.first + at
        for count in ks:
            for found, columns, of in (
                (scores, latents, best),
                (input_scores, inputs, best_inputs),
            ):
                x = columns[of[at][:count]]
                found[count].append(_score(x, is_class, units.is_fitted))
    return SparseProbing(
        label=label if isinstance(label, str) else "label",
        classes=units.classes,
        scores={each: sum(values) / len(values) for each, values in scores.items()},
        input_scores={each: sum(values) / len(values) for each, values in input_scores.items()},
        latents=dict(zip(units.classes, map(tuple, best), strict=True)),
        fitted=int(units.is_fitted.sum()),
        held_out=int((~units.is_fitted).sum()),
    )


def _counts(k: Any, n_latents: int) -> list[int]:
    if isinstance(k, str) or not isinstance(k, Sequence) or not k:
        raise BadSetting("k", k, "how many latents probes read, one number or more")
    return sorted({whole("k", each, most=n_latents) for each in k})


@attrs.frozen(eq=False, kw_only=True)
class _Units:
    """What has a label and is used: documents, or rows."""

    classes: tuple[Any, ...]
    first: int
    """The number of the first of `classes`: 1 of two classes, whose second alone is probed for."""
    numbers: Tensor
    """int64 `[unit]`: the number of its class."""
    is_fitted: Tensor
    """bool `[unit]`: whether probes are fitted to it, and not scored on it."""
    place: Tensor
    """int64: of each document, or row, the number of its unit; -1 of those that are left out."""
    document: Tensor
    """int64 `[row]`: the document of each."""
    by_row: bool
    rows: Tensor
    """float64 `[unit]`: how many rows it has."""

    @classmethod
    def of(cls, given: LabelledRows, label: Any, hold_out: float, most: int, seed: int) -> "_Units":
        labels = list(given.labels(label) if isinstance(label, str) else label)
        labels = [each.item() if isinstance(each, Tensor) else each for each in labels]
        by_row = len(labels) != given.documents
        if by_row and len(labels) != len(given):
            valid = f"a value for each of {given.documents} documents or {len(given)} rows"
            raise BadSetting("label", f"{len(labels)} values", valid)
        kinds = {each for each in labels if each is not None}
        classes = tuple(sorted(kinds, key=lambda each: (str(type(each)), each)))
        if not 2 <= len(classes) <= CLASSES:
            what = label if isinstance(label, str) else f"{len(classes)} values that differ"
            raise BadSetting("label", what, f"one of 2 to {CLASSES} classes; {len(classes)} differ")
        number = {each: at for at, each in enumerate(classes)}
        numbers = torch.tensor([-1 if each is None else number[each] for each in labels])
        index = given.index()
        there = torch.zeros(len(index), dtype=torch.bool)
        for part in given.ranges:
            there[part.start : part.stop] = True
        of_row = torch.arange(len(index)) if by_row else index
        rows = torch.bincount(of_row[there], minlength=len(numbers)).double()
        # Of documents, so that no text is on both sides; in an order that follows no label.
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(given.documents, generator=generator)
        held = torch.zeros(given.documents, dtype=torch.bool)
        held[shuffled[: max(1, round(hold_out * len(shuffled)))]] = True
        order = torch.randperm(len(numbers), generator=generator)
        used = order[(numbers[order] >= 0) & (rows[order] > 0)][:most].sort().values
        place = torch.full((len(numbers),), -1)
        place[used] = torch.arange(len(used))
        first = 1 if len(classes) == 2 else 0
        made = cls(
            classes=classes[first:],
            first=first,
            numbers=numbers[used],
            is_fitted=~held[index[used] if by_row else used],
            place=place,
            document=index,
            by_row=by_row,
            rows=rows[used],
        )
        for at, name in enumerate(made.classes, first):
            for side in (made.is_fitted, ~made.is_fitted):
                is_class = made.numbers[side] == at
                if not bool(is_class.any()) or bool(is_class.all()):
                    few = "both among those to fit on and those held out: it is too rare"
                    valid = f"a class that some have and some do not, {few}"
                    raise BadSetting("label", name, valid)
        return made

    def blocks(self, given: LabelledRows) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows that are used, `(rows, width)`, and the number of the unit of each."""
        for part in given.ranges:
            for start in range(part.start, part.stop, BLOCK):
                stop = min(start + BLOCK, part.stop)
                numbers = torch.arange(start, stop) if self.by_row else self.document[start:stop]
                of = self.place[numbers]
                used = of >= 0
                if bool(used.any()):
                    rows = given.read(start, stop)[used]
                    bad = ~torch.isfinite(rows).all(1)
                    if bad.any():
                        raise NotFinite(int(bad.sum()), len(rows), "The rows to probe")
                    yield rows, of[used]


def _encoded(sae: Sae, layers: Sequence[str]) -> list[str]:
    """Return those of the layers of an SAE whose features, side by side, it encodes."""
    ends = accumulate(sae.parts)
    return [name for name, end in zip(layers, ends, strict=True) if end <= sae.n_inputs]


def _most_different(
    sae: Sae, given: LabelledRows, units: _Units, count: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return of each class the latents, and inputs, whose mean differs most from the others'."""
    kinds = units.first + len(units.classes)
    sums = torch.zeros(kinds, sae.n_latents, dtype=torch.float64, device=sae.device)
    of_inputs = torch.zeros(kinds, sae.n_inputs, dtype=torch.float64)
    for rows, of in units.blocks(given):
        share = (units.is_fitted[of] / units.rows[of]).float()
        weights = functional.one_hot(units.numbers[of], kinds).T * share
        sums += (weights.to(sae.device) @ sae.encode(rows).float()).double()
        of_inputs += (weights @ rows).double()
    counts = torch.bincount(units.numbers[units.is_fitted], minlength=kinds).double()[:, None]
    found = []
    for each in (sums.cpu(), of_inputs):
        others = (each.sum(0) - each) / (counts.sum() - counts)
        apart = (each / counts - others).abs()[units.first :]
        found.append(apart.topk(min(count, apart.shape[1])).indices.tolist())
    return found[0], found[1]


def _columns(
    sae: Sae,
    given: LabelledRows,
    units: _Units,
    best: list[list[int]],
    best_inputs: list[list[int]],
) -> "tuple[_Some, _Some]":
    """Return the latents and inputs that were chosen, of each unit the mean over its rows."""
    some = [_Some.of(each, len(units.numbers)) for each in (best, best_inputs)]
    for rows, of in units.blocks(given):
        share = (1 / units.rows[of])[:, None]
        for each, values in zip(some, (sae.encode(rows), rows), strict=True):
            found = values[:, each.columns].double().cpu()
            each.values.index_add_(0, of, found * share)
    return some[0], some[1]


@attrs.frozen(eq=False)
class _Some:
    """Some columns of a matrix."""

    columns: list[int]
    values: Tensor
    """float64 `[unit, column]`."""

    @classmethod
    def of(cls, lists: list[list[int]], units: int) -> "_Some":
        columns = sorted({each for some in lists for each in some})
        return cls(columns, torch.zeros(units, len(columns), dtype=torch.float64))

    def __getitem__(self, columns: list[int]) -> Tensor:
        return self.values[:, [self.columns.index(each) for each in columns]]


def _score(x: Tensor, is_class: Tensor, is_fitted: Tensor) -> float:
    """Fit a probe to some of the rows of `x` `[unit, k]`; return its score on the others."""
    mean, spread = x[is_fitted].mean(0), x[is_fitted].std(0, correction=0)
    x = (x - mean) / torch.where(spread > 0, spread, 1)
    weight = _fitted(x[is_fitted], is_class[is_fitted])
    told = functional.pad(x[~is_fitted], (0, 1), value=1.0) @ weight > 0
    truth = is_class[~is_fitted]
    return float((told[truth].double().mean() + (~told[~truth]).double().mean()) / 2)


def _fitted(x: Tensor, y: Tensor) -> Tensor:
    """Return the weights of a logistic regression, bias last, float64 `[k + 1]`.

    Both sides weigh the same, and the penalty is half the square of the weights, as that of
    scikit-learn with `C=1`. By Newton's method: steps are halved while the loss does not fall.
    """
    x = functional.pad(x, (0, 1), value=1.0)
    share = torch.where(y, 0.5 / y.double().mean(), 0.5 / (~y).double().mean())
    sign = torch.where(y, 1.0, -1.0).double()
    bent = torch.ones(x.shape[1], dtype=torch.float64)
    bent[-1] = 1e-6

    def loss(weight: Tensor) -> Tensor:
        errors = functional.softplus(-sign * (x @ weight))
        return (share * errors).sum() + (bent * weight * weight).sum() / 2

    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(30):
        chance = torch.sigmoid(-sign * (x @ weight))
        slope = x.T @ (-sign * share * chance) + bent * weight
        curve = (x * (share * chance * (1 - chance))[:, None]).T @ x + torch.diag(bent)
        step = torch.linalg.solve(curve, slope)
        before, factor = loss(weight), 1.0
        while loss(weight - factor * step) > before and factor > 1e-3:
            factor /= 2
        weight = weight - factor * step
        if float(step.abs().max()) < 1e-8:
            break
    return weight
