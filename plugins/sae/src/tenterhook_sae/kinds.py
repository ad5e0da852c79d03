"""The kinds of sparse autoencoder, by what files call them."""

from tenterhook_sae.crosscoder import Crosscoder
from tenterhook_sae.gated import GatedSae
from tenterhook_sae.matryoshka import MatryoshkaBatchTopKSae
from tenterhook_sae.model_crosscoder import ModelCrosscoder
from tenterhook_sae.models import BatchTopKSae, JumpReLUSae, L1Sae, TopKSae
from tenterhook_sae.sae import Sae
from tenterhook_sae.transcoder import SkipTranscoder, Transcoder

_KINDS: tuple[type[Sae], ...] = (
    *(L1Sae, TopKSae, BatchTopKSae, JumpReLUSae, GatedSae, MatryoshkaBatchTopKSae),
    *(Transcoder, SkipTranscoder, Crosscoder, ModelCrosscoder),
)

SAES: dict[str, type[Sae]] = {kind.architecture: kind for kind in _KINDS}
