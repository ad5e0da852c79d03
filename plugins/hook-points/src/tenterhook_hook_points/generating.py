"""Generation from a model with hook points, by transformers' own `generate`.

`generate` wants a model of transformers, with a config and logits in an object. One is put around
ours for the length of a call. There is no cache of keys and values: every step runs the whole text
through our model, where hooks and open scopes see it.
"""

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class Generating(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A `HookedTransformer` as `generate` takes models."""

    config_class = PretrainedConfig

    def __init__(self, hooked: Any) -> None:
        sizes: dict[str, Any] = {
            "vocab_size": hooked.W_U.shape[1],
            "max_position_embeddings": hooked.n_positions,
            "num_hidden_layers": len(hooked.blocks),
        }
        super().__init__(PretrainedConfig(**sizes))
        self.hooked = hooked
        settings = hooked.generation_config
        self.generation_config = settings or GenerationConfig()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **rest: Any,
    ) -> Any:
        """Return the logits `(batch, seq, vocab)`, as transformers has them."""
        return CausalLMOutput(logits=self.hooked(input_ids, attention_mask, position_ids))


def generate(hooked: Any, input_ids: Tensor, settings: dict[str, Any]) -> Any:
    """Go on with ids `(batch, seq)`; `settings` are those of transformers' `generate`."""
    model: Any = Generating(hooked)
    model.train(hooked.training)
    return model.generate(input_ids, **{**settings, "use_cache": False})
