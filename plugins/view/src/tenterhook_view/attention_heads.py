"""The part `attention`: which tokens a token attends to, a head at a time."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import torch

from tenterhook_view.colored_tokens import select
from tenterhook_view.errors import WrongShape
from tenterhook_view.parts import Part
from tenterhook_view.token_grid import MOST_CELLS
from tenterhook_view.token_texts import lines_of

MOST_BYTES = 600_000
"""Of all patterns together, one for each pair of tokens: of many heads fewer tokens are shown."""


def attention(
    tokens: Sequence[str],
    patterns: Any,
    *,
    heads: Sequence[str] | None = None,
    title: str = "Attention",
) -> Part:
    """Return a part where one chooses a head and a token, and sees what the token attends to.

    `patterns` are `[heads, tokens, tokens]`, or `[layers, heads, tokens, tokens]`: of each token
    its attention to those up to it, numbers from 0 to 1. `heads` names them all, in order. The
    first 500 tokens are shown, of many heads fewer. Raises `WrongShape`.
    """
    found = torch.as_tensor(patterns).detach()
    names = list(heads) if heads is not None else None
    if found.ndim == 4:
        counts = found.shape[:2]
        layered = [
            f"layer {one}, head {two}" for one in range(counts[0]) for two in range(counts[1])
        ]
        names = names or layered
        found = found.flatten(0, 1)
    if found.ndim != 3 or tuple(found.shape[1:]) != (len(tokens), len(tokens)):
        n = len(tokens)
        raise WrongShape("patterns", torch.as_tensor(patterns).shape, f"(heads, {n}, {n})")
    names = names or [f"head {at}" for at in range(len(found))]
    if len(names) != len(found):
        raise WrongShape("heads", (len(names),), f"({len(found)},), a name for each pattern")
    room = int((2 * MOST_BYTES / max(len(found), 1)) ** 0.5)
    shown = min(len(tokens), MOST_CELLS, max(room, 1))
    below = torch.tril_indices(shown, shown)
    packed = [
        (head[:shown, :shown].float()[below[0], below[1]].nan_to_num(0).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .cpu()
        for head in found
    ]
    texts = lines_of(tokens[:shown])
    spans = "".join(f"<span class=s0>{escape(each)}</span>" for each in texts)
    left = len(tokens) - shown
    note = f'<p class="note">{left:,} tokens more are not shown.</p>' if left else ""
    markup = (
        f'<div class="controls">{select("Head", names)}</div>{note}'
        '<p class="status" role="status" aria-live="polite"></p>'
        '<p class="text" role="group" tabindex="0" aria-label="Text: choose a token, arrow keys go '
        f'from token to token">{spans}</p>'
    )
    data = {"heads": [base64.b64encode(bytes(each.tolist())).decode() for each in packed]}
    return Part(kind="attention", title=title, markup=markup, data=data)
