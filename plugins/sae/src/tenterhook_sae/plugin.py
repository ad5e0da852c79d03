"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl

_SAES = [
    Extension(
        "TopKSae",
        "tenterhook_sae.models:TopKSae",
        "Sparse autoencoder that keeps the k largest latents of each token.",
        example="tenterhook_sae.contract_examples:top_k",
    ),
    Extension(
        "BatchTopKSae",
        "tenterhook_sae.models:BatchTopKSae",
        "Sparse autoencoder that keeps k latents a token on average.",
        example="tenterhook_sae.contract_examples:batch_top_k",
    ),
    Extension(
        "JumpReLUSae",
        "tenterhook_sae.models:JumpReLUSae",
        "Sparse autoencoder whose latents each have a threshold.",
        example="tenterhook_sae.contract_examples:jump_relu",
    ),
    Extension(
        "L1Sae",
        "tenterhook_sae.models:L1Sae",
        "Sparse autoencoder with ReLU latents, trained with an L1 penalty.",
        example="tenterhook_sae.contract_examples:l1",
    ),
    Extension(
        "GatedSae",
        "tenterhook_sae.gated:GatedSae",
        "Sparse autoencoder that decides apart whether a latent is active and how strong it is.",
        example="tenterhook_sae.contract_examples:gated",
    ),
    Extension(
        "MatryoshkaBatchTopKSae",
        "tenterhook_sae.matryoshka:MatryoshkaBatchTopKSae",
        "Sparse autoencoders within one another, each of use without those around it.",
        example="tenterhook_sae.contract_examples:matryoshka",
    ),
    Extension(
        "Transcoder",
        "tenterhook_sae.transcoder:Transcoder",
        "Sparse latents that take the place of an MLP.",
        example="tenterhook_sae.contract_examples:transcoder",
    ),
    Extension(
        "SkipTranscoder",
        "tenterhook_sae.transcoder:SkipTranscoder",
        "A transcoder with a linear way past its latents.",
        example="tenterhook_sae.contract_examples:skip_transcoder",
    ),
    Extension(
        "Crosscoder",
        "tenterhook_sae.crosscoder:Crosscoder",
        "Sparse latents that several layers share.",
        example="tenterhook_sae.contract_examples:crosscoder",
    ),
    Extension(
        "ModelCrosscoder",
        "tenterhook_sae.model_crosscoder:ModelCrosscoder",
        "Sparse latents that two models share, or that one of them has alone.",
        example="tenterhook_sae.contract_examples:model_crosscoder",
    ),
]


@hookimpl
def tenterhook_detectors() -> Sequence[Extension]:
    """Declare the sparse autoencoders: they detect, and control as well."""
    return _SAES


@hookimpl
def tenterhook_controllers() -> Sequence[Extension]:
    """Declare the sparse autoencoders: they control, and detect as well."""
    return _SAES


@hookimpl
def tenterhook_commands() -> Sequence[Extension]:
    """Declare the commands that train, evaluate and look into sparse autoencoders."""
    return [
        Extension(
            "sae", "tenterhook_sae._cli:sae", "Train, evaluate and look into sparse autoencoders."
        )
    ]
