"""One of each sparse autoencoder, for a layer of 8 features: what contract tests try."""

import torch
from torch import Tensor

from tenterhook_sae.crosscoder import Crosscoder
from tenterhook_sae.gated import GatedSae
from tenterhook_sae.matryoshka import MatryoshkaBatchTopKSae
from tenterhook_sae.model_crosscoder import ModelCrosscoder
from tenterhook_sae.models import BatchTopKSae, JumpReLUSae, L1Sae, TopKSae
from tenterhook_sae.transcoder import SkipTranscoder, Transcoder


def top_k() -> TopKSae:
    """Return one that keeps the four largest."""
    torch.manual_seed(0)
    return TopKSae(32, 8, 4)


def batch_top_k() -> BatchTopKSae:
    """Return one that keeps four on average."""
    torch.manual_seed(0)
    return BatchTopKSae(32, 8, 4)


def jump_relu() -> JumpReLUSae:
    """Return one with thresholds."""
    torch.manual_seed(0)
    return JumpReLUSae(32, 8)


def l1() -> L1Sae:
    """Return one with a penalty."""
    torch.manual_seed(0)
    return L1Sae(32, 8)


def gated() -> GatedSae:
    """Return one with gates."""
    torch.manual_seed(0)
    return GatedSae(32, 8)


def matryoshka() -> MatryoshkaBatchTopKSae:
    """Return one with two dictionaries within it."""
    torch.manual_seed(0)
    return MatryoshkaBatchTopKSae(32, 8, 4, widths=(4, 16, 32))


def transcoder() -> Transcoder:
    """Return one that keeps what is positive."""
    torch.manual_seed(0)
    return Transcoder(32, 8)


def skip_transcoder() -> SkipTranscoder:
    """Return one that keeps the four largest."""
    torch.manual_seed(0)
    return SkipTranscoder(32, 8, k=4)


def crosscoder() -> Crosscoder:
    """Return one of the layers `before` and `inner`, as the contract's model has them."""
    torch.manual_seed(0)
    return Crosscoder(32, 8, ("before", "inner"), 4)


def model_crosscoder() -> ModelCrosscoder:
    """Return one beside which stands what its own layer gives, as if both models were one."""
    torch.manual_seed(0)
    found = ModelCrosscoder(32, (8, 8), 4)
    found.beside = _same
    return found


def _same(own: Tensor) -> Tensor:
    return own
