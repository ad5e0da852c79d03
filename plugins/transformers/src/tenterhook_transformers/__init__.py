"""Language models of Hugging Face transformers, with tenterhook's hooks on them.

Importing this imports neither torch nor transformers; each name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_transformers.dataset_source import read
    from tenterhook_transformers.errors import (
        BadConversation,
        EmptyText,
        MissingWeights,
        ModelWithoutTokenizer,
        NoChatTemplate,
        NotOneToken,
        OtherSequence,
        TooLong,
        UnknownDataset,
        UnknownModel,
    )
    from tenterhook_transformers.generation import Generation
    from tenterhook_transformers.language_model import LanguageModel
    from tenterhook_transformers.model_loader import load

__all__ = [
    "BadConversation",
    "EmptyText",
    "Generation",
    "LanguageModel",
    "MissingWeights",
    "ModelWithoutTokenizer",
    "NoChatTemplate",
    "NotOneToken",
    "OtherSequence",
    "TooLong",
    "UnknownDataset",
    "UnknownModel",
    "load",
    "read",
]

_HOMES = {
    **dict.fromkeys(__all__, "errors"),
    "Generation": "generation",
    "LanguageModel": "language_model",
    "load": "model_loader",
    "read": "dataset_source",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
