"""Sparse autoencoders as hooks: observe latents, manipulate concepts, train from a store."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_sae.aligned_batches import AlignedBatches
    from tenterhook_sae.batches import (
        Batches,
        ModelBatches,
        RunBatches,
    )
    from tenterhook_sae.comparison import (
        Comparison,
        compare_saes,
        held_out_rows,
    )
    from tenterhook_sae.concepts import (
        Concepts,
        Manipulation,
    )
    from tenterhook_sae.crosscoder import (
        Crosscoder,
    )
    from tenterhook_sae.errors import (
        BadSetting,
        Diverged,
        NoOther,
        NoRows,
        NoSuchLatent,
        NoTexts,
        NotFinite,
        NotRead,
        OtherCheckpoint,
        SaeExists,
        TrainingsFailed,
        UnknownArchitecture,
        UnreadableSae,
        WrongParts,
        WrongWidth,
    )
    from tenterhook_sae.evaluation import (
        LayerEvaluation,
        ModelEvaluation,
        RowEvaluation,
        evaluate_each,
        evaluate_in_model,
        evaluate_rows,
    )
    from tenterhook_sae.examples import (
        Example,
        find_examples,
        strongest_latents,
        write_page,
    )
    from tenterhook_sae.files import (
        load_sae,
        save_names,
        save_sae,
    )
    from tenterhook_sae.gated import (
        GatedSae,
    )
    from tenterhook_sae.grid import (
        combinations,
        train_saes,
    )
    from tenterhook_sae.matryoshka import (
        MatryoshkaBatchTopKSae,
    )
    from tenterhook_sae.model_crosscoder import ModelCrosscoder
    from tenterhook_sae.models import (
        BatchTopKSae,
        JumpReLUSae,
        L1Sae,
        TopKSae,
    )
    from tenterhook_sae.names import (
        read_names,
        write_names,
    )
    from tenterhook_sae.probing import (
        SparseProbing,
        sparse_probing,
    )
    from tenterhook_sae.progress import (
        Logger,
        TrainingProgress,
        log_to,
    )
    from tenterhook_sae.sae import (
        Sae,
    )
    from tenterhook_sae.search import (
        FoundLatent,
        search_latents,
    )
    from tenterhook_sae.settings import (
        TrainingSettings,
    )
    from tenterhook_sae.sparse_latents import (
        SparseLatents,
    )
    from tenterhook_sae.top_texts import (
        TopText,
    )
    from tenterhook_sae.training import (
        Trainer,
        train_sae,
    )
    from tenterhook_sae.transcoder import (
        SkipTranscoder,
        Transcoder,
    )

_HOMES = {
    "BadSetting": "errors",
    "BatchTopKSae": "models",
    "Batches": "batches",
    "Comparison": "comparison",
    "Concepts": "concepts",
    "AlignedBatches": "aligned_batches",
    "Crosscoder": "crosscoder",
    "ModelCrosscoder": "model_crosscoder",
    "NoOther": "errors",
    "Diverged": "errors",
    "Example": "examples",
    "FoundLatent": "search",
    "GatedSae": "gated",
    "JumpReLUSae": "models",
    "L1Sae": "models",
    "LayerEvaluation": "evaluation",
    "Logger": "progress",
    "Manipulation": "concepts",
    "MatryoshkaBatchTopKSae": "matryoshka",
    "ModelBatches": "batches",
    "ModelEvaluation": "evaluation",
    "NoRows": "errors",
    "NoSuchLatent": "errors",
    "NoTexts": "errors",
    "NotFinite": "errors",
    "NotRead": "errors",
    "OtherCheckpoint": "errors",
    "RowEvaluation": "evaluation",
    "RunBatches": "batches",
    "Sae": "sae",
    "SaeExists": "errors",
    "SkipTranscoder": "transcoder",
    "SparseLatents": "sparse_latents",
    "SparseProbing": "probing",
    "TopKSae": "models",
    "TopText": "top_texts",
    "Trainer": "training",
    "TrainingProgress": "progress",
    "TrainingSettings": "settings",
    "TrainingsFailed": "errors",
    "Transcoder": "transcoder",
    "UnknownArchitecture": "errors",
    "UnreadableSae": "errors",
    "WrongParts": "errors",
    "WrongWidth": "errors",
    "combinations": "grid",
    "compare_saes": "comparison",
    "evaluate_each": "evaluation",
    "evaluate_in_model": "evaluation",
    "evaluate_rows": "evaluation",
    "find_examples": "examples",
    "held_out_rows": "comparison",
    "load_sae": "files",
    "log_to": "progress",
    "read_names": "names",
    "save_names": "files",
    "save_sae": "files",
    "search_latents": "search",
    "sparse_probing": "probing",
    "strongest_latents": "examples",
    "train_sae": "training",
    "train_saes": "grid",
    "write_names": "names",
    "write_page": "examples",
}

__all__ = [
    "AlignedBatches",
    "BadSetting",
    "BatchTopKSae",
    "Batches",
    "Comparison",
    "Concepts",
    "Crosscoder",
    "Diverged",
    "Example",
    "FoundLatent",
    "GatedSae",
    "JumpReLUSae",
    "L1Sae",
    "LayerEvaluation",
    "Logger",
    "Manipulation",
    "MatryoshkaBatchTopKSae",
    "ModelBatches",
    "ModelCrosscoder",
    "ModelEvaluation",
    "NoOther",
    "NoRows",
    "NoSuchLatent",
    "NoTexts",
    "NotFinite",
    "NotRead",
    "OtherCheckpoint",
    "RowEvaluation",
    "RunBatches",
    "Sae",
    "SaeExists",
    "SkipTranscoder",
    "SparseLatents",
    "SparseProbing",
    "TopKSae",
    "TopText",
    "Trainer",
    "TrainingProgress",
    "TrainingSettings",
    "TrainingsFailed",
    "Transcoder",
    "UnknownArchitecture",
    "UnreadableSae",
    "WrongParts",
    "WrongWidth",
    "combinations",
    "compare_saes",
    "evaluate_each",
    "evaluate_in_model",
    "evaluate_rows",
    "find_examples",
    "held_out_rows",
    "load_sae",
    "log_to",
    "read_names",
    "save_names",
    "save_sae",
    "search_latents",
    "sparse_probing",
    "strongest_latents",
    "train_sae",
    "train_saes",
    "write_names",
    "write_page",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
