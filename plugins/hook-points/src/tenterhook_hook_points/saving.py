"""From a cache to a run of a store: a row for each token."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from tenterhook_store import LayerArray, RowBlock, RunPlan, Store, dtype_name

ROWS_PER_UNIT = 32_768


def save(
    tensors: Mapping[str, Tensor],
    store: Store,
    run_name: str,
    *,
    tokens: Tensor | None,
    mask: Tensor | None,
    batched: bool,
) -> str:
    """Write the tensors as a run, a row for each token; return its id.

    They are `(batch, seq, ...)`, without `batched` `(seq, ...)`; `tokens` and `mask` are
    `(batch, seq)` or `(seq,)`. Raises `ValueError` for other shapes and for nothing to save; see
    `ActivationCache.save`.
    """
    if not tensors:
        raise ValueError(
            "There is nothing to save: the cache, or what names_filter left, is empty."
        )
    batch, seq = _shape(tensors, tokens, batched)
    real = _flat("mask", mask, (batch, seq), torch.ones(batch * seq, dtype=torch.bool)).bool()
    if not real.any():
        raise ValueError("There is nothing to save: mask is true nowhere.")
    ids = _flat("tokens", tokens, (batch, seq), torch.full((batch * seq,), -1))
    rows = {
        name: tensor.detach().cpu().reshape(batch * seq, -1)[real]
        for name, tensor in tensors.items()
    }
    ids = ids[real].to(torch.int32)
    documents = torch.arange(batch).repeat_interleave(seq)[real]
    # Real tokens are numbered from the first of their row, wherever padding is.
    positions = (real.reshape(batch, seq).cumsum(1) - 1).reshape(-1)[real].to(torch.int32)
    plan = RunPlan(
        rows=len(ids),
        rows_per_unit=min(len(ids), ROWS_PER_UNIT),
        documents=batch,
        layers=tuple(
            LayerArray(name, each.shape[1], dtype_name(each.dtype)) for name, each in rows.items()
        ),
        spec={"made by": "tenterhook-hook-points", "content": _digest(ids, documents, rows)},
        about={"shapes": {name: _features(t, batched) for name, t in tensors.items()}},
    )
    writer = store.write_run(run_name, plan)
    committed = writer.committed()
    for unit in plan.units():
        if unit.number in committed:
            continue
        part = slice(unit.start, unit.stop)
        with writer.open_unit(unit) as writing:
            writing.append(
                RowBlock(
                    tokens=ids[part],
                    documents=documents[part],
                    positions=positions[part],
                    layers={name: each[part] for name, each in rows.items()},
                )
            )
            writing.commit({"rows": unit.rows})
    writer.finish()
    return writer.run_id


def _shape(tensors: Mapping[str, Tensor], tokens: Tensor | None, batched: bool) -> tuple[int, int]:
    """Return batch and sequence; `ValueError` that names the tensors that have others."""
    axes = 2 if batched else 1
    if tokens is not None:
        shape = tuple(tokens.shape)[-axes:]
    else:
        shapes = Counter(tuple(t.shape[:axes]) for t in tensors.values())
        shape = max(shapes, key=lambda each: (shapes[each], len(each)))
    wrong = {
        name: tuple(t.shape)
        for name, t in tensors.items()
        if t.ndim <= axes or tuple(t.shape[:axes]) != shape or not t.numel()
    }
    if wrong:
        shown = ", ".join(f"{name} {each}" for name, each in list(wrong.items())[:4])
        axis_names = "batch, seq" if batched else "seq"
        raise ValueError(
            f"A run has a row for each token, so tensors are ({axis_names}, ...), here "
            f"({', '.join(map(str, shape))}, ...); {len(wrong)} are not: {shown}. Choose the "
            "others with names_filter=."
        )
    return (shape[0], shape[1]) if batched else (1, shape[0])


def _flat(name: str, given: Tensor | None, shape: tuple[int, int], otherwise: Tensor) -> Tensor:
    if given is None:
        return otherwise
    if given.numel() != shape[0] * shape[1] or given.shape[-1] != shape[1]:
        raise ValueError(f"{name} is {tuple(given.shape)}, and the tokens are {shape}.")
    return given.detach().cpu().reshape(-1)


def _features(tensor: Tensor, batched: bool) -> list[int]:
    return list(tensor.shape[2 if batched else 1 :])


def _digest(ids: Tensor, documents: Tensor, rows: Mapping[str, Tensor]) -> str:
    """Return the sha256 of what is written, so that another cache is another run."""
    digest = hashlib.sha256()
    for tensor in (ids, documents, *rows.values()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
