"""A tiny model of each family of transformers, built from its config, and no file."""

from typing import Any

import attrs
import torch
import transformers as hf

WORDS = 97

SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 96,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
WINDOW = {**GROUPED, "sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 1,
}
VISION = {"num_channels": 3, "image_size": 8, "patch_size": 4}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
    **VISION,
}


@attrs.frozen
class Family:
    """How to build a small model of one family."""

    kind: str
    config: str
    """The config's class without `Config`."""
    more: dict[str, Any] = attrs.field(factory=dict)
    model: str = ""
    """The model's class; by default the causal language model of the config."""
    text: str | None = None
    """The config of the text, where that is one of several."""

    def make(self, **settings: Any) -> Any:
        """Return a model with random weights, in eval mode; the same each time."""
        config = getattr(hf, f"{self.config}Config")
        more = {**self.more, **settings}
        if self.text is None:
            made = config(**{**SIZES, **more})
        else:
            text = getattr(hf, f"{self.text}Config")(**{**SIZES, **more.pop("text", {})})
            made = config(text_config=text.to_dict(), **more)
        kind = getattr(hf, self.model or f"{self.config}ForCausalLM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = kind._from_config(made)
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim > 1:  # at the size that configs give, logits hardly differ
                        weight.normal_(std=0.2)
                    else:
                        weight.add_(0.1 * torch.randn_like(weight))
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.eos_token_id = None
        return model.eval()


DENSE, PARALLEL, SANDWICH, POST = "dense", "parallel", "extra norms", "post-norm"
SLIDING, SINKS, MOE, LATENT_KIND = "sliding window", "sinks", "experts", "latent"
ENCODER, TWO, PICTURES, MANY = "encoder", "encoder-decoder", "vision", "multimodal"
HYBRID, STATE = "hybrid", "recurrent"
F = Family

FAMILIES = {
    "Llama": F(DENSE, "Llama", GROUPED),
    "Mistral": F(SLIDING, "Mistral", WINDOW),
    "Ministral": F(SLIDING, "Ministral", WINDOW),
    "Qwen2": F(DENSE, "Qwen2", {"num_key_value_heads": 2}),
    "Qwen3": F(DENSE, "Qwen3", GROUPED),
    "SmolLM3": F(DENSE, "SmolLM3", GROUPED),
    "Granite": F(DENSE, "Granite", {"num_key_value_heads": 2, "residual_multiplier": 0.5}),
    "Starcoder2": F(DENSE, "Starcoder2", {"num_key_value_heads": 2}),
    "Helium": F(DENSE, "Helium", {"num_key_value_heads": 2, "head_dim": 4}),
    "Ernie 4.5": F(DENSE, "Ernie4_5", GROUPED),
    "Seed-OSS": F(DENSE, "SeedOss", GROUPED),
    "Arcee": F(DENSE, "Arcee", GROUPED),
    "Nemotron": F(DENSE, "Nemotron", GROUPED),
    "Gemma": F(DENSE, "Gemma", GROUPED),
    "Phi-3": F(DENSE, "Phi3", {"num_key_value_heads": 2}),
    "OLMo": F(DENSE, "Olmo", {"num_key_value_heads": 2}),
    "GPT-2": F(DENSE, "GPT2", GPT, model="GPT2LMHeadModel"),
    "GPT-BigCode": F(DENSE, "GPTBigCode", GPT),
    "OPT": F(DENSE, "OPT", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "BioGPT": F(DENSE, "BioGpt", model="BioGptForCausalLM"),
    "Phi": F(PARALLEL, "Phi"),
    "GPT-NeoX": F(PARALLEL, "GPTNeoX"),
    "Cohere": F(PARALLEL, "Cohere", {"num_key_value_heads": 2}),
    "Cohere-2": F(PARALLEL, "Cohere2", {"num_key_value_heads": 2, "sliding_window": 4}),
    "StableLM": F(
        PARALLEL,
        "StableLm",
        {"use_parallel_residual": True, "partial_rotary_factor": 0.5, "num_key_value_heads": 2},
    ),
    "Gemma-2": F(SANDWICH, "Gemma2", WINDOW),
    "Gemma-3": F(SANDWICH, "Gemma3Text", WINDOW, model="Gemma3ForCausalLM"),
    "OLMo-2": F(SANDWICH, "Olmo2", {"num_key_value_heads": 2}),
    "OLMo-3": F(SANDWICH, "Olmo3", {"num_key_value_heads": 2, "sliding_window": 4}),
    "GLM-4": F(SANDWICH, "Glm4", GROUPED),
    "EXAONE-4": F(SANDWICH, "Exaone4", {**WINDOW, "sliding_window_pattern": 2}),
    "GPT-OSS": F(SINKS, "GptOss", {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Mixtral": F(MOE, "Mixtral", {**GROUPED, "num_local_experts": 4}),
    "Qwen2-MoE": F(
        MOE, "Qwen2Moe", {**EXPERTS, "num_key_value_heads": 2, "shared_expert_intermediate_size": 8}
    ),
    "Qwen3-MoE": F(MOE, "Qwen3Moe", {**EXPERTS, **GROUPED}),
    "OLMoE": F(MOE, "Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "GraniteMoE": F(
        MOE, "GraniteMoe", {"num_local_experts": 4, "num_experts_per_tok": 2, **GROUPED}
    ),
    "PhiMoE": F(MOE, "Phimoe", {"num_local_experts": 4, "num_key_value_heads": 2}),
    "DBRX": F(
        MOE,
        "Dbrx",
        {"d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
        | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}}
        | {"ffn_config": {"hidden_size": 16, "ffn_hidden_size": 24, "moe_num_experts": 4}},
    ),
    "Llama-4": F(
        MOE,
        "Llama4Text",
        {**GROUPED, "num_local_experts": 4, "intermediate_size_mlp": 24}
        | {"interleave_moe_layer_step": 2, "attention_chunk_size": 8},
        model="Llama4ForCausalLM",
    ),
    "DeepSeek-V3": F(
        LATENT_KIND,
        "DeepseekV3",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | LATENT,
    ),
    "BERT": F(ENCODER, "Bert", model="BertForMaskedLM"),
    "RoBERTa": F(ENCODER, "Roberta", model="RobertaForMaskedLM"),
    "ELECTRA": F(ENCODER, "Electra", {"embedding_size": 16}, model="ElectraForMaskedLM"),
    "DistilBERT": F(
        ENCODER,
        "DistilBert",
        {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24},
        model="DistilBertForMaskedLM",
    ),
    "ModernBERT": F(ENCODER, "ModernBert", {"local_attention": 4}, model="ModernBertForMaskedLM"),
    "DeBERTa-v2": F(ENCODER, "DebertaV2", {"type_vocab_size": 0}, model="DebertaV2ForMaskedLM"),
    "BART": F(TWO, "Bart", BART, model="BartForConditionalGeneration"),
    "T5": F(
        TWO,
        "T5",
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        model="T5ForConditionalGeneration",
    ),
    "Whisper": F(
        TWO,
        "Whisper",
        {**BART, "num_mel_bins": 8, "max_source_positions": 6} | {"max_target_positions": 32},
        model="WhisperForConditionalGeneration",
    ),
    "ViT": F(PICTURES, "ViT", VISION, model="ViTForImageClassification"),
    "DINOv2": F(PICTURES, "Dinov2", VISION, model="Dinov2ForImageClassification"),
    "SigLIP vision": F(PICTURES, "SiglipVision", VISION, model="SiglipVisionModel"),
    "LLaVA": F(
        MANY,
        "Llava",
        {"vision_config": {"model_type": "clip_vision_model", **TOWER}} | {"image_token_index": 95},
        model="LlavaForConditionalGeneration",
        text="Llama",
    ),
    "Qwen2-VL": F(
        MANY,
        "Qwen2VL",
        {"vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}}
        | {"image_token_id": 95, "video_token_id": 94, "vision_start_token_id": 93}
        | {"vision_end_token_id": 92}
        | {
            "text": {
                "num_key_value_heads": 2,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]}
                | {"rope_theta": 1e4},
            }
        },
        model="Qwen2VLForConditionalGeneration",
        text="Qwen2VLText",
    ),
    "GPT-J": F(PARALLEL, "GPTJ", {**GPT, "rotary_dim": 4}),
    "Falcon": F(PARALLEL, "Falcon", {"new_decoder_architecture": False}),
    "Falcon, grouped": F(PARALLEL, "Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon, alibi": F(PARALLEL, "Falcon", {"alibi": True, "multi_query": False}),
    "BLOOM": F(DENSE, "Bloom", {"n_layer": 2, "n_head": 4}),
    "CodeGen": F(PARALLEL, "CodeGen", {**GPT, "rotary_dim": 4, "n_ctx": 64}),
    "GPT": F(DENSE, "OpenAIGPT", GPT, model="OpenAIGPTLMHeadModel"),
    "GPT-Neo": F(
        DENSE,
        "GPTNeo",
        {"num_layers": 2, "num_heads": 4, "window_size": 4}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "MPT": F(DENSE, "Mpt", {"d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "XGLM": F(DENSE, "XGLM", {"d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 4}),
    "DeBERTa": F(
        ENCODER,
        "Deberta",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
        | {"max_relative_positions": 8},
        model="DebertaForMaskedLM",
    ),
    "DeBERTa-v2, relative": F(
        ENCODER,
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
        | {"max_relative_positions": 8},
        model="DebertaV2ForMaskedLM",
    ),
    "MPNet": F(ENCODER, "MPNet", model="MPNetForMaskedLM"),
    "RoFormer": F(ENCODER, "RoFormer", {"embedding_size": 16}, model="RoFormerForMaskedLM"),
    "Jamba": F(
        HYBRID,
        "Jamba",
        {"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2}
        | {"num_key_value_heads": 2, "use_mamba_kernels": False},
    ),
    "Qwen3-Next": F(
        HYBRID,
        "Qwen3Next",
        {"layer_types": ["linear_attention", "full_attention"], **GROUPED, **EXPERTS}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        | {"shared_expert_intermediate_size": 8},
    ),
    "Mamba": F(STATE, "Mamba", {"state_size": 4}),
}
