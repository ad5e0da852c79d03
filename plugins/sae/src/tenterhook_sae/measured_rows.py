"""The rows that SAEs are measured on: of a run, or of two runs that are aligned."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from tenterhook_sae.aligned_batches import AlignedBatches
from tenterhook_sae.batches import RunBatches
from tenterhook_sae.crosscoder import Crosscoder
from tenterhook_sae.errors import BadSetting, WrongParts
from tenterhook_sae.examples import layer_of
from tenterhook_sae.model_crosscoder import ModelCrosscoder
from tenterhook_sae.sae import Sae
from tenterhook_store import AlignedRuns, Run

Measurable = Run | AlignedRuns
"""What has rows to measure on: those of two runs are for SAEs that read two models."""


def layers_measured(sae: Sae, run: Measurable, layer: str | int | None = None) -> tuple[str, ...]:
    """Return the layers whose rows, side by side, an SAE is measured on; of two runs one of each.

    `layer` is the one that it was trained on unless given. Raises `BadSetting` where the SAE reads
    two models and the run is of one, or the other way round, or of these in another order,
    `WrongParts` for layers of other widths, `NotCaptured`.
    """
    kind = type(sae).__name__
    if not isinstance(sae, ModelCrosscoder):
        if isinstance(run, AlignedRuns):
            valid = f"one run, STORE/runs/RUN: this {kind} reads one model, and it is of two"
            raise BadSetting("run", run.id, valid)
        names = tuple(sae.layers_read(str(layer_of(sae, layer))))
        if isinstance(sae, Crosscoder) and layer is not None and run[layer].name not in names:
            valid = f"one of its own, {' and '.join(names)}: this {kind} reads these"
            raise BadSetting("layer", layer, valid)
        return names
    if not isinstance(run, AlignedRuns):
        both = " and ".join(map(repr, sae.models))
        valid = (
            f"an alignment of two, STORE/alignments/NAME: this {kind} reads the models {both}, and "
            "`tenterhook runs align` pairs the rows of a run of each"
        )
        raise BadSetting("run", run.id, valid)
    if (run.run_b.id, run.run_a.id) == sae.models != (run.run_a.id, run.run_b.id):
        valid = f"aligned as {' and '.join(sae.models)}, in this order, which this {kind} reads"
        raise BadSetting("run", run.id, valid)
    layers = (layer, layer) if layer is not None else _trained_on(sae)
    rows = run.run_a[layers[0]], run.run_b[layers[1]]
    widths = tuple(each.shape[1] for each in rows)
    names = tuple(each.name for each in rows)
    if widths != sae.parts:
        raise WrongParts(kind, sae.parts, widths, names)
    return names


def _trained_on(sae: ModelCrosscoder) -> tuple[str | int, str | int]:
    """Return its layer of each model, which the alignment that it was trained on has named."""
    names, models = sae.about.get("layers"), sae.about.get("models")
    if isinstance(names, list) and isinstance(models, list) and len(names) == len(models) == 2:
        one, other = (
            str(name).removeprefix(f"{model}:") for name, model in zip(names, models, strict=True)
        )
        return one, other
    where = sae.about.get("layer")
    if not isinstance(where, str | int):
        raise ValueError("This SAE does not say which layer it was trained on: give the layer.")
    return where, where


def batches_of_run(run: Measurable, layers: Sequence[str], rows: slice) -> Any:
    """Return what gives the rows of a part in blocks, as `RunBatches`, and for two runs as that."""
    if isinstance(run, AlignedRuns):
        one, other = layers
        return AlignedBatches(run, (one, other), rows=rows)
    return RunBatches(run, layers, rows=rows)


@final
class LabelledRows:
    """Rows of some layers, and the documents that they are of, whose labels are known."""

    def __init__(self, run: Measurable, layers: Sequence[str]) -> None:
        """Of two runs documents and labels are those of the first, else of the second."""
        self._run = run
        self.layers = tuple(layers)
        first = run.run_a if isinstance(run, AlignedRuns) else run
        self._documents: Any = first.documents
        self.ranges = run.ranges
        """Which rows are there."""

    def __len__(self) -> int:
        """How many rows there are to give labels for."""
        return len(self._run)

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self._documents)

    def labels(self, field: str) -> list[Any]:
        """Return what is kept of each document; `NoDocumentField`."""
        if isinstance(self._run, AlignedRuns) and field not in self._documents:
            other: Any = self._run.run_b.documents
            if field in other:
                found = list(other[field])[: self.documents]
                return found + [None] * (self.documents - len(found))
        return list(self._documents[field])

    def index(self) -> Tensor:
        """Return the document of each row, int64 `[rows]`."""
        found: Tensor = self._documents.index[:].long()
        if isinstance(self._run, AlignedRuns):
            found = torch.cat([found[each] for each in self._places()])
        return found

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that follow each other, float32 `(rows, width)`."""
        run = self._run
        if isinstance(run, AlignedRuns):
            pairs = run.pairs[start:stop].unbind(1)
            sides = run.run_a[self.layers[0]], run.run_b[self.layers[1]]
            parts = [each.take(some) for each, some in zip(sides, pairs, strict=True)]
        else:
            parts = [run[each][start:stop] for each in self.layers]
        return torch.cat([each.float() for each in parts], 1)

    def _places(self) -> Iterator[Tensor]:
        assert isinstance(self._run, AlignedRuns)
        for start in range(0, len(self), 1 << 18):
            yield self._run.pairs[start : start + (1 << 18)][:, 0]
