"""Latents that are never active, and two ways to bring them back while an SAE is trained.

`auxiliary_loss` has them reconstruct what the others miss; `resample` makes them anew from rows
that are reconstructed badly. Which latents are dead, and when either is used, the trainer decides.
"""

from typing import Any

import torch
from torch import Tensor

from tenterhook_sae.sae import Sae


def auxiliary_loss(sae: Sae, x: Tensor, error: Tensor, dead: Tensor, k: int | None) -> Tensor:
    """Return how badly dead latents reconstruct the error, in units of the error.

    AuxK of Gao et al. 2024 (arXiv:2406.04093, appendix A.2), with one difference: a latent that is
    below 0 adds nothing to the reconstruction, and has the gradient that it would have at 0.
    Without, one that is below 0 everywhere would never come back.

    `x` is `(rows, n_inputs)`, `error`, what is left to explain, `(rows, n_outputs)`, `dead` bool
    `(n_latents,)`. At most `k` dead latents count in each row, half as many as there are inputs by
    default. Returns a scalar of `error`'s dtype: 0 where no latent is dead.
    """
    chosen = dead.nonzero().reshape(-1)
    if not len(chosen):
        return error.new_zeros(())
    k = min(len(chosen), k or max(1, sae.n_inputs // 2))
    # The latents that live share b_dec: it is not for the dead to move.
    centered = x - sae.b_dec.detach() if sae.center else x
    pre = torch.addmm(sae.b_enc[chosen], centered, sae.W_enc[:, chosen])
    values, indices = pre.topk(k, sorted=False)
    values = values + (values.relu() - values).detach()
    latents = torch.zeros_like(pre).scatter(-1, indices, values)
    missed = error - (latents @ sae.W_dec[chosen]).to(error.dtype)
    return missed.square().mean() / error.square().mean().clamp_min(1e-30)


def thresholds_of(sae: Sae) -> Tensor | None:
    """Return the thresholds that are learned, `(n_latents,)`; `None` for kinds without."""
    return dict(sae.named_parameters()).get("threshold")


@torch.no_grad()
def resample(
    sae: Sae,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    error: Tensor,
    dead: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Make dead latents anew, each along what is missed of a row; return which, int64.

    As Bricken et al. 2023 ("Towards Monosemanticity", the appendix on resampling), who take the
    row itself and not what is missed of it. A row is drawn with the square of its squared error
    for a weight, so badly reconstructed ones rather. No more latents are made than there are rows
    of which something is missed.

    `x` is `(rows, n_inputs)`, `error` `(rows, n_outputs)`, `dead` bool `(n_latents,)`. The
    SAE's weights and the moments of AdamW for them are changed in place.
    """
    chosen = dead.nonzero().reshape(-1)
    weight = error.square().sum(1).double().square().cpu()
    order = torch.randperm(len(chosen), generator=generator)[: int(weight.count_nonzero())]
    chosen = chosen[order.to(chosen.device)]
    if not len(chosen):
        return chosen
    rows = weight.multinomial(len(chosen), generator=generator)
    rows = rows.to(error.device)
    direction = error[rows]
    encoder = sae.new_encoder_rows(x[rows], direction)
    direction = direction / direction.norm(dim=1, keepdim=True)
    encoder = encoder / encoder.norm(dim=1, keepdim=True).clamp_min(1e-30)
    alive = sae.W_enc[:, ~dead]
    length = float(alive.norm(dim=0).mean()) if alive.shape[1] else 1.0
    sae.W_dec[chosen] = direction
    sae.W_enc[:, chosen] = (sae.resampled_length * length * encoder).T
    sae.b_enc[chosen] = 0
    changed: list[tuple[Tensor, Any]] = [
        (sae.W_dec, chosen),
        (sae.W_enc, (slice(None), chosen)),
        (sae.b_enc, chosen),
    ]
    threshold = thresholds_of(sae)
    if threshold is not None:  # as much lower as the encoder is shorter
        living = float(threshold[~dead].mean()) if alive.shape[1] else 0.0
        threshold[chosen] = sae.resampled_length * living
        changed.append((threshold, chosen))
    for name in sae.begin_at_zero:
        weights = sae.get_parameter(name)
        weights[chosen] = 0
        changed.append((weights, chosen))
    for parameter, index in changed:
        state = optimizer.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name][index] = 0
    return chosen
