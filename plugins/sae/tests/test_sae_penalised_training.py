"""A step that goes over latents once comes to what autograd comes to, operation by operation."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tenterhook_sae import GatedSae, JumpReLUSae, L1Sae, Sae, TopKSae
from tenterhook_sae.penalised_training import penalised_pass

KINDS: dict[str, Callable[[], Sae]] = {
    "jumprelu": lambda: JumpReLUSae(64, 12, bandwidth=0.5),
    "jumprelu, uncentred": lambda: JumpReLUSae(64, 12, bandwidth=0.5, center=False),
    "jumprelu, float64": lambda: JumpReLUSae(64, 12, bandwidth=0.5, dtype=torch.float64),
    "gated": lambda: GatedSae(64, 12),
    "gated, uncentred": lambda: GatedSae(64, 12, center=False),
    "gated, float64": lambda: GatedSae(64, 12, dtype=torch.float64),
}


def randomized(sae: Sae, shift: float) -> Sae:
    """Weights that are all different; what decides which latents are active is shifted."""
    torch.manual_seed(1)
    with torch.no_grad():
        for each in sae.parameters():
            each.copy_(torch.randn(each.shape))
        sae.W_dec[5] = 0
        sae.b_enc.add_(shift)
    return sae


def gradients(sae: Sae, loss: Tensor) -> dict[str, Tensor]:
    """What comes back to each weight."""
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad for n, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shift", [0.0, -3.0, -1e3], ids=["many", "few", "none active"])
@pytest.mark.parametrize("weight", [0.0, 0.7], ids=["no penalty", "penalty"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_step_of_autograd(
    kind: str, weight: float, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, gradients and counts, also where thresholds are below 0, for any number of rows."""
    monkeypatch.setattr("tenterhook_sae.models.IN_CACHE", 64 * 7)
    sae = randomized(KINDS[kind](), shift)
    other = copy.deepcopy(sae)
    x = torch.randn(50, 12).to(sae.dtype)
    found = penalised_pass(sae, x, x)
    assert found is not None
    loss = (x - found.reconstruction).square().mean() + found.further_loss
    loss = loss + weight * found.penalty if weight else loss

    pre = other.pre_activations(x)
    latents = other.training_latents(pre)
    expected = other.reconstruct(x, latents)
    wanted = (x - expected).square().mean() + other.further_loss(x, latents, pre)
    penalty = other.sparsity_loss(latents, pre)
    wanted = wanted + weight * penalty if weight else wanted
    torch.testing.assert_close(found.reconstruction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.penalty, penalty)
    torch.testing.assert_close(loss, wanted)
    assert torch.equal(found.counts, (latents != 0).sum(0).to(sae.dtype))
    mine, theirs = gradients(sae, loss), gradients(other, wanted)
    assert mine.keys() >= theirs.keys()
    for name, each in mine.items():
        given = theirs.get(name, torch.zeros_like(each))
        torch.testing.assert_close(each, given, rtol=1e-4, atol=1e-4, msg=name)


class Derived(JumpReLUSae):
    """A kind of somebody's, whose own methods are to be asked."""


def half_frozen() -> Sae:
    """One of which a weight is not trained."""
    found = GatedSae(64, 12)
    found.b_mag.requires_grad_(False)
    return found


@pytest.mark.parametrize(
    "sae",
    [
        L1Sae(64, 12),
        TopKSae(64, 12, 3),
        Derived(64, 12),
        half_frozen(),
        GatedSae(64, 12, dtype=torch.bfloat16),
    ],
    ids=["l1", "topk", "derived", "frozen", "bfloat16"],
)
def test_others_go_by_autograd(sae: Sae) -> None:
    """Other kinds and dtypes, classes derived from ours, and those of which a part is frozen."""
    x = torch.randn(5, 12).to(sae.dtype)
    assert penalised_pass(sae, x, x) is None
