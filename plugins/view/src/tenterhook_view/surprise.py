"""How surprising each token of a run is to the model that made it: the model is run for it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tenterhook import attach
from tenterhook_store import NoTokenizer, Run
from tenterhook_store.schemes import resolve_name
from tenterhook_view.errors import NothingToShow
from tenterhook_view.parts import Series
from tenterhook_view.run_tokens import RunTokens


def load_model_of(run: Run) -> Any:
    """Load the model that a run names, as `run.decode` does for its tokenizer.

    Raises `NoTokenizer` where the run names none.
    """
    model = run.plan.about.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if not name:
        raise NoTokenizer(run.id, "it does not say which model made it")
    loader, rest = resolve_name("loaders", name)
    revision = model.get("revision") if isinstance(model, Mapping) else None
    return loader.call(rest, dtype=None, device=None, revision=revision)


@torch.no_grad()
def surprise_of(model: Any, tokens: RunTokens) -> Series:
    """Return -log2 of the probability that the model gave each token, in bits.

    Documents are run one by one. The first token of each, which nothing came before, has none
    (NaN). Raises `NothingToShow` for a document of which the first tokens are not among the rows,
    and for a model that returns no logits.
    """
    hooked = attach(model.context.model)
    found = []
    for document, places in tokens.by_document():
        positions = [tokens.positions[at] for at in places]
        if positions != [*range(len(positions))]:
            why = f"of document {document} some tokens are no rows, and what follows needs them"
            raise NothingToShow(tokens.run.id, why)
        ids = [tokens.ids[at] for at in places]
        with hooked.capture("output") as captured:
            model.run_token_ids([ids])
        logits = captured.last("output")
        if logits.ndim != 3 or logits.shape[-1] <= max(ids):
            raise NothingToShow(tokens.run.id, "its model returns no logits")
        found.append(_bits(logits[0, : len(ids)], ids))
        tokens.count(len(ids))
    return Series(name="surprise", values=torch.cat(found))


def _bits(logits: Tensor, ids: list[int]) -> Tensor:
    found = torch.full((len(ids),), math.nan)
    if len(ids) > 1:
        chances = logits[:-1].float().log_softmax(-1)
        of = torch.tensor(ids[1:], device=chances.device)
        found[1:] = (-chances.gather(1, of[:, None])[:, 0] / math.log(2)).cpu()
    return found
