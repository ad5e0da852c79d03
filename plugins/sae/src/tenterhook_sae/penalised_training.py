"""A step of training, for kinds that a penalty makes sparse, in one pass over latents each way.

Autograd goes through memory once for each operation. Here all that is done to the latents, forward
and backward, is done to as many rows at once as stay in the cache; products are of all rows. It
comes to the same but for rounding, which `test_sae_penalised_training.py` holds, and `models` and
`gated` say what it is. See `benchmarks/bench_sae_training.py` for what it saves.
"""

from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_sae.gated import GatedSae
from tenterhook_sae.models import JumpReLUSae, in_parts
from tenterhook_sae.sae import Sae


@attrs.frozen(eq=False)
class PenalisedPass:
    """What a step has from its way forward."""

    reconstruction: Tensor
    """`(rows, n_outputs)`."""
    further_loss: Tensor
    """A scalar; see `Sae.further_loss`."""
    penalty: Tensor
    """A scalar; see `Sae.sparsity_loss`."""
    counts: Tensor
    """In how many rows each latent is active, `(n_latents,)`."""


def penalised_pass(sae: Sae, x: Tensor, target: Tensor) -> PenalisedPass | None:
    """Return what training has of rows `x` `(rows, n_inputs)`, with gradients for all weights.

    `None` for other kinds, dtypes and devices; and for classes derived from ours, whose own methods
    would not be asked.
    """
    if sae.device.type != "cpu" or sae.dtype not in (torch.float32, torch.float64):
        return None
    if not all(each.requires_grad for each in sae.parameters()):
        return None
    run: Any
    if type(sae) is JumpReLUSae:
        run = _JumpReLUStep.apply
        found, penalty, counts = run(
            sae.encoder_rows(x.detach()).detach(),
            *(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold),
            *(sae.center, sae.bandwidth),
        )
        return PenalisedPass(found, target.new_zeros(()), penalty, counts)
    if type(sae) is GatedSae:
        run = _GatedStep.apply
        found, opened, penalty, counts = run(
            sae.encoder_rows(x.detach()).detach(),
            *(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.b_mag, sae.r_mag),
            sae.center,
        )
        return PenalisedPass(found, (target - opened).square().mean(), penalty, counts)
    return None


class _JumpReLUStep(torch.autograd.Function):
    """Reconstructions and L0 of a `JumpReLUSae`; equations 11 and 12 of arXiv:2407.14435."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        encoder, bias, decoder, offset, threshold, ctx.center, ctx.bandwidth = given
        pre = torch.addmm(bias, rows, encoder)
        latents = torch.empty_like(pre)
        counts, above = torch.zeros_like(threshold), torch.zeros_like(threshold)
        least = threshold.clamp_min(0)
        is_same = bool((threshold >= 0).all())
        for some, into in in_parts(pre, latents):
            torch.sub(some, least, out=into)
            counts += into.gt_(0).sum(0)
            into.mul_(some)
            if not is_same:  # the penalty counts by the threshold as it is
                above += (some > threshold).sum(0)
        ctx.save_for_backward(rows, encoder, decoder, threshold, pre, latents)
        ctx.mark_non_differentiable(counts)
        penalty = (counts if is_same else above).sum() / len(rows)
        return torch.addmm(offset, latents, decoder), penalty, counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder, decoder, threshold, pre, latents = ctx.saved_tensors
        of_output, of_penalty, _ = grads
        grad = of_output @ decoder.T
        near_count, near_sum, of_bias = torch.zeros(3, len(threshold), dtype=pre.dtype)
        for some, active, of_some in in_parts(pre, latents, grad):
            near = (some - threshold).div_(ctx.bandwidth).abs_().lt_(0.5)
            near_count += near.sum(0)
            near_sum += near.mul_(of_some).sum(0)
            of_bias += of_some.mul_(active.sign()).sum(0)
        of_threshold = threshold * near_sum + near_count * (of_penalty / len(rows))
        of_offset = of_output.sum(0)
        if ctx.center:
            of_offset -= encoder @ of_bias
        return (
            *(None, rows.T @ grad, of_bias, latents.T @ of_output, of_offset),
            *(of_threshold.div_(-ctx.bandwidth), None, None),
        )


class _GatedStep(torch.autograd.Function):
    """Both reconstructions and the penalty of a `GatedSae`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        encoder, b_gate, decoder, offset, b_mag, r_mag, ctx.center = given
        pre = rows @ encoder
        latents, opened = torch.empty_like(pre), torch.empty_like(pre)
        scale, lengths = r_mag.exp(), decoder.norm(dim=1)
        counts, sums = torch.zeros_like(b_gate), torch.zeros_like(b_gate)
        for some, into, gate in in_parts(pre, latents, opened):
            sums += torch.add(some, b_gate, out=gate).relu_().sum(0)
            torch.mul(some, scale, out=into).add_(b_mag).relu_().mul_(gate.sign())
            counts += into.sign().sum(0)
        ctx.save_for_backward(
            *(rows, encoder, decoder, pre, latents, opened, scale, lengths, sums),
        )
        ctx.mark_non_differentiable(counts)
        found, by_gate = (torch.addmm(offset, each, decoder) for each in (latents, opened))
        return found, by_gate, (sums @ lengths) / len(rows), counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder, decoder, pre, latents, opened, scale, lengths, sums = ctx.saved_tensors
        of_output, of_gate, of_penalty, _ = grads
        share = of_penalty / len(rows)
        grad, of_opened = of_output @ decoder.T, of_gate @ decoder.T
        of_b_gate, of_b_mag, of_r_mag = torch.zeros(3, len(scale), dtype=pre.dtype)
        weights = lengths * share
        for some, active, gate, of_some, of_it in in_parts(pre, latents, opened, grad, of_opened):
            of_b_gate += of_it.add_(weights).mul_(gate.sign()).sum(0)
            of_b_mag += of_some.mul_(active.sign()).sum(0)
            of_some.mul_(scale)
            of_r_mag += (of_some * some).sum(0)
            of_some.add_(of_it)
        of_decoder = latents.T @ of_output
        along = torch.where(lengths > 0, sums / lengths, 0) * share
        of_decoder.addcmul_(decoder, along[:, None])
        of_offset = of_output.sum(0)
        if ctx.center:  # the same is taken off each row: what comes back is a vector's
            of_offset -= encoder @ (of_b_mag * scale + of_b_gate)
        return None, rows.T @ grad, of_b_gate, of_decoder, of_offset, of_b_mag, of_r_mag, None
