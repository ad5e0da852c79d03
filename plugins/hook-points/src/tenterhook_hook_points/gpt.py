"""A small GPT with a full set of hook points, which takes the weights of a Hugging Face GPT-2.

To read, to copy, and to do first experiments on. The layout is that of GPT-2 (Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners"): layer norm before each part, learned
positions. Attention is written head by head, so that each head's part can be seen and changed.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import attrs
import torch
from torch import Tensor, nn

from tenterhook_hook_points.point import HookPoint
from tenterhook_hook_points.sizes import ACTIVATIONS, activation, size
from tenterhook_hook_points.transformer import HookedTransformer


@attrs.frozen(kw_only=True)
class GPTConfig:
    """The sizes of a GPT, by the names that transformers has for them."""

    n_layer: int = size()
    n_head: int = size()
    n_embd: int = size()
    n_inner: int = size()
    n_positions: int = size()
    vocab_size: int = size()
    layer_norm_epsilon: float = 1e-5
    activation_function: str = activation("gelu_new")

    @n_head.validator
    def _check_heads(self, attribute: object, n_head: int) -> None:
        if self.n_embd % n_head:
            raise ValueError(f"n_embd={self.n_embd} does not divide into n_head={n_head} heads.")

    @property
    def d_head(self) -> int:
        """The size of one head."""
        return self.n_embd // self.n_head

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read the config of a Hugging Face GPT-2; `ValueError` for what this model has not."""
        for name, value in _NEEDED.items():
            found = getattr(config, name, value)
            if found != value:
                raise ValueError(
                    f"This GPT has {name}={value!r}, and the config says {name}={found!r}."
                )
        return cls(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            n_inner=config.n_inner or 4 * config.n_embd,
            n_positions=config.n_positions,
            vocab_size=config.vocab_size,
            layer_norm_epsilon=config.layer_norm_epsilon,
            activation_function=config.activation_function,
        )


_NEEDED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


class HookedLayerNorm(nn.Module):
    """Layer norm; `hook_scale` sees what is divided by, `(batch, seq, 1)`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.eps = config.layer_norm_epsilon
        self.w = nn.Parameter(torch.ones(config.n_embd))
        self.b = nn.Parameter(torch.zeros(config.n_embd))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `(batch, seq, n_embd)`."""
        x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        normalized: Tensor = self.hook_normalized(x / scale * self.w + self.b)
        return normalized

    def scale_of(self, x: Tensor) -> Tensor:
        """Return what `x`, `(..., n_embd)`, would be divided by, `(..., 1)`."""
        return (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt()

    def applied(self, part: Tensor, scale: Tensor) -> Tensor:
        """Put a part of the stream, `(..., n_embd)`, through, at a scale and without the bias."""
        return (part - part.mean(-1, keepdim=True)) / scale * self.w.detach()


class HookedAttention(nn.Module):
    """Causal self-attention, head by head.

    `hook_q`, `hook_k`, `hook_v` and `hook_z` are `(batch, seq, head, d_head)`, `hook_scores` and
    `hook_pattern` `(batch, head, query, key)`, `hook_result` `(batch, seq, head, n_embd)`: what
    each head adds to the residual stream.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        heads, d_model, d_head = config.n_head, config.n_embd, config.d_head
        self.W_Q = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.b_Q = nn.Parameter(torch.zeros(heads, d_head))
        self.b_K = nn.Parameter(torch.zeros(heads, d_head))
        self.b_V = nn.Parameter(torch.zeros(heads, d_head))
        self.b_O = nn.Parameter(torch.zeros(d_model))
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            nn.init.normal_(weight, std=0.02)
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Take and return `(batch, seq, n_embd)`; `visible`, bool, says what a query sees.

        That is `(batch, 1, query, key)`.
        """
        q = self.hook_q(torch.einsum("bsd,hde->bshe", x, self.W_Q) + self.b_Q)
        k = self.hook_k(torch.einsum("bsd,hde->bshe", x, self.W_K) + self.b_K)
        v = self.hook_v(torch.einsum("bsd,hde->bshe", x, self.W_V) + self.b_V)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        lowest = torch.finfo(scores.dtype).min
        scores = self.hook_scores(scores.masked_fill(~visible, lowest))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = self.hook_z(torch.einsum("bhqk,bkhe->bqhe", pattern, v))
        result: Tensor = self.hook_result(torch.einsum("bqhe,hed->bqhd", z, self.W_O))
        return result.sum(2) + self.b_O


class HookedMLP(nn.Module):
    """Two linear maps; `hook_pre` and `hook_post`, `(batch, seq, n_inner)`, are around `act`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.n_embd, config.n_inner))
        self.b_in = nn.Parameter(torch.zeros(config.n_inner))
        self.W_out = nn.Parameter(torch.empty(config.n_inner, config.n_embd))
        self.b_out = nn.Parameter(torch.zeros(config.n_embd))
        for weight in (self.W_in, self.W_out):
            nn.init.normal_(weight, std=0.02)
        self.act = ACTIVATIONS[config.activation_function]()
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `(batch, seq, n_embd)`."""
        post: Tensor = self.hook_post(self.act(self.hook_pre(x @ self.W_in + self.b_in)))
        return post @ self.W_out + self.b_out


class HookedBlock(nn.Module):
    """Attention, then the MLP, each added to the residual stream, `(batch, seq, n_embd)`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln1, self.attn = HookedLayerNorm(config), HookedAttention(config)
        self.ln2, self.mlp = HookedLayerNorm(config), HookedMLP(config)
        self.hook_resid_pre, self.hook_resid_mid = HookPoint(), HookPoint()
        self.hook_resid_post = HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, x: Tensor, visible: Tensor, where: None = None) -> Tensor:
        """Take and return the residual stream, `(batch, seq, n_embd)`.

        `visible`, bool `(batch, 1, query, key)`, says what each query sees; `where` the tokens are
        the embeddings have said.
        """
        pre = self.hook_resid_pre(x)
        mid = self.hook_resid_mid(pre + self.hook_attn_out(self.attn(self.ln1(pre), visible)))
        post: Tensor = self.hook_resid_post(mid + self.hook_mlp_out(self.mlp(self.ln2(mid))))
        return post


class HookedGPT(HookedTransformer):
    """A GPT whose every step has a name; `model.hook_dict` has them all."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.W_E = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.W_pos = nn.Parameter(torch.empty(config.n_positions, config.n_embd))
        self.W_U = nn.Parameter(torch.empty(config.n_embd, config.vocab_size))
        for weight in (self.W_E, self.W_pos, self.W_U):
            nn.init.normal_(weight, std=0.02)
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.blocks = nn.ModuleList(HookedBlock(config) for _ in range(config.n_layer))
        self.ln_final = HookedLayerNorm(config)
        self.setup()

    @property
    def n_positions(self) -> int:
        """How many tokens a text may have."""
        return self.config.n_positions

    def embedded(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the stream before the first block, `(batch, seq, n_embd)`."""
        what: Tensor = self.hook_embed(self.W_E[input_ids])
        where: Tensor = self.hook_pos_embed(self.W_pos[position_ids])
        return what + where

    @classmethod
    def from_hugging_face(cls, model: Any) -> Self:
        """Return the same model with hook points: in eval mode, with weights of its own.

        `model` is a `GPT2LMHeadModel` of transformers. Its dropout is left out. Raises
        `ValueError` where its config has what this GPT has not.
        """
        ours = cls(GPTConfig.of(model.config))
        weights = renamed(model.state_dict(), ours.config)
        some = next(iter(weights.values()))
        ours.to(some.device, some.dtype).load_state_dict(weights)
        ours.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
        return ours.eval()


def renamed(theirs: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Return the weights of a Hugging Face GPT-2 under the names of `HookedGPT`, head by head.

    `W_Q`, `W_K`, `W_V` `(heads, n_embd, d_head)`, `W_O` `(heads, d_head, n_embd)`; views where
    they can be.
    """
    ours = {
        "W_E": theirs["transformer.wte.weight"],
        "W_pos": theirs["transformer.wpe.weight"],
        "W_U": theirs["lm_head.weight"].T,
        "ln_final.w": theirs["transformer.ln_f.weight"],
        "ln_final.b": theirs["transformer.ln_f.bias"],
    }
    heads, d_head = config.n_head, config.d_head
    for block in range(config.n_layer):
        here, there = f"blocks.{block}", f"transformer.h.{block}"
        for mine, name in (("ln1", "ln_1"), ("ln2", "ln_2")):
            ours[f"{here}.{mine}.w"] = theirs[f"{there}.{name}.weight"]
            ours[f"{here}.{mine}.b"] = theirs[f"{there}.{name}.bias"]
        weights = theirs[f"{there}.attn.c_attn.weight"].chunk(3, dim=1)
        biases = theirs[f"{there}.attn.c_attn.bias"].chunk(3)
        for letter, weight, bias in zip("QKV", weights, biases, strict=True):
            ours[f"{here}.attn.W_{letter}"] = weight.reshape(-1, heads, d_head).transpose(0, 1)
            ours[f"{here}.attn.b_{letter}"] = bias.reshape(heads, d_head)
        out = theirs[f"{there}.attn.c_proj.weight"]
        ours[f"{here}.attn.W_O"] = out.reshape(heads, d_head, -1)
        ours[f"{here}.attn.b_O"] = theirs[f"{there}.attn.c_proj.bias"]
        for mine, name in (("in", "c_fc"), ("out", "c_proj")):
            ours[f"{here}.mlp.W_{mine}"] = theirs[f"{there}.mlp.{name}.weight"]
            ours[f"{here}.mlp.b_{mine}"] = theirs[f"{there}.mlp.{name}.bias"]
    return ours
