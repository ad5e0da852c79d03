"""A model with hook points and its tokenizer, as captures and generations of text take it."""

from typing import Any

import attrs

from tenterhook_hook_points.errors import NotAGPT
from tenterhook_hook_points.gpt import HookedGPT
from tenterhook_hook_points.llama import HookedLlama
from tenterhook_transformers import LanguageModel


class HookedLanguageModel(LanguageModel):
    """A language model of `points:`."""

    def describe_model(self) -> dict[str, Any]:
        """Say what made the activations; see `TextModel.describe_model`."""
        return {**super().describe_model(), "config": self._config()}

    def _config(self) -> dict[str, Any]:
        config: Any = self.module.config
        return attrs.asdict(config)


_CLASSES: dict[str, type[HookedGPT | HookedLlama]] = {
    "GPT2LMHeadModel": HookedGPT,
    "LlamaForCausalLM": HookedLlama,
    "MistralForCausalLM": HookedLlama,
    "Qwen2ForCausalLM": HookedLlama,
    "Qwen3ForCausalLM": HookedLlama,
}


def with_points(model: Any, name: str) -> HookedLanguageModel:
    """Return the model with hook points; `NotAGPT` where it is none of `_CLASSES`."""
    module: Any = getattr(model, "module", None)
    hooked_class = _CLASSES.get(type(module).__name__)
    if hooked_class is None:
        raise NotAGPT(name, f"it is a {type(module).__name__}.")
    try:
        hooked = hooked_class.from_hugging_face(module)
    except ValueError as error:
        raise NotAGPT(name, str(error)) from None
    hooked.tokenizer = model.tokenizer
    return HookedLanguageModel(
        hooked, model.tokenizer, model_id=f"points:{name}", revision=model.revision
    )
