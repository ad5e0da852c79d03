"""Parts of a run's page that its model is asked for: logit lens, attention, steering.

The lens reads the rows of the run, where they are what blocks return, and runs what follows the
last block alone. For attention one forward of the first document is run, for steering a generation
with the vector and one without.
"""

from typing import Any

import torch
from torch import Tensor

from tenterhook import attach
from tenterhook.errors import UnknownLayer
from tenterhook_view.attention_heads import attention
from tenterhook_view.errors import NothingToShow
from tenterhook_view.parts import Part
from tenterhook_view.run_tokens import RunTokens
from tenterhook_view.token_grid import lens
from tenterhook_view.two_texts import diff

OF_LENS = 100
"""Tokens that the lens of a run is of: the first of its first document."""

OF_ATTENTION = 128
"""Tokens whose attention is asked for: of more, the patterns of all heads are large."""

OF_PROMPT = 12
"""Tokens of the first document that a steered text begins with, unless a prompt is given."""


def lens_of_run(model: Any, chosen: RunTokens, layers: list[str]) -> Part:
    """Return the logit lens of the first document: what each block's rows would say next.

    Raises `NothingToShow` (a `LookupError`) where none of the layers is a block.
    """
    logit_lens = _analysis().logit_lens
    _check_language_model(model, chosen)
    found = [name for name in layers if _is_block(model, name)]
    if not found:
        why = "the logit lens reads what blocks return, and none of its layers is a block"
        raise NothingToShow(chosen.run.id, why)
    start, stop = chosen.rows[0]
    _, first = next(chosen.by_document())
    rows = slice(start, min(stop, start + len(first), start + OF_LENS))
    if rows.stop > len(chosen.run):
        raise NothingToShow(chosen.run.id, "rows before those of the document are missing")
    result = logit_lens(model, chosen.run, found, k=5, rows=rows)
    return lens(result, title=f"Logit lens, document {chosen.documents[0]}")


def attention_of_run(model: Any, chosen: RunTokens) -> Part:
    """Return attention in the first document, a head at a time; the model is run for it.

    Raises `NothingToShow` where the document's first tokens are no rows, or nothing knows the
    patterns of the model.
    """
    _, first = next(chosen.by_document())
    some = first[:OF_ATTENTION]
    if [chosen.positions[at] for at in some] != [*range(len(some))]:
        why = "some of the document's first tokens are no rows, and attention needs them"
        raise NothingToShow(chosen.run.id, why)
    try:
        with attach(model.context.model).capture("pattern.*") as captured:
            model.run_token_ids([[chosen.ids[at] for at in some]])
    except UnknownLayer as error:
        why = "no plugin knows its model's attention patterns: pip install tenterhook-interiors"
        raise NothingToShow(chosen.run.id, why) from error
    # Sliding windows and the like give some layers other sizes, which have no square to show.
    square = (len(some), len(some))
    patterns = {name: captured.last(name)[0] for name in captured}
    kept = {name: each for name, each in patterns.items() if tuple(each.shape[-2:]) == square}
    names = [
        f"layer {name.rpartition('.')[2]}, head {head}"
        for name, each in kept.items()
        for head in range(len(each))
    ]
    return attention(
        [chosen.texts[at] for at in some],
        torch.cat([*kept.values()]),
        heads=names,
        title=f"Attention, document {chosen.documents[0]}",
    )


def steered_text(
    model: Any,
    chosen: RunTokens,
    layer: str,
    vector: Tensor,
    *,
    scale: float = 4.0,
    prompt: str | None = None,
) -> Part:
    """Return how a text goes on without a vector and with `scale` times it added to a layer.

    It begins as the first document does, unless there is a prompt.
    """
    steered = _analysis().steered
    _check_language_model(model, chosen)
    if prompt is None:
        _, first = next(chosen.by_document())
        ids = [chosen.ids[at] for at in first[:OF_PROMPT]]
        prompt = str(model.tokenizer.decode(ids, skip_special_tokens=True))
    ((without, with_it),) = steered(model, prompt, layer, vector, (0.0, scale)).texts
    names = ("without", f"with {scale:g} times the vector at {layer}")
    return diff(prompt + without, prompt + with_it, names=names, title="Steered")


def _analysis() -> Any:
    try:
        import tenterhook_analysis
    except ImportError as error:
        error.add_note("pip install 'tenterhook-view[analysis]'")
        raise
    return tenterhook_analysis


def _is_block(model: Any, layer: str) -> bool:
    """Whether a layer of a run, by whichever of its names, is a block of the model."""
    index = model.layers.index
    try:
        return index.resolve(layer).name in index.blocks()
    except UnknownLayer:  # of another version of the model, or on the side of the inputs
        return False


def _check_language_model(model: Any, chosen: RunTokens) -> None:
    if not hasattr(model, "generate") or not hasattr(model, "layers"):
        raise NothingToShow(chosen.run.id, "its model is no language model of transformers")
