"""Runs of texts that random byte-level tokenizers cut, for tests of what is aligned."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import torch

from tenterhook_store import NOWHERE, SPANS, TEXTS, LayerArray, MemoryStore, RowBlock, Run, RunPlan

Cut = list[tuple[int, int]]
"""The span of each token of a document."""


def cut(text: str, rng: random.Random, *, special: bool = False) -> Cut:
    """Cut the bytes of a text anywhere; return which characters each token has bytes of."""
    owner = [at for at, letter in enumerate(text) for _ in letter.encode()]
    found: Cut = [NOWHERE] if special else []
    at = 0
    while at < len(owner):
        stop = min(at + rng.choice([1, 1, 2, 3, 5]), len(owner))
        found.append((owner[at], owner[stop - 1] + 1))
        at = stop
    return found + ([NOWHERE] if special and rng.random() < 0.5 else [])


def run_of(
    cuts: Sequence[Cut],
    *,
    texts: Sequence[str] | None = None,
    name: str = "run",
    store: Any = None,
    width: int = 3,
    unit: int = 4,
    units: Sequence[int] | None = None,
    about: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    layers: Sequence[str] = ("x",),
) -> Run:
    """Return a run of documents that are cut so; the row `n` of each layer is `n, n + 0.5, ...`."""
    spans = torch.tensor([each for one in cuts for each in one], dtype=torch.int32).reshape(-1, 2)
    documents = torch.tensor([at for at, one in enumerate(cuts) for _ in one])
    positions = torch.tensor([at for one in cuts for at in range(len(one))])
    found = {**(spec or {})}
    if texts is not None:
        found["documents_fingerprint"] = hashlib.sha256(repr(list(texts)).encode()).hexdigest()
    plan = RunPlan(
        rows=len(spans),
        rows_per_unit=unit,
        documents=len(cuts),
        layers=[LayerArray(each, width, "float32") for each in layers],
        about={SPANS: True} if about is None else about,
        spec=found,
    )
    store = MemoryStore() if store is None else store
    writer = store.write_run(name, plan)
    if texts is not None:
        hashes = [hash(text) for text in texts]
        pieces = [{TEXTS: torch.tensor(hashes[at : at + 2])} for at in range(0, len(hashes), 2)]
        writer.share(TEXTS, pieces, {"documents": len(texts), "piece": 2})
    for each in plan.units() if units is None else map(plan.unit, units):
        some = slice(each.start, each.stop)
        rows = torch.arange(each.start, each.stop)
        values = rows[:, None].float() + torch.arange(width) / 2
        with writer.open_unit(each) as writing:
            writing.append(
                RowBlock(
                    tokens=rows,
                    documents=documents[some],
                    positions=positions[some],
                    layers=dict.fromkeys(layers, values),
                )
            )
            writing.keep(SPANS, spans[some])
            writing.commit({})
    made: Run = store.run(name)
    return made
