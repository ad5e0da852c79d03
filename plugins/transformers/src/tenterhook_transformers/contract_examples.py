"""What `tenterhook plugins check` tries the standard names of layers on."""

import torch
from torch import nn


def a_model() -> nn.Module:
    """Make a small Llama from its config, with no network; the same weights each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = LlamaForCausalLM(config)
    return model.eval()
