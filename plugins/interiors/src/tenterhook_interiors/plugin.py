"""What this distribution adds to tenterhook: points inside attention, MLP and experts."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl

_HELP = {
    "attention": "`LAYER:attention`, the pattern of that layer.",
    "attn_out": "What the attention of a block adds to the residual stream.",
    "embed": "What the token embedding returns.",
    "experts": "Ids and weights of the experts that each token is sent to.",
    "final_norm": "What the norm before the unembedding returns.",
    "k": "Keys as they enter the product of an attention.",
    "k_pre": "Keys before rotary positions.",
    "logits": "The logits, as the model returns them.",
    "mlp_act": "What enters the last projection of an MLP.",
    "mlp_out": "What the MLP of a block adds to the residual stream.",
    "mlp_pre": "What enters the nonlinearity of an MLP.",
    "pattern": "Attention patterns, after the softmax.",
    "q": "Queries as they enter the product of an attention.",
    "q_pre": "Queries before rotary positions.",
    "resid_mid": "The residual stream between attention and MLP.",
    "resid_post": "The residual stream after a block.",
    "resid_pre": "The residual stream before a block.",
    "router": "Logits of a router of experts.",
    "scores": "Attention scores, before the softmax.",
    "unembed": "The layer that gives the logits.",
    "v": "Values of an attention.",
    "z": "What each head sums up, before the output projection.",
}


@hookimpl
def tenterhook_points() -> Sequence[Extension]:
    """Declare the points, by the word that their names begin with."""
    return [
        Extension(
            word,
            "tenterhook_interiors.finding:find_points",
            text,
            example="tenterhook_interiors.contract_examples:a_model",
        )
        for word, text in _HELP.items()
    ]
