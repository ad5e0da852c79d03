"""The texts that activate a latent most, token by token, and a page that shows them."""

from collections.abc import Iterable
from html import escape

import attrs
import torch

from tenterhook import attach
from tenterhook_capture.documents import Documents
from tenterhook_capture.text_model import TextModel
from tenterhook_sae.concepts import Latent
from tenterhook_sae.errors import NoOther
from tenterhook_sae.evaluation import batches_of
from tenterhook_sae.limits import whole
from tenterhook_sae.model_crosscoder import ModelCrosscoder
from tenterhook_sae.sae import Sae
from tenterhook_sae.top_texts import TopText
from tenterhook_store.progress import showing


@attrs.frozen(kw_only=True)
class Example:
    """A text, its tokens, and how active the latent is at each."""

    top: TopText
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    """One for each token; 0 where the latent is not active."""


def find_examples(
    sae: Sae,
    model: TextModel,
    latent: Latent,
    documents: Documents | Iterable[str],
    *,
    layer: str | int | None = None,
    top_k: int = 10,
    batch_size: int = 16,
) -> list[Example]:
    """Run the model over the documents; return the texts that activate the latent most.

    `layer` is the one that the SAE was trained on unless given. Texts are tracked anew, for all
    latents, so `sae.concepts.get_top_texts` answers for the others afterwards. Nothing is left on
    the model. Raises `NoSuchLatent`, `UnknownLayer`, and `ValueError` where no layer is known.
    """
    number = sae.concepts.number(latent)
    whole("batch_size", batch_size)
    where = layer_of(sae, layer)
    hooked = attach(model.context.model)
    sae.concepts.enable_text_tracking(top_k)
    found = []
    texts = Documents.of(documents)
    with (
        showing(f"Looking for latent {number}", len(texts), "documents") as work,
        hooked.hooks((where, sae)),
        hooked.without_controllers(),
    ):
        for batch in batches_of(model, texts, batch_size, work):
            model.run_token_ids(batch)
        sae.concepts.disable_text_tracking()
        for top in sae.concepts.get_top_texts(number):
            mask = model.run_token_ids([top.token_ids])
            latents = sae.sparse_latents
            assert latents is not None
            scores = latents.columns([number]).reshape(-1).cpu()[mask.reshape(-1)]
            decode = getattr(model.context.tokenizer, "decode", lambda ids: str(ids[0]))
            tokens = tuple(str(decode([id])) for id in top.token_ids)
            found.append(Example(top=top, tokens=tokens, scores=tuple(scores.tolist())))
    return found


def layer_of(sae: Sae, layer: str | int | None) -> str | int:
    """Return the layer asked for, else the one that the SAE was trained on.

    Raises `ValueError` where it does not say which, `TypeError` where what it says is no layer, and
    `NoOther` for one that reads two models where nobody said what the other gives.
    """
    where = layer if layer is not None else sae.about.get("layer")
    if where is None:
        raise ValueError("This SAE does not say which layer it was trained on: give the layer.")
    if not isinstance(where, str | int):
        raise TypeError(f"{where!r} is not a layer.")
    if isinstance(sae, ModelCrosscoder) and sae.beside is None:
        raise NoOther(sae.models[sae.side == sae.models[0]], where)
    return where


def write_page(examples: Iterable[Example], *, title: str) -> str:
    """Return a page of HTML, complete in itself, with tokens coloured by the latent's activity."""
    texts = []
    found = list(examples)
    highest = max((max(each.scores) for each in found), default=0.0)
    for each in found:
        spans = []
        for token, score in zip(each.tokens, each.scores, strict=True):
            markup = escape(token).replace("\n", "↵<br>")
            if score > 0:
                strength = 0.15 + 0.85 * score / highest
                spans.append(
                    f'<span style="background:rgba(255,140,0,{strength:.2f})" '
                    f'title="{score:.3f}">{markup}</span>'
                )
            else:
                spans.append(markup)
        texts.append(f"<p><b>{each.top.score:.3f}</b> {''.join(spans)}</p>")
    if not texts:
        texts.append("<p>No text activated it.</p>")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n"
        "<style>body{font-family:sans-serif;max-width:50em;margin:2em auto;line-height:1.6}"
        "</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(texts) + "\n</body>\n</html>\n"
    )


@torch.no_grad()
def strongest_latents(sae: Sae, activation: torch.Tensor, count: int = 10) -> list[int]:
    """Return the latents that activations `(..., n_inputs)` make most active, best first.

    The highest over all rows counts; there are `count`, or all. Raises `WrongWidth`, `BadSetting`.
    """
    count = whole("count", count)
    latents = sae.encode(activation).reshape(-1, sae.n_latents).amax(0)
    best: list[int] = latents.topk(min(count, sae.n_latents)).indices.tolist()
    return best
