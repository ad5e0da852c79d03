"""A step that computes with active latents alone comes to what dense products come to."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tenterhook_sae import (
    BatchTopKSae,
    Crosscoder,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    Sae,
    SkipTranscoder,
    TopKSae,
    Transcoder,
)
from tenterhook_sae.sae import sae_parts
from tenterhook_sae.sparse_training import sparse_pass

KINDS: dict[str, Callable[[], Sae]] = {
    "topk": lambda: TopKSae(64, 12, 3),
    "uncentred": lambda: TopKSae(64, 12, 3, center=False),
    "float64": lambda: TopKSae(64, 12, 8, dtype=torch.float64),
    "batchtopk": lambda: BatchTopKSae(64, 12, 2.5),
    "matryoshka": lambda: MatryoshkaBatchTopKSae(64, 12, 4, widths=(4, 16, 64)),
    "transcoder": lambda: Transcoder(64, 12, 7, 3),
    "skip": lambda: SkipTranscoder(64, 12, 7, 3),
    "crosscoder": lambda: Crosscoder(64, 12, ("a", "b"), 4),
}


def randomized(sae: Sae) -> Sae:
    """Weights that are all different."""
    torch.manual_seed(1)
    with torch.no_grad():
        for each in sae.parameters():
            each.copy_(torch.randn(each.shape))
    return sae


def gradients(sae: Sae, loss: Tensor) -> dict[str, Tensor]:
    """What comes back to each weight."""
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad for n, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bias", [0.0, -3.0, -1e3], ids=["many", "few", "none positive"])
@pytest.mark.parametrize("threshold", [-1.0, 2.0, 1e3], ids=["fresh", "near", "too high"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_dense_step(kind: str, threshold: float, bias: float) -> None:
    """Reconstruction, losses, gradients and what a threshold learns, whatever is active."""
    sae = randomized(KINDS[kind]())
    with torch.no_grad():
        sae.b_enc.add_(bias)
        if isinstance(sae, BatchTopKSae):
            sae.threshold.fill_(threshold)
        elif threshold != 2.0:
            return
    dense = copy.deepcopy(sae)
    x, target = sae_parts(sae, torch.randn(50, sum(sae.parts)).to(sae.dtype))
    found = sparse_pass(sae, x, target)
    assert found is not None
    loss = (target - found.reconstruction).square().mean() + found.further_loss

    pre = dense.pre_activations(x)
    latents = dense.training_latents(pre)
    expected = dense.reconstruct(x, latents)
    wanted = (target - expected).square().mean() + dense.further_loss(target, latents, pre)
    torch.testing.assert_close(found.latents.to_dense(), latents)
    torch.testing.assert_close(found.reconstruction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, wanted)
    mine, theirs = gradients(sae, loss), gradients(dense, wanted)
    for name, each in theirs.items():
        torch.testing.assert_close(mine[name], each, rtol=1e-4, atol=1e-4, msg=name)
    if isinstance(sae, BatchTopKSae) and isinstance(dense, BatchTopKSae):
        torch.testing.assert_close(sae.threshold, dense.threshold)


class Derived(TopKSae):
    """A kind of somebody's, whose own methods are to be asked."""


@pytest.mark.parametrize(
    "sae",
    [
        L1Sae(64, 12),
        JumpReLUSae(64, 12),
        Transcoder(64, 12),
        TopKSae(64, 12, 9),
        TopKSae(64, 12, 2, dtype=torch.bfloat16),
        Derived(64, 12, 2),
    ],
    ids=lambda sae: type(sae).__name__,
)
def test_others_are_dense(sae: Sae) -> None:
    """Kinds without a k, many active latents, other dtypes, and classes derived from ours."""
    x, target = sae_parts(sae, torch.randn(5, sum(sae.parts)).to(sae.dtype))
    assert sparse_pass(sae, x, target) is None


def test_what_is_taken_off_has_its_gradient() -> None:
    """By way of one row's product: the same as through all rows."""
    sae = randomized(L1Sae(20, 6))
    x = torch.randn(30, 6)
    sae.pre_activations(x).square().sum().backward()  # type: ignore[no-untyped-call]
    grads = {name: each.grad for name, each in sae.named_parameters()}
    sae.zero_grad()
    ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).square().sum().backward()  # type: ignore[no-untyped-call]
    for name in ("b_dec", "b_enc", "W_enc"):
        torch.testing.assert_close(grads[name], sae.get_parameter(name).grad, rtol=1e-4, atol=1e-3)
