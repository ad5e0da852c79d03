"""Several SAEs measured on the same rows and in the same model, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor

from tenterhook_capture.documents import Documents
from tenterhook_capture.text_model import TextModel
from tenterhook_sae.evaluation import evaluate_each, evaluate_in_model, numbers
from tenterhook_sae.examples import layer_of
from tenterhook_sae.measured_rows import Measurable, batches_of_run, layers_measured
from tenterhook_sae.probing import sparse_probing
from tenterhook_sae.sae import Sae

Number = int | float | None


@attrs.frozen
class CellTexts:
    """What a page shows of a comparison, cell by cell."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Tensor
    """float32 `[row, column]`: 0 for the lowest of a column, 1 for the highest; NaN for none."""
    texts: Sequence[Sequence[str]]
    hovers: Sequence[Sequence[str]]
    value_name: str = "place in its column"


@final
@attrs.frozen
class Comparison:
    """Measures of several SAEs, by name; see `compare_saes`."""

    kinds: Mapping[str, str]
    """The class of each."""

    measures: Mapping[str, Mapping[str, Number]]
    """By name of the SAE, then of the measure; `None` for what is no number."""

    @property
    def columns(self) -> list[str]:
        """The names of all measures that some have."""
        return list(dict.fromkeys(name for each in self.measures.values() for name in each))

    def grid(self) -> CellTexts:
        """Return a table with a row for each, as pages of the plugin `view` take it."""
        columns = self.columns
        found = [[each.get(name) for name in columns] for each in self.measures.values()]
        nan = float("nan")
        values = torch.tensor([[nan if v is None else float(v) for v in row] for row in found])
        low = torch.where(values.isnan(), torch.inf, values).amin(0)
        room = torch.where(values.isnan(), -torch.inf, values).amax(0) - low
        places = torch.where(room > 0, (values - low) / room, 0)
        rows = [f"{name} ({self.kinds[name]})" for name in self.measures]
        texts = [["-" if v is None else f"{v:,.4g}" for v in row] for row in found]
        return CellTexts(
            title="Sparse autoencoders",
            rows=rows,
            columns=[name.replace("_", " ") for name in columns],
            values=torch.where(values.isnan(), nan, places),
            texts=texts,
            hovers=texts,
        )


def compare_saes(
    saes: Mapping[str, Sae],
    *,
    run: Measurable | None = None,
    rows: slice | None = None,
    model: TextModel | None = None,
    documents: Documents | Iterable[str] | None = None,
    labels: Sequence[str] = (),
    layer: str | int | None = None,
    batch_size: int = 16,
) -> Comparison:
    """Measure several SAEs, given by name, on a run, in a model, or on both.

    Of a `run`: what `evaluate_rows` measures, on `rows`, by default those that none of them was
    trained on (`held_out_rows`), which are read once for all of the same layers; and for each of
    `labels`, fields of its documents, the scores of `sparse_probing`. In a `model`, which reads
    `documents`: what `evaluate_in_model` measures. Each SAE stands at the layer that it was trained
    on unless `layer` is given. SAEs that read two models are measured on the aligned runs of both,
    `run.align(other)`, and each label is a field of either.

    Raises what those raise, and `ValueError` where labels or documents have no run or model.
    """
    if labels and run is None:
        raise ValueError(f"labels={list(labels)} are fields of a run's documents: give the run.")
    if (model is None) != (documents is None):
        raise ValueError("Give model and documents together.")
    found: dict[str, dict[str, Number]] = {
        name: {"latents": sae.n_latents, **_trained_with(sae)} for name, sae in saes.items()
    }
    if model is not None:
        for sae in saes.values():
            layer_of(sae, layer)  # which raises before anything is read
    if run is not None:
        part = held_out_rows(saes.values(), run) if rows is None else rows
        for layers, some in _by_layers(saes, run, layer).items():
            batches = batches_of_run(run, layers, part)
            start, stop = batches.about["rows"]
            for name, each in evaluate_each(some, batches.blocks(start, stop)).items():
                found[name] |= numbers(attrs.asdict(each, filter=_is_number))
        for name, sae in saes.items():
            for label in labels:
                probed = sparse_probing(sae, run, label, layer=layer)
                found[name] |= {f"{label}_from_{k}": score for k, score in probed.scores.items()}
    if model is not None and documents is not None:
        texts = Documents.of(documents)
        for name, sae in saes.items():
            where = layer_of(sae, layer)
            in_model = evaluate_in_model(sae, model, where, texts, batch_size=batch_size)
            found[name] |= numbers(attrs.asdict(in_model))
    return Comparison({name: type(sae).__name__ for name, sae in saes.items()}, found)


def held_out_rows(saes: Iterable[Sae], run: Measurable) -> slice:
    """Return the rows of a run after those that any of the SAEs was trained on, as they say.

    All of them where none was trained on it, and where nothing was held out.
    """
    ends = [
        each.about["rows"][1]
        for each in saes
        if each.about.get("run") == run.id and isinstance(each.about.get("rows"), list)
    ]
    stop = max(ends, default=0)
    return slice(stop if stop < len(run) else 0, None)


def _is_number(_: Any, value: Any) -> bool:
    return not isinstance(value, Mapping)


def _trained_with(sae: Sae) -> dict[str, Number]:
    k = sae.settings().get("k")
    steps = sae.about.get("steps")
    found: dict[str, Number] = {} if k is None else {"k": k}
    return {**found, "steps": steps} if type(steps) is int else found


def _by_layers(
    saes: Mapping[str, Sae], run: Measurable, layer: str | int | None
) -> dict[tuple[str, ...], dict[str, Sae]]:
    """Return the SAEs of each list of layers that rows are made of, side by side."""
    found: dict[tuple[str, ...], dict[str, Sae]] = {}
    for name, sae in saes.items():
        found.setdefault(layers_measured(sae, run, layer), {})[name] = sae
    return found
