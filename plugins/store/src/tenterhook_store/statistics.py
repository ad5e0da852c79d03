"""Statistics of a run, merged from the parts that its units store.

`reductions` computes and merges; here is which tensors of which units to read, and what is
returned to users. Importing this imports no torch.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from tenterhook_store.errors import NotCaptured, NotReduced

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook_store.readable import Readable

DEFAULT_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@attrs.frozen(eq=False)
class TopTokens:
    """Where each feature of a layer is highest; all `[features, k]`, the highest first."""

    scores: "Tensor"
    """The values, float32 or float64."""
    rows: "Tensor"
    """The rows of the run, int64."""
    tokens: "Tensor"
    """Their token ids, int32."""
    documents: "Tensor"
    """Their documents, int64."""
    positions: "Tensor"
    """Which token of its document each is, int32."""


def reduced(run: "Readable", layer: str | int, what: str, *, q: Sequence[float], ddof: int) -> Any:
    """Return one reduction; see `Run.reduced` for what it is and its shape.

    Raises `NotReduced` where the run was captured without it or none of its units is there,
    `NotCaptured` for a layer that it has not.
    """
    from tenterhook_store.reductions import PARTS, moments_of, sketch_of, top_of

    kinds: Sequence[str] = run.plan.spec.get("reduce", ())
    if what not in kinds:
        raise NotReduced(what, kinds, run.id)
    parts = list(_unit_parts(run, _number_of(run, layer), PARTS[what]))
    if not parts:
        raise NotReduced(what, (), run.id)
    if what == "quantiles":
        return sketch_of(parts).quantiles(q)
    if what == "topk":
        top = top_of(parts, run.plan.spec["top_k"])
        rows = top.rows.T.contiguous()
        return TopTokens(
            top.values.T.contiguous(),
            rows,
            run.tokens.take(rows),
            run.documents.index.take(rows),
            run.documents.position.take(rows),
        )
    moments = moments_of(parts)
    if what == "mean":
        return moments.mean
    spread = moments.squares if what == "var" else moments.deviations
    return spread / (moments.count - ddof)


def quantile_error(run: "Readable", layer: str | int) -> float:
    """Return by how much of all rows a quantile's rank can be wrong, a share; 0 where exact.

    Raises `NotReduced` where the run was captured without quantiles, `NotCaptured` for a layer
    that it has not.
    """
    from tenterhook_store.reductions import PARTS, sketch_of

    if "quantiles" not in run.plan.spec.get("reduce", ()):
        raise NotReduced("quantiles", run.plan.spec.get("reduce", ()), run.id)
    return sketch_of(_unit_parts(run, _number_of(run, layer), PARTS["quantiles"])).error


def _number_of(run: "Readable", layer: str | int) -> int:
    names = [each["name"] for each in run.plan.spec["layers"]]
    name = run.plan.about.get("spellings", {}).get(str(layer), layer)
    if name not in names:
        raise NotCaptured(layer, names, run.id)
    return names.index(name)


def _unit_parts(run: "Readable", number: int, parts: Sequence[str]) -> "list[Mapping[str, Tensor]]":
    """Read the parts that the committed units store of a layer, in the units' order."""
    return [
        {part: run.unit_tensor(unit, f"reduced/{number}/{part}") for part in parts}
        for unit in sorted(run.committed)
    ]
