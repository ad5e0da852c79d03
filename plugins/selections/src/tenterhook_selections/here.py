"""Who is real here: what a hook of one's own asks inside a call."""

from types import FrameType
from typing import Any

from torch import nn

from tenterhook_selections.calls import calls_here
from tenterhook_selections.carriers import Carriers, logits_kept
from tenterhook_selections.forwards import Forward, begin_at, running_forward, takes_text
from tenterhook_selections.generate_calls import KINDS
from tenterhook_selections.generation import running_generation
from tenterhook_selections.parts import here
from tenterhook_selections.searches import Search
from tenterhook_selections.tokens import Seen

_NEAR = 200
"""How many frames up the model's call is looked for."""


def tokens_here(module: nn.Module) -> Seen | None:
    """Return the tokens that a layer is called with: which are real, and where they stand.

    For a hook, inside a call of `module`, in any thread: `.real`, `.position` and `.generated` are
    `(batch, seq)`, on the CPU; of logits those of the tokens that have any. `None`
    where no model that takes ids runs: then nothing is padding.

    Raises `ValueError` where it cannot be told: for a layer that does not carry the text, and in a
    bare `generate` of transformers unless a scope with a selection or `known_searches()` is around.
    """
    if here.module is module:
        raise ValueError(
            "Tokens are asked for by a detector with a selection, which is given the selected part "
            "alone: all of it is real. Leave the selection out to see, and ask for, all tokens."
        )
    forward = running_forward(id(module), None) or _from_the_stack()
    if forward is None or forward.shape is None:
        return None
    why = Carriers.of(forward.module).why_not(module, forward, None)
    if why is not None:
        raise ValueError(f"Tokens are asked for, and {why}.")
    keep, tokens = logits_kept(module, forward), forward.tokens
    return tokens.last(keep) if keep and tokens is not None else tokens


def _from_the_stack() -> Forward | None:
    """Take note now of the innermost call of a model that takes ids, if one is under way."""
    for call in calls_here(_NEAR):
        module: Any = call.f_locals.get("self")
        if isinstance(module, nn.Module) and takes_text(module):
            if not isinstance(running_generation(), Search) and _is_searched(call):
                raise ValueError(
                    "Tokens are asked for in generate, of which nobody took note as it began. Open "
                    "`with tenterhook.selections.known_searches():` around it, use "
                    "LanguageModel.generate, or open a scope with a selection."
                )
            return begin_at(call, module, call.f_locals["args"], call.f_locals["kwargs"])
    return None


def _is_searched(frame: FrameType | None, near: int = 24) -> bool:
    while frame is not None and near:
        if frame.f_code.co_name in KINDS:
            return True
        frame, near = frame.f_back, near - 1
    return False
