"""Language models of Hugging Face transformers, with tenterhook's hooks on them.

Importing this imports neither torch nor transformers; each name is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
    "Generation": "generation",
    "LanguageModel": "language_model",
    "load": "model_loader",
    "read": "dataset_source",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
