"""A step of training in which only latents that are active are computed with.

Of a top-k kind few latents of a row are active, so of the five products of a step (the encoder's
and the decoder's forward, and backward those for the latents, the decoder and the encoder) only the
first has to be whole: the others are sums over the entries that were chosen. On a CPU that is
several times as fast as dense products; see `benchmarks/bench_sae_training.py`.
"""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from tenterhook_sae.crosscoder import Crosscoder
from tenterhook_sae.matryoshka import MatryoshkaBatchTopKSae
from tenterhook_sae.models import BatchTopKSae, TopKSae
from tenterhook_sae.sae import Sae
from tenterhook_sae.sparse_latents import SparseLatents
from tenterhook_sae.transcoder import SkipTranscoder, Transcoder

SHARE = 8
"""Where more than one latent in so many is active, dense products are as fast."""

LARGEST_OF_ROW = (TopKSae, Transcoder, SkipTranscoder, Crosscoder)
LARGEST_OF_BATCH = (BatchTopKSae, MatryoshkaBatchTopKSae)


@attrs.frozen(eq=False)
class SparsePass:
    """What a step has from its way forward."""

    latents: SparseLatents
    reconstruction: Tensor
    """`(rows, n_outputs)`."""
    further_loss: Tensor
    """A scalar; see `Sae.further_loss`."""


def sparse_pass(sae: Sae, x: Tensor, target: Tensor) -> SparsePass | None:
    """Return what training has of rows `x` `(rows, n_inputs)`, with gradients for all weights.

    `None` for kinds, sizes and devices where dense products are faster; and for classes derived
    from ours, whose own methods would not be asked.
    """
    k: float | None = getattr(sae, "k", None)
    fits = sae.device.type == "cpu" and sae.dtype in (torch.float32, torch.float64)
    if k is None or k * SHARE > sae.n_latents or not fits:
        return None
    if type(sae) in LARGEST_OF_ROW:
        latents = _chosen(sae, x, lambda pre: _largest(pre, int(k)))
    elif isinstance(sae, BatchTopKSae) and type(sae) in LARGEST_OF_BATCH:
        latents = _chosen(sae, x, sae.training_entries)
    else:
        return None
    if isinstance(sae, MatryoshkaBatchTopKSae):
        return _within_one_another(sae, latents, target)
    reconstruction = times(latents, sae.W_dec) + sae.b_dec
    if isinstance(sae, SkipTranscoder):
        reconstruction = reconstruction + x @ sae.W_skip.T
    return SparsePass(latents, reconstruction, target.new_zeros(()))


def _largest(pre: Tensor, k: int) -> SparseLatents:
    values, indices = pre.topk(k, sorted=False)
    return SparseLatents.of_top(values, indices, pre.shape)


def _within_one_another(
    sae: MatryoshkaBatchTopKSae, latents: SparseLatents, target: Tensor
) -> SparsePass:
    """Decode with as many latents as each dictionary has, all of them from the sums between two."""
    rows, parts = len(target), len(sae.widths)
    ends = torch.tensor(sae.widths)
    bag = latents.rows * parts + torch.bucketize(latents.indices, ends, right=True)
    order = bag.argsort(stable=True)
    between = SparseLatents(
        shape=torch.Size((rows * parts, sae.n_latents)),
        offsets=torch.searchsorted(bag[order], torch.arange(rows * parts + 1)),
        indices=latents.indices[order],
        values=latents.values[order],
    )
    sums = times(between, sae.W_dec).reshape(rows, parts, -1)
    found: Tensor = sae.b_dec
    further = target.new_zeros(())
    for part in sums.unbind(1):
        if found.ndim > 1:
            further = further + (target - found).square().mean()
        found = found + part
    return SparsePass(latents, found, further)


def _chosen(sae: Sae, x: Tensor, choose: Callable[[Tensor], SparseLatents]) -> SparseLatents:
    """Return the latents that `choose` takes of what comes out of the encoder, with gradients."""
    with torch.no_grad():
        rows = sae.encoder_rows(x)
        found = choose(torch.addmm(sae.b_enc, rows, sae.W_enc))
    center = sae.b_dec if sae.center else None
    entries: Any = _Entries.apply
    values = entries(found.values, sae.W_enc, sae.b_enc, center, rows, found.rows, found.indices)
    return SparseLatents(
        shape=found.shape, offsets=found.offsets, indices=found.indices, values=values
    )


def times(latents: SparseLatents, matrix: Tensor) -> Tensor:
    """Return the product with `matrix` `(n_latents, n)`, `(rows, n)`, with gradients for both."""
    found = _sums(latents.indices, matrix.detach(), latents.offsets, latents.values)
    # torch's own gradient for the matrix takes three times as long.
    with_gradient: Any = _MatrixGradient.apply
    product: Tensor = with_gradient(
        found, matrix, latents.values.detach(), latents.rows, latents.indices
    )
    return product


class _Entries(torch.autograd.Function):
    """What the encoder gives at some places, 0 where that is negative."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *given: Tensor) -> Tensor:
        encoder, bias, center, rows, row, latent = given
        found = values.relu()
        ctx.save_for_backward(encoder, rows, row, latent, found)
        ctx.center, ctx.latents = center is not None, len(bias)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encoder, rows, row, latent, found = ctx.saved_tensors
        grad = torch.where(found > 0, grads[0], 0)
        of_encoder = _by_latent(rows, row, latent, grad, ctx.latents).T.contiguous()
        of_bias = grad.new_zeros(ctx.latents).index_add_(0, latent, grad)
        # The same is taken off each row, so what comes back through all of them is a vector's.
        of_center = -(encoder @ of_bias) if ctx.center else None
        return None, of_encoder, of_bias, of_center, None, None, None


class _MatrixGradient(torch.autograd.Function):
    """A product as it is, through which the matrix has its gradient."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, matrix: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(*given)
        ctx.latents = len(matrix)
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, row, latent = ctx.saved_tensors
        of_matrix = _by_latent(grads[0].contiguous(), row, latent, values, ctx.latents)
        return grads[0], of_matrix, None, None, None


def _by_latent(rows: Tensor, row: Tensor, latent: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return for each latent the sum of the rows of its entries, each weighted, `(count, n)`."""
    order = latent.argsort(stable=True)
    starts = torch.bincount(latent, minlength=count).cumsum(0)
    offsets = functional.pad(starts, (1, 0))
    return _sums(row[order], rows, offsets, weights[order])


def _sums(indices: Tensor, matrix: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    if not len(indices):  # the sum of none, which is 0, so that there are gradients
        return matrix.new_zeros(len(offsets) - 1, matrix.shape[1]) + weights.sum()
    return functional.embedding_bag(
        *(indices, matrix, offsets),
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
