"""Where what transformers generates is not what the text alone gives, so that tokens are refused.

What a model computes of a text should not depend on the padding beside it, nor on other beams or on
a cache. For most it does not. For some it does, because of how the model or `generate` was written:
then no row is what the text alone would give, and nothing that is selected in it would be right.
Which they are was measured: `test_tokens_matrix` of the plugin transformers runs them all against
the text alone.
"""

import inspect
from typing import Any

from torch import Tensor

KEEP_APART = frozenset(
    {
        "bamba",
        "falcon_mamba",
        "jamba",
        "mamba",
        "mamba2",
        "nemotron_h",
        "qwen3_next",
        "zamba",
        "zamba2",
    }
)
"""Families of models with a state, `model_type`, that keep padding and other beams out of it."""

GO_ON = frozenset({"bamba", "nemotron_h", "qwen3_next", "zamba2"})
"""Those that go on from a state with several tokens at once; others begin anew."""

LOOK_AHEAD = frozenset({"paligemma"})
"""Those whose tokens look at later ones in a prompt, and not in what was generated."""


def why_not_told(
    model: Any,
    mask: Tensor,
    *,
    past: int,
    beams: bool,
    in_chunks: bool,
    encoder: Tensor | None,
) -> str | None:
    """Return why the tokens that `model` is about to generate cannot be told; `None` if they can.

    `mask` says which columns of the prompts are real, bool `(slots, seq)`; `past` of them are in a
    cache. `encoder` is the mask of what an encoder has read, `None` where there is none.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return _of_encoder(model, encoder, past=past, in_chunks=in_chunks)
    if not mask.shape[1]:
        return None
    if not bool(mask[:, -1].all()):
        return (
            f"prompts are padded on the right: {name} goes on from the padding, so what it makes "
            "is not of these texts. Pad on the left (padding_side='left')"
        )
    if model.config.model_type in LOOK_AHEAD:
        return (
            f"tokens of a prompt of {name} look at later ones, so what a text gives depends on "
            "where its prompt ended. Run it on whole texts, without generate"
        )
    states = {
        each.config.model_type for each in model.modules() if getattr(each, "_is_stateful", False)
    }
    if not bool(mask[:, 0].all()) and (leaky := states - KEEP_APART):
        return (
            f"a {_or(leaky)} model lets padding into its state, so its rows are not those of the "
            "texts. Give texts of one length, or one at a time"
        )
    if beams and (mixed := states - KEEP_APART):
        return (
            f"a {_or(mixed)} model does not exchange its states with its beams. Generate without "
            "num_beams"
        )
    if (past or in_chunks) and (anew := states - GO_ON):
        return (
            f"a {_or(anew)} model does not go on from its state with several tokens at once. Give "
            "the whole text, without past_key_values and prefill_chunk_size"
        )
    gaps = mask[:, :-1] & ~mask[:, 1:]
    if bool(gaps.any()) and (kind := _counts_columns(model, states)):
        return (
            f"rows of the cache have padding in the middle, which {name} counts: it has {kind}. "
            "Give the whole text again, without past_key_values"
        )
    return None


def _of_encoder(model: Any, mask: Tensor | None, *, past: int, in_chunks: bool) -> str | None:
    name = type(model).__name__
    if past:
        return (
            f"the cache of {name} holds what its encoder read before, be it what it reads now or "
            "not. Leave past_key_values out"
        )
    padded = isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all())
    if not padded or mask is None:
        return None
    if in_chunks:
        return (
            f"prefill_chunk_size has {name} forget which tokens of its encoder are padding. "
            "Leave it out"
        )
    relative = hasattr(model.config, "relative_attention_num_buckets")
    if not relative and not bool((mask[:, 0] != 0).all()):
        return (
            f"the encoder of {name} counts padding on the left as places. Pad on the right "
            "(padding_side='right')"
        )
    return None


def _counts_columns(model: Any, states: set[str]) -> str | None:
    """Return what of a model depends on how many columns lie between two tokens."""
    if states:
        return "a state"
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    kinds -= {"full_attention"}
    if kinds:
        return f"layers of {' and '.join(sorted(kinds))}"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "no position_ids"
    return None


def _or(names: set[str]) -> str:
    return " or ".join(sorted(names))
