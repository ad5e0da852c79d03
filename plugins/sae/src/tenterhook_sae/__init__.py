"""Sparse autoencoders as hooks: observe latents, manipulate concepts, train from a store."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_sae.concepts import Concepts, Manipulation
    from tenterhook_sae.errors import (
        BadSetting,
        NoRows,
        NoSuchLatent,
        NoTexts,
        NotFinite,
        OtherCheckpoint,
        SaeExists,
        UnknownArchitecture,
        UnreadableSae,
        WrongWidth,
    )
    from tenterhook_sae.files import load_sae, save_sae
    from tenterhook_sae.models import BatchTopKSae, JumpReLUSae, L1Sae, TopKSae
    from tenterhook_sae.sae import Sae
    from tenterhook_sae.sparse_latents import SparseLatents
    from tenterhook_sae.top_texts import TopText

_HOMES = {
    "BadSetting": "errors",
    "BatchTopKSae": "models",
    "Concepts": "concepts",
    "JumpReLUSae": "models",
    "L1Sae": "models",
    "Manipulation": "concepts",
    "NoRows": "errors",
    "NoSuchLatent": "errors",
    "NoTexts": "errors",
    "NotFinite": "errors",
    "OtherCheckpoint": "errors",
    "Sae": "sae",
    "SaeExists": "errors",
    "SparseLatents": "sparse_latents",
    "TopKSae": "models",
    "TopText": "top_texts",
    "UnknownArchitecture": "errors",
    "UnreadableSae": "errors",
    "WrongWidth": "errors",
    "load_sae": "files",
    "save_sae": "files",
}

__all__ = [
    "BadSetting",
    "BatchTopKSae",
    "Concepts",
    "JumpReLUSae",
    "L1Sae",
    "Manipulation",
    "NoRows",
    "NoSuchLatent",
    "NoTexts",
    "NotFinite",
    "OtherCheckpoint",
    "Sae",
    "SaeExists",
    "SparseLatents",
    "TopKSae",
    "TopText",
    "UnknownArchitecture",
    "UnreadableSae",
    "WrongWidth",
    "load_sae",
    "save_sae",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
