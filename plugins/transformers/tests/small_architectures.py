"""Small models of many architectures of transformers, built from their configs, and no file."""

from typing import Any

import attrs
import torch
import transformers as hf

WORDS, PAD, NEVER = 97, 0, 96
"""How many token ids there are; the padding's; one that ends no row, which models want named."""

SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": PAD,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA2 = {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 4}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "projection_dim": 16,
}


@attrs.frozen
class Architecture:
    """How to build a small model of one family."""

    kind: str
    """What the docs call it."""

    name: str
    """Of the classes: `Llama` of `LlamaConfig` and `LlamaForCausalLM`."""

    layer: str
    """The last block, whose activations are compared."""

    more: dict[str, Any] = attrs.field(factory=dict)
    """Settings of its own."""

    model: str = "{}ForCausalLM"
    config: str = "{}Config"
    text: str | None = None
    """The class of the config of the text, where that is one of several."""

    near: float = 1e-9
    """How far rows may be apart, where the model itself computes a part in float32."""
    dtype: torch.dtype = torch.float64
    """Attention whose softmax is float32 gives nan for padding in float64."""

    part: str | None = None
    """What is attached to, where the model has two sequences."""

    @property
    def first(self) -> str:
        """The first block, which is steered."""
        path, _, _ = self.layer.rpartition(".")
        return f"{path}.0"

    def make(self, seed: int = 0) -> Any:
        """Return a model with random weights, in eval mode."""
        torch.manual_seed(seed)
        config = getattr(hf, self.config.format(self.name))
        if self.text is None:
            settings = config(**{**SIZES, **self.more})
        else:
            more = dict(self.more)
            text = getattr(hf, self.text)(**{**SIZES, **more.pop("text", {})}).to_dict()
            settings = config(text_config=text, pad_token_id=PAD, **more)
        model = getattr(hf, self.model.format(self.name))._from_config(
            settings,
            experts_implementation="eager",  # the others know no float64
        )
        for weight in model.parameters():
            if weight.ndim > 1:  # at the size that configs give, logits hardly differ
                torch.nn.init.normal_(weight, std=0.2)
        model.generation_config.eos_token_id = None
        return model.to(self.dtype).eval()


DENSE, EXPERT, WINDOW = "dense", "mixture of experts", "sliding window"
STATE, HYBRID, TWO, MANY = "recurrent", "hybrid", "encoder-decoder", "multimodal"
BLOCK = "model.layers.1"
A = Architecture

ARCHITECTURES = {
    "Llama": A(DENSE, "Llama", BLOCK),
    "GPT-2": A(DENSE, "GPT2", "transformer.h.1", GPT2, model="GPT2LMHeadModel"),
    "GPT-NeoX": A(DENSE, "GPTNeoX", "gpt_neox.layers.1"),
    "GPT-J": A(DENSE, "GPTJ", "transformer.h.1", GPT2 | {"rotary_dim": 4}, near=1e-6),
    "OPT": A(DENSE, "OPT", "model.decoder.layers.1", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "Falcon": A(DENSE, "Falcon", "transformer.h.1", {"new_decoder_architecture": False}),
    "Phi": A(DENSE, "Phi", BLOCK),
    "Qwen2": A(DENSE, "Qwen2", BLOCK),
    "Qwen3": A(DENSE, "Qwen3", BLOCK, {"head_dim": 8}),
    "Gemma": A(DENSE, "Gemma", BLOCK, {"head_dim": 8}),
    "OLMo-2": A(DENSE, "Olmo2", BLOCK),
    "Mixtral": A(EXPERT, "Mixtral", BLOCK, EXPERTS),
    "Qwen2-MoE": A(
        EXPERT,
        "Qwen2Moe",
        BLOCK,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        | {"shared_expert_intermediate_size": 8},
    ),
    "DeepSeek-V3": A(
        EXPERT,
        "DeepseekV3",
        BLOCK,
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8}
        | {"q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
        | {"num_key_value_heads": 2},
        near=1e-6,
    ),
    "OLMoE": A(EXPERT, "Olmoe", BLOCK, {"num_experts": 4, "num_experts_per_tok": 2}),
    "Mistral": A(WINDOW, "Mistral", BLOCK, {"sliding_window": 6}),
    "Gemma-2": A(
        WINDOW,
        "Gemma2",
        BLOCK,
        {"sliding_window": 6, "head_dim": 8},
        near=1e-4,
        dtype=torch.float32,
    ),
    "Gemma-3": A(
        WINDOW,
        "Gemma3",
        BLOCK,
        {"sliding_window": 6, "head_dim": 8}
        | {"layer_types": ["sliding_attention", "full_attention"]},
        config="{}TextConfig",
    ),
    "Mamba": A(STATE, "Mamba", "backbone.layers.1", {"state_size": 4}, near=1e-6),
    "Mamba-2": A(STATE, "Mamba2", "backbone.layers.1", MAMBA2, near=1e-5),
    "FalconMamba": A(STATE, "FalconMamba", "backbone.layers.1", {"state_size": 4}, near=1e-6),
    "RWKV": A(STATE, "Rwkv", "rwkv.blocks.1", {"attention_hidden_size": 16}, near=1e-5),
    "RecurrentGemma": A(
        HYBRID,
        "RecurrentGemma",
        "model.layers.2",
        {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 32},
        near=1e-5,
    ),
    "Jamba": A(
        HYBRID,
        "Jamba",
        "model.layers.1",
        {"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2},
        near=1e-5,
    ),
    "Bamba": A(
        HYBRID,
        "Bamba",
        "model.layers.1",
        {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
        | {"mamba_chunk_size": 4, "attn_layer_indices": [1]},
        near=1e-5,
    ),
    "Zamba": A(
        HYBRID,
        "Zamba",
        "model.layers.2",
        {"mamba_d_state": 4, "mamba_dt_rank": 4, "n_mamba_heads": 2, "num_hidden_layers": 3}
        | {"num_key_value_heads": 2, "attention_hidden_size": 32, "attention_head_dim": 16}
        | {"layers_block_type": ["mamba", "hybrid", "hybrid"]},
        near=1e-5,
    ),
    "Zamba-2": A(
        HYBRID,
        "Zamba2",
        "model.layers.2",
        {"mamba_d_state": 8, "mamba_ngroups": 1, "mamba_headdim": 8, "n_mamba_heads": 4}
        | {"num_hidden_layers": 3, "num_key_value_heads": 2, "chunk_size": 4}
        | {"layers_block_type": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1},
        near=1e-3,
    ),
    "Nemotron-H": A(
        HYBRID,
        "NemotronH",
        "model.layers.2",
        {"layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3}
        | {"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1}
        | {"chunk_size": 4, "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 8, "moe_shared_expert_intermediate_size": 8},
        near=1e-3,
    ),
    "Qwen3-Next": A(
        HYBRID,
        "Qwen3Next",
        BLOCK,
        {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 4}
        | {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
        | {"shared_expert_intermediate_size": 8},
        near=1e-5,
    ),
    "LFM2": A(
        HYBRID,
        "Lfm2",
        BLOCK,
        {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "T5": A(
        TWO,
        "T5",
        "block.1",
        T5 | {"decoder_start_token_id": 1},
        model="{}ForConditionalGeneration",
        part="decoder",
    ),
    "BART": A(
        TWO, "Bart", "layers.1", BART, model="{}ForConditionalGeneration", part="model.decoder"
    ),
    "Marian": A(TWO, "Marian", "layers.1", BART, model="{}MTModel", part="model.decoder"),
    "LLaVA": A(
        MANY,
        "Llava",
        "model.language_model.layers.1",
        {"vision_config": {"model_type": "clip_vision_model", **VISION}, "image_token_index": 95},
        model="{}ForConditionalGeneration",
        text="LlamaConfig",
    ),
    "Qwen2-VL": A(
        MANY,
        "Qwen2VL",
        "model.language_model.layers.1",
        {"vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}}
        | {"image_token_id": 95, "video_token_id": 94, "vision_start_token_id": 93}
        | {"vision_end_token_id": 92}
        | {
            "text": {
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}
                | {"rope_theta": 1e4}
            }
        },
        model="{}ForConditionalGeneration",
        text="Qwen2VLTextConfig",
    ),
    "PaliGemma": A(
        MANY,
        "PaliGemma",
        "model.language_model.layers.1",
        {"vision_config": {"model_type": "siglip_vision_model", **VISION}, "image_token_index": 95}
        | {"text": {"head_dim": 8, "model_type": "gemma"}, "projection_dim": 16},
        model="{}ForConditionalGeneration",
        text="GemmaConfig",
    ),
}
