"""Latents by text: those that a text activates most."""

import attrs
import torch

from tenterhook import attach
from tenterhook_capture.text_model import TextModel
from tenterhook_sae.errors import NoRows
from tenterhook_sae.examples import layer_of
from tenterhook_sae.limits import whole
from tenterhook_sae.sae import Sae


@attrs.frozen(kw_only=True)
class FoundLatent:
    """A latent that a text activates, and where it does most."""

    latent: int
    name: str | None
    """The name that it was given."""
    score: float
    """Its highest activation in the text."""
    position: int
    """The token where that is."""
    token: str
    tokens: int
    """At how many tokens of the text it is active."""


def search_latents(
    sae: Sae, model: TextModel, text: str, *, layer: str | int | None = None, top_k: int = 10
) -> list[FoundLatent]:
    """Run the model on a text; return the latents that it activates most, strongest first.

    By their highest activation at any token; special tokens, as one that begins each text, do not
    count. `layer` is the one that the SAE was trained on unless given. Nothing is left on the
    model. Raises `UnknownLayer`, `BadSetting`, `NoRows` for a text without tokens, and `ValueError`
    where no layer is known.
    """
    top_k = whole("top_k", top_k)
    where = layer_of(sae, layer)
    (ids,) = model.token_ids([text])
    ids = ids[: model.max_tokens]
    special = set(model.context.special_token_ids or ())
    counted = torch.tensor([each not in special for each in ids])
    if not counted.any():
        raise NoRows(f"The text {text!r}", "Give a text that has tokens.")
    hooked = attach(model.context.model)
    with torch.no_grad(), hooked.hooks((where, sae)), hooked.without_controllers():
        mask = model.run_token_ids([ids])
    latents = sae.latents
    assert latents is not None
    active = latents.reshape(-1, sae.n_latents)[mask.reshape(-1).to(latents.device)].float().cpu()
    active = torch.where(counted[:, None], active, 0)
    highest, places = active.max(0)
    best, which = highest.topk(min(top_k, sae.n_latents))
    decode = getattr(model.context.tokenizer, "decode", lambda some: str(some[0]))
    return [
        FoundLatent(
            latent=latent,
            name=sae.concepts.names.get(latent),
            score=score,
            position=int(places[latent]),
            token=str(decode([ids[int(places[latent])]])),
            tokens=int((active[:, latent] > 0).sum()),
        )
        for latent, score in zip(which.tolist(), best.tolist(), strict=True)
        if score > 0
    ]
