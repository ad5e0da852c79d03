"""A `HookedGPT` with its tokenizer, as captures and generations of text take it."""

from typing import Any

import attrs

from tenterhook_hook_points.errors import NotAGPT
from tenterhook_hook_points.gpt import HookedGPT
from tenterhook_transformers import LanguageModel


class HookedLanguageModel(LanguageModel):
    """A language model of `points:`."""

    def describe_model(self) -> dict[str, Any]:
        """Say what made the activations; see `TextModel.describe_model`."""
        return {**super().describe_model(), "config": self._config()}

    def _config(self) -> dict[str, Any]:
        config: Any = self.module.config
        return attrs.asdict(config)


def with_points(model: Any, name: str) -> HookedLanguageModel:
    """Return the model with hook points; `NotAGPT` where it is no GPT-2 with a head."""
    module = getattr(model, "module", None)
    kind = type(module).__name__
    if kind != "GPT2LMHeadModel":
        raise NotAGPT(name, f"it is a {kind}.")
    try:
        hooked = HookedGPT.from_hugging_face(module)
    except ValueError as error:
        raise NotAGPT(name, str(error)) from None
    return HookedLanguageModel(
        hooked, model.tokenizer, model_id=f"points:{name}", revision=model.revision
    )
