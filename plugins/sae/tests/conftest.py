"""The small language model, and a sparse autoencoder of each kind for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tenterhook_tiny
from tenterhook_sae import (
    BatchTopKSae,
    GatedSae,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    Sae,
    TopKSae,
)

N_LATENTS, N_INPUTS = 256, 128

KINDS: dict[str, Callable[..., Sae]] = {
    "topk": lambda n=N_LATENTS, d=N_INPUTS, **more: TopKSae(n, d, min(8, n), **more),
    "batchtopk": lambda n=N_LATENTS, d=N_INPUTS, **more: BatchTopKSae(n, d, min(8, n), **more),
    "jumprelu": lambda n=N_LATENTS, d=N_INPUTS, **more: JumpReLUSae(n, d, **more),
    "l1": lambda n=N_LATENTS, d=N_INPUTS, **more: L1Sae(n, d, **more),
    "gated": lambda n=N_LATENTS, d=N_INPUTS, **more: GatedSae(n, d, **more),
    "matryoshka": lambda n=N_LATENTS, d=N_INPUTS, **more: MatryoshkaBatchTopKSae(
        n, d, min(8, n), **more
    ),
}


@pytest.fixture(scope="session")
def loaded() -> Any:
    """The small model, loaded once."""
    torch.set_num_threads(1)
    return tenterhook_tiny.load("")


@pytest.fixture
def lm(loaded: Any) -> Any:
    """The small model, with nothing of ours left on it afterwards."""
    yield loaded
    loaded.layers.clear(including_permanent=True)


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest) -> Callable[..., Sae]:
    """Make a sparse autoencoder of a kind, of random weights."""

    def made(*args: Any, **settings: Any) -> Sae:
        torch.manual_seed(0)
        sae = KINDS[request.param](*args, **settings)
        if isinstance(sae, BatchTopKSae):
            sae.threshold.fill_(1.0)
        return sae

    return made


@pytest.fixture
def sae() -> Sae:
    """A sparse autoencoder that fits the small model."""
    torch.manual_seed(0)
    return KINDS["topk"]()
