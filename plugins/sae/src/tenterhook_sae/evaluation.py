"""How good an SAE is: on rows of activations, and in the model that they came from."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from tenterhook import HookedModel, attach
from tenterhook_capture.documents import Documents
from tenterhook_capture.text_model import TextModel
from tenterhook_sae.errors import NoRows, NotFinite, WrongWidth
from tenterhook_sae.limits import whole
from tenterhook_sae.sae import Sae, sae_parts
from tenterhook_store.progress import showing


@attrs.frozen(kw_only=True)
class LayerEvaluation:
    """What a crosscoder makes of one of its layers."""

    mean_squared_error: float
    explained_variance: float


@attrs.frozen(kw_only=True)
class RowEvaluation:
    """What an SAE makes of rows of activations; of a transcoder, of what it is to give for them."""

    rows: int
    mean_squared_error: float
    """Per feature: `mean((x - x') ** 2)` for rows `x` and reconstructions `x'`."""
    explained_variance: float
    """`1 - sum(|x - x'|^2) / sum(|x - mean(x)|^2)` over all rows: 1 minus the normalised error of
    Gao et al. 2024 (arXiv:2406.04093); NaN where all rows are the same."""
    cosine: float
    """Mean cosine of a row and its reconstruction."""
    l0: float
    """Active latents per row: `mean(|z|_0)`."""
    unused_share: float
    """The share of latents that no row activated: of these rows, the dead."""
    by_layer: Mapping[str, LayerEvaluation] = attrs.field(factory=dict)
    """Of each layer of a crosscoder; empty for kinds that reconstruct one layer."""


@attrs.frozen(kw_only=True)
class ModelEvaluation:
    """What an SAE costs the model: next-token cross-entropy in nats, a mean over tokens."""

    tokens: int
    """How many predictions were counted."""
    cross_entropy: float
    """Of the model as it is."""
    cross_entropy_reconstructed: float
    """With the layer's activation replaced by its reconstruction."""
    cross_entropy_ablated: float
    """With it replaced by zeros."""
    cross_entropy_recovered: float
    """`(ablated - reconstructed) / (ablated - plain)`, the loss recovered of Bricken et al. 2023
    ("Towards Monosemanticity"): 1 costs nothing, 0 as much as zeros; NaN where zeros cost nothing.
    Of a crosscoder the last layer alone is replaced."""


def evaluate_rows(sae: Sae, rows: "Iterable[Tensor] | Tensor") -> RowEvaluation:
    """Evaluate on blocks of rows, each `(rows, n_inputs)`, one in memory at a time.

    Of a transcoder or crosscoder a row is all its `parts`, side by side. A tensor is cut into
    blocks. Rows are taken to float32 and the SAE's device; sums are float64. Raises `NoRows`,
    `WrongWidth` and `NotFinite` (each a `ValueError`).
    """
    return evaluate_each({"": sae}, rows)[""]


@torch.no_grad()
def evaluate_each(
    saes: Mapping[str, Sae], rows: "Iterable[Tensor] | Tensor"
) -> dict[str, RowEvaluation]:
    """Evaluate several SAEs on the same rows, which are read once; see `evaluate_rows`."""
    sums = {name: _Sums(sae) for name, sae in saes.items()}
    with showing("Evaluating", len(rows) if isinstance(rows, Tensor) else None) as work:
        for block in rows.split(4096) if isinstance(rows, Tensor) else rows:  # type: ignore[no-untyped-call]
            bad = ~torch.isfinite(block).all(1)
            if bad.any():
                raise NotFinite(int(bad.sum()), len(block), "The rows to evaluate with")
            for each in sums.values():
                each.add(block)
            work(len(block))
    return {name: each.evaluation() for name, each in sums.items()}


class _Sums:
    """What is summed up of one SAE over rows; float64, of each feature that is reconstructed."""

    def __init__(self, sae: Sae) -> None:
        self._sae = sae
        self._count = self._active = 0
        self._cosine = 0.0
        self._total, self._squares, self._error = torch.zeros(3, sae.n_outputs, dtype=torch.float64)
        self._used = torch.zeros(sae.n_latents, dtype=torch.bool, device=sae.device)

    def add(self, block: Tensor) -> None:
        """Take rows, `(rows, width)`."""
        sae = self._sae
        if block.shape[-1] != sum(sae.parts):
            raise WrongWidth(sum(sae.parts), block.shape[-1], sae.about.get("layer"))
        given, x = sae_parts(sae, block.to(sae.device, torch.float32))
        latents = sae.encode(given)
        found = sae.reconstruct(given, latents).float()
        self._count += len(x)
        self._total += x.double().sum(0).cpu()
        self._squares += x.double().square().sum(0).cpu()
        self._error += (x - found).double().square().sum(0).cpu()
        self._cosine += float(functional.cosine_similarity(x, found).double().sum())
        active = latents != 0
        self._active += int(active.sum())
        self._used |= active.any(0)

    def evaluation(self) -> RowEvaluation:
        """Return what the sums come to."""
        sae, count = self._sae, self._count
        if not count:
            raise NoRows("What was given to evaluate with")
        whole = self._of(slice(None))
        by_layer = {}
        if len(sae.parts) > 1 and sum(sae.parts) == sae.n_outputs:
            ends = [*accumulate(sae.parts)]
            starts = [0, *ends[:-1]]
            for name, start, stop in zip(sae.layers_read(""), starts, ends, strict=True):
                by_layer[name] = self._of(slice(start, stop))
        return RowEvaluation(
            rows=count,
            mean_squared_error=whole.mean_squared_error,
            explained_variance=whole.explained_variance,
            cosine=self._cosine / count,
            l0=self._active / count,
            unused_share=float((~self._used).double().mean()),
            by_layer=by_layer,
        )

    def _of(self, features: slice) -> LayerEvaluation:
        total, squares, error = (
            each[features] for each in (self._total, self._squares, self._error)
        )
        spread = float((squares - total.square() / self._count).sum())
        return LayerEvaluation(
            mean_squared_error=float(error.mean()) / self._count,
            explained_variance=explained(float(error.sum()), spread, float(squares.sum())),
        )


def explained(error: float, spread: float, squares: float) -> float:
    """Return the share of the spread that is no error; NaN where the spread is but rounding.

    Of rows whose squares sum up to `squares`, and their distances from their mean to `spread`.
    """
    return 1 - error / spread if spread > 1e-12 * squares else math.nan


def numbers(measures: Mapping[str, float]) -> dict[str, float | None]:
    """Return measures as JSON has them: `None` for what is no number."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


def evaluate_in_model(
    sae: Sae,
    model: TextModel,
    layer: str | int,
    documents: Documents | Iterable[str],
    *,
    batch_size: int = 16,
) -> ModelEvaluation:
    """Evaluate in the model: what it predicts from reconstructions, and from zeros.

    Each document is run three times, and each of its real tokens but the first is predicted from
    those before it. Documents longer than the model takes are cut. Nothing is left on the model.
    Raises `UnknownLayer`, `NoRows` where no document has two tokens, and `HookError`, from
    `WrongWidth`, where the layer's width is not the SAE's, and `BadSetting`.
    """
    whole("batch_size", batch_size)
    hooked = attach(model.context.model)
    name = hooked.layers.index.resolve(layer).name

    def reconstructed(x: Tensor) -> Tensor:
        if x.shape[-1] != sae.n_inputs:
            raise WrongWidth(sae.n_inputs, x.shape[-1], name)
        with torch.autocast(sae.device.type, enabled=False):
            found: Tensor = sae(x)
            return found.to(x.device, x.dtype)

    ways: dict[str, Callable[[Tensor], Tensor] | Sae | None] = {
        "plain": None,
        "reconstructed": reconstructed if len(sae.parts) == 1 else _reconstructing(sae),
        "ablated": torch.zeros_like,
    }
    sums = dict.fromkeys(ways, 0.0)
    tokens = 0
    texts = Documents.of(documents)
    with showing("Evaluating in the model", len(texts), "documents") as work:
        for batch in batches_of(model, texts, batch_size, work):
            for way, change in ways.items():
                loss, count = _loss(model, hooked, name, batch, change)
                sums[way] += loss
            tokens += count
    if not tokens:
        raise NoRows("The data to evaluate with (two tokens to a document are needed)")
    plain, with_sae, ablated = (sums[way] / tokens for way in ways)
    gap = ablated - plain
    return ModelEvaluation(
        tokens=tokens,
        cross_entropy=plain,
        cross_entropy_reconstructed=with_sae,
        cross_entropy_ablated=ablated,
        cross_entropy_recovered=(ablated - with_sae) / gap if gap else math.nan,
    )


def _reconstructing(sae: Sae) -> Sae:
    """Return a copy, registered nowhere, that puts reconstructions in its layer's place."""
    found = copy.deepcopy(sae)
    found.mode = "reconstruct"
    found.concepts.reset_manipulations()
    return found


def batches_of(
    model: TextModel,
    documents: Documents | Iterable[str],
    batch_size: int,
    count: Callable[[int], object] = lambda documents: None,
) -> Iterator[list[list[int]]]:
    """Yield token ids of documents, some at a time, cut to what the model takes.

    `count` is called with how many documents are done with.
    """
    texts = iter(Documents.of(documents))
    longest = model.max_tokens
    while some := list(islice(texts, batch_size)):
        found = [ids[:longest] for ids in model.token_ids(some)]
        found = [ids for ids in found if ids]
        if found:
            yield found
        count(len(some))


def _loss(
    model: TextModel,
    hooked: HookedModel,
    layer: str,
    batch: Sequence[Sequence[int]],
    change: "Callable[[Tensor], Tensor] | Sae | None",
) -> tuple[float, int]:
    """Return the summed cross-entropy of the batch's next tokens, and how many there are."""
    if change is None:
        return _summed(model, hooked, batch)
    if isinstance(change, Sae):
        with hooked.hooks((layer, change)):
            return _summed(model, hooked, batch)
    with hooked.steer(layer, change):
        return _summed(model, hooked, batch)


def _summed(
    model: TextModel, hooked: HookedModel, batch: Sequence[Sequence[int]]
) -> tuple[float, int]:
    with hooked.capture("output") as captured:
        mask = model.run_token_ids(batch)
        logits = captured.last("output")
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([id for document in batch for id in document])
    predicted = (mask[:, :-1] & mask[:, 1:]).to(logits.device)
    losses = functional.cross_entropy(
        logits[:, :-1][predicted].float(),
        ids[:, 1:].to(logits.device)[predicted],
        reduction="sum",
    )
    return float(losses), int(predicted.sum())
