"""A Llama with a full set of hook points, which takes the weights of a Hugging Face model.

The layout is that of Llama (Touvron et al. 2023, arXiv:2302.13971), and of what came of it: Llama 2
and 3, Mistral, Qwen 2, 2.5 and 3. Root mean square norms (arXiv:1910.07467) before each part,
rotary positions (arXiv:2104.09864), several heads of queries to one of keys and values
(arXiv:2305.13245), a gated MLP (arXiv:2002.05202). Attention is written head by head, so that each
head's part can be seen and changed.
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

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""The kinds of Hugging Face models, by their configs' `model_type`, that it takes."""

_ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies are the same for texts of all lengths."""


@attrs.frozen(kw_only=True)
class LlamaConfig:
    """The sizes of a Llama, by the names that transformers has for them."""

    hidden_size: int = size()
    intermediate_size: int = size()
    num_hidden_layers: int = size()
    num_attention_heads: int = size()
    num_key_value_heads: int = size()
    head_dim: int = size()
    vocab_size: int = size()
    max_position_embeddings: int = size()
    rms_norm_eps: float = 1e-6
    hidden_act: str = activation("silu")
    rope_theta: float = 10_000.0
    rope_scale: float = 1.0
    """What rotated queries and keys are multiplied by, as YaRN has it."""
    qk_norm: bool = False
    """Whether queries and keys go through a norm, head by head, before they are rotated."""

    @num_key_value_heads.validator
    def _check_heads(self, attribute: object, count: int) -> None:
        if self.num_attention_heads % count:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide into groups for "
                f"num_key_value_heads={count}."
            )

    @head_dim.validator
    def _check_head(self, attribute: object, size: int) -> None:
        if size % 2:
            raise ValueError(f"head_dim={size} is odd, and rotary positions turn pairs.")

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read the config of a Hugging Face model; `ValueError` for what this model has not."""
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"This Llama takes {', '.join(MODEL_TYPES)}, and the config says "
                f"model_type={config.model_type!r}."
            )
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        sees_all = window is None or window >= config.max_position_embeddings
        if not sees_all and (config.model_type == "mistral" or kinds != {"full_attention"}):
            raise ValueError(
                "In this Llama a token sees all before it, and the config says "
                f"sliding_window={window}."
            )
        rotary = getattr(config, "rope_parameters", None) or {}
        kind = rotary.get("rope_type", "default")
        if kind not in _ROTARY:
            raise ValueError(
                f"This Llama has rotary positions of the kinds {', '.join(_ROTARY)}, and the "
                f"config says rope_type={kind!r}."
            )
        heads = config.num_attention_heads
        return cls(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=config.num_key_value_heads or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            hidden_act=config.hidden_act,
            rope_theta=float(rotary.get("rope_theta", 10_000.0)),
            qk_norm=config.model_type == "qwen3",
        )


class HookedRMSNorm(nn.Module):
    """Division by the root mean square; `hook_scale` sees what is divided by, `(..., 1)`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(size))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `(..., size)`; the square is taken in float32 at least."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        scale = self.hook_scale(self.scale_of(wide))
        normalized: Tensor = self.hook_normalized((wide / scale).to(x.dtype) * self.w)
        return normalized

    def scale_of(self, x: Tensor) -> Tensor:
        """Return what `x`, `(..., size)`, would be divided by, `(..., 1)`."""
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def applied(self, part: Tensor, scale: Tensor) -> Tensor:
        """Put a part of the stream, `(..., size)`, through, at a scale."""
        return part / scale * self.w.detach()


class HookedRotaryAttention(nn.Module):
    """Causal self-attention with rotary positions, head by head.

    `hook_q`, `hook_rot_q` and `hook_z` are `(batch, seq, head, head_dim)`, `hook_k`, `hook_rot_k`
    and `hook_v` the same with the heads of keys and values, `rot` after the turn, `hook_scores` and
    `hook_pattern` `(batch, head, query, key)`, `hook_result` `(batch, seq, head, hidden_size)`.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        heads, few = config.num_attention_heads, config.num_key_value_heads
        d_model, d_head = config.hidden_size, config.head_dim
        self.W_Q = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.empty(few, d_model, d_head))
        self.W_V = nn.Parameter(torch.empty(few, d_model, d_head))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.b_Q = nn.Parameter(torch.zeros(heads, d_head))
        self.b_K = nn.Parameter(torch.zeros(few, d_head))
        self.b_V = nn.Parameter(torch.zeros(few, d_head))
        self.b_O = nn.Parameter(torch.zeros(d_model))
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            nn.init.normal_(weight, std=0.02)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            self.q_norm = HookedRMSNorm(d_head, config.rms_norm_eps)
            self.k_norm = HookedRMSNorm(d_head, config.rms_norm_eps)
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    def forward(self, x: Tensor, visible: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Take and return `(batch, seq, hidden_size)`.

        `visible`, bool `(batch, 1, query, key)`, says what a query sees; `turn` are the cosines and
        sines of the positions, `(batch, seq, 1, head_dim)`.
        """
        q = self.hook_q(self.q_norm(torch.einsum("bsd,hde->bshe", x, self.W_Q) + self.b_Q))
        k = self.hook_k(self.k_norm(torch.einsum("bsd,hde->bshe", x, self.W_K) + self.b_K))
        v = self.hook_v(torch.einsum("bsd,hde->bshe", x, self.W_V) + self.b_V)
        q, k = self.hook_rot_q(turned(q, *turn)), self.hook_rot_k(turned(k, *turn))
        group = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        lowest = torch.finfo(scores.dtype).min
        scores = self.hook_scores(scores.masked_fill(~visible, lowest))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = self.hook_z(torch.einsum("bhqk,bkhe->bqhe", pattern, v))
        result: Tensor = self.hook_result(torch.einsum("bqhe,hed->bqhd", z, self.W_O))
        return result.sum(2) + self.b_O


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs of `x`, `(batch, seq, head, head_dim)`; entry `i` pairs with `i + half`."""
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


class HookedGatedMLP(nn.Module):
    """A gated MLP: `hook_pre` is before `act`, `hook_pre_linear` what its result is multiplied by,
    `hook_post` the product; each is `(batch, seq, intermediate_size)`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        d_model, d_mlp = config.hidden_size, config.intermediate_size
        self.W_gate = nn.Parameter(torch.empty(d_model, d_mlp))
        self.b_gate = nn.Parameter(torch.zeros(d_mlp))
        self.W_in = nn.Parameter(torch.empty(d_model, d_mlp))
        self.b_in = nn.Parameter(torch.zeros(d_mlp))
        self.W_out = nn.Parameter(torch.empty(d_mlp, d_model))
        self.b_out = nn.Parameter(torch.zeros(d_model))
        for weight in (self.W_gate, self.W_in, self.W_out):
            nn.init.normal_(weight, std=0.02)
        self.act = ACTIVATIONS[config.hidden_act]()
        self.hook_pre, self.hook_pre_linear, self.hook_post = HookPoint(), HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `(batch, seq, hidden_size)`."""
        linear = self.hook_pre_linear(x @ self.W_in + self.b_in)
        gate = self.act(self.hook_pre(x @ self.W_gate + self.b_gate))
        post: Tensor = self.hook_post(gate * linear)
        return post @ self.W_out + self.b_out


class HookedLlamaBlock(nn.Module):
    """Attention, then the MLP, each added to the residual stream, `(batch, seq, hidden_size)`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.ln1 = HookedRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = HookedRotaryAttention(config)
        self.ln2 = HookedRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = HookedGatedMLP(config)
        self.hook_resid_pre, self.hook_resid_mid = HookPoint(), HookPoint()
        self.hook_resid_post = HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, x: Tensor, visible: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Take and return the residual stream; `visible` and `turn` are as attention has them."""
        pre = self.hook_resid_pre(x)
        mid = self.hook_resid_mid(pre + self.hook_attn_out(self.attn(self.ln1(pre), visible, turn)))
        post: Tensor = self.hook_resid_post(mid + self.hook_mlp_out(self.mlp(self.ln2(mid))))
        return post


class HookedLlama(HookedTransformer):
    """A Llama whose every step has a name; `model.hook_dict` has them all."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.W_E = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.W_U = nn.Parameter(torch.empty(config.hidden_size, config.vocab_size))
        for weight in (self.W_E, self.W_U):
            nn.init.normal_(weight, std=0.02)
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.register_buffer("frequencies", config.rope_theta**-powers)
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList(
            HookedLlamaBlock(config) for _ in range(config.num_hidden_layers)
        )
        self.ln_final = HookedRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.setup()

    frequencies: Tensor
    """How far each pair turns from one position to the next, radians, `(head_dim / 2,)`."""

    @property
    def n_positions(self) -> int:
        """How many tokens a text may have."""
        return self.config.max_position_embeddings

    def embedded(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the stream before the first block, `(batch, seq, hidden_size)`."""
        found: Tensor = self.hook_embed(self.W_E[input_ids])
        return found

    def placed(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines of the positions, `(batch, seq, 1, head_dim)`."""
        angles = position_ids[..., None].float() * self.frequencies.float()
        angles = torch.cat([angles, angles], -1)[:, :, None]
        scale = self.config.rope_scale
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

    @classmethod
    def from_hugging_face(cls, model: Any) -> Self:
        """Return the same model with hook points: in eval mode, with weights of its own.

        `model` is a causal language model of transformers of one of `MODEL_TYPES`. Its dropout is
        left out. Raises `ValueError` where its config has what this Llama has not.
        """
        rotary = model.model.rotary_emb
        config = attrs.evolve(
            LlamaConfig.of(model.config), rope_scale=float(rotary.attention_scaling)
        )
        ours = cls(config)
        weights = renamed(model.state_dict(), config)
        some = weights["W_E"]
        ours.to(some.device, some.dtype)
        ours.frequencies = rotary.inv_freq.detach().float().clone()  # not in a narrower dtype
        ours.load_state_dict({**weights, "frequencies": ours.frequencies})
        ours.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
        return ours.eval()


def renamed(theirs: Mapping[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """Return the weights of a Hugging Face model under the names of `HookedLlama`, head by head.

    `W_Q` `(heads, hidden_size, head_dim)`, `W_K` and `W_V` the same for the heads of keys and
    values, `W_O` `(heads, head_dim, hidden_size)`; biases that a model has not are zeros.
    """
    embedding = theirs["model.embed_tokens.weight"]

    def bias(name: str, size: int) -> Tensor:
        found = theirs.get(name)
        return embedding.new_zeros(size) if found is None else found

    ours = {
        "W_E": embedding,
        "W_U": theirs.get("lm_head.weight", embedding).T,
        "ln_final.w": theirs["model.norm.weight"],
    }
    d_model, d_mlp, d_head = config.hidden_size, config.intermediate_size, config.head_dim
    for block in range(config.num_hidden_layers):
        here, there = f"blocks.{block}", f"model.layers.{block}"
        ours[f"{here}.ln1.w"] = theirs[f"{there}.input_layernorm.weight"]
        ours[f"{here}.ln2.w"] = theirs[f"{there}.post_attention_layernorm.weight"]
        attn = f"{there}.self_attn"
        few = config.num_key_value_heads
        for letter, heads in (("q", config.num_attention_heads), ("k", few), ("v", few)):
            weight = theirs[f"{attn}.{letter}_proj.weight"]
            mine = letter.upper()
            ours[f"{here}.attn.W_{mine}"] = weight.reshape(heads, d_head, d_model).transpose(1, 2)
            flat = bias(f"{attn}.{letter}_proj.bias", heads * d_head)
            ours[f"{here}.attn.b_{mine}"] = flat.reshape(heads, d_head)
        out = theirs[f"{attn}.o_proj.weight"]
        ours[f"{here}.attn.W_O"] = out.T.reshape(config.num_attention_heads, d_head, d_model)
        ours[f"{here}.attn.b_O"] = bias(f"{attn}.o_proj.bias", d_model)
        if config.qk_norm:
            ours[f"{here}.attn.q_norm.w"] = theirs[f"{attn}.q_norm.weight"]
            ours[f"{here}.attn.k_norm.w"] = theirs[f"{attn}.k_norm.weight"]
        for mine, name, width in (
            ("gate", "gate_proj", d_mlp), ("in", "up_proj", d_mlp), ("out", "down_proj", d_model)
        ):  # fmt: skip
            ours[f"{here}.mlp.W_{mine}"] = theirs[f"{there}.mlp.{name}.weight"].T
            ours[f"{here}.mlp.b_{mine}"] = bias(f"{there}.mlp.{name}.bias", width)
    return ours
