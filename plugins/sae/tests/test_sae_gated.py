"""Gated SAEs against the paper, written out row by row."""

import pytest
import torch
from torch import Tensor

from tenterhook_sae import GatedSae


def randomized(sae: GatedSae) -> GatedSae:
    """Random weights everywhere."""
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
    return sae


def by_the_paper(sae: GatedSae, x: Tensor) -> tuple[Tensor, Tensor]:
    """The latents, and what passes the gate, one latent of one row at a time."""
    w = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    latents, opened = torch.zeros(len(x), sae.n_latents), torch.zeros(len(x), sae.n_latents)
    for r, row in enumerate(x - w["b_dec"] if sae.center else x):
        for i in range(sae.n_latents):
            gate = row @ w["W_enc"][:, i] + w["b_enc"][i]
            strength = row @ (w["W_enc"][:, i] * w["r_mag"][i].exp()) + w["b_mag"][i]
            if gate > 0:
                latents[r, i], opened[r, i] = max(strength, torch.tensor(0.0)), gate
    return latents, opened


@pytest.mark.parametrize("center", [True, False], ids=["centered", "not centered"])
def test_it_is_the_papers(center: bool) -> None:
    """Dense and sparse; a gate may be open for what is not positive, which is 0."""
    torch.manual_seed(0)
    sae = randomized(GatedSae(20, 6, center=center))
    x = torch.randn(9, 6)
    latents, opened = by_the_paper(sae, x)

    torch.testing.assert_close(sae.encode(x), latents)
    torch.testing.assert_close(sae.encode_sparse(x).to_dense(), latents)
    torch.testing.assert_close(sae(x), latents @ sae.W_dec + sae.b_dec)
    assert ((opened > 0) & (latents == 0)).any()
    assert sae.b_gate is sae.b_enc


def test_its_losses_are_the_papers() -> None:
    """The penalty is on what passes the gate; the second error leaves the decoder alone."""
    torch.manual_seed(0)
    sae = randomized(GatedSae(20, 6))
    sae.normalize_decoder()
    x = torch.randn(9, 6)
    _, opened = by_the_paper(sae, x)
    pre = sae.pre_activations(x)
    latents = sae.training_latents(pre)

    torch.testing.assert_close(sae.sparsity_loss(latents, pre), opened.sum(1).mean())
    further = sae.further_loss(x, latents, pre)
    again = opened @ sae.W_dec.detach() + sae.b_dec.detach()
    torch.testing.assert_close(further, (x - again).square().mean())
    further.backward()  # type: ignore[no-untyped-call]
    assert sae.W_dec.grad is None
    assert sae.b_enc.grad is not None
    assert sae.b_enc.grad.any()
    assert sae.b_mag.grad is None


def test_the_gate_learns_from_its_own_losses_alone() -> None:
    """What the latents are used for has no gradient for the bias of the gate."""
    torch.manual_seed(0)
    sae = randomized(GatedSae(20, 6))
    x = torch.randn(9, 6)
    sae.decode(sae.training_latents(sae.pre_activations(x))).sum().backward()  # type: ignore[no-untyped-call]

    assert sae.b_enc.grad is None
    assert sae.b_mag.grad is not None
    assert sae.r_mag.grad is not None


def test_rescaling_is_exact() -> None:
    """What it did to `x` it does to `factor * x`."""
    torch.manual_seed(0)
    sae, x = randomized(GatedSae(20, 6)), torch.randn(9, 6)
    latents, output = sae.encode(x), sae(x)
    sae.rescale(4.0)

    torch.testing.assert_close(sae.encode(4 * x), 4 * latents)
    torch.testing.assert_close(sae(4 * x), 4 * output)
