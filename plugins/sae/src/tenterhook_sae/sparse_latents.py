"""Latents with only the active ones kept: which, and how strong."""

import attrs
import torch
from torch import Tensor
from torch.nn import functional

FEW = 16
"""Up to so many columns are looked for one by one; more are taken from the dense form."""


@attrs.frozen(eq=False, kw_only=True)
class SparseLatents:
    """The active latents of each row, row after row (compressed sparse rows).

    Row `r` of `shape[:-1]`, flattened, has the entries `offsets[r]` to `offsets[r + 1]`.
    """

    shape: torch.Size
    """`(..., n_latents)`, that of the dense form."""

    offsets: Tensor
    """int64 `(rows + 1,)`."""

    indices: Tensor
    """int64 `(entries,)`: which latents, in no order within a row."""

    values: Tensor
    """`(entries,)`: how active they are, in the SAE's dtype; some may be 0."""

    @classmethod
    def of_top(cls, values: Tensor, indices: Tensor, shape: torch.Size) -> "SparseLatents":
        """Return as many latents for each row, of `values` and `indices` `(rows, k)`."""
        rows, k = values.shape
        offsets = torch.arange(0, rows * k + 1, k, device=values.device)
        return cls(
            shape=shape, offsets=offsets, indices=indices.reshape(-1), values=values.reshape(-1)
        )

    @classmethod
    def of_dense(cls, latents: Tensor) -> "SparseLatents":
        """Return those of `latents` `(..., n_latents)` that are not 0."""
        flat = latents.reshape(-1, latents.shape[-1])
        row, indices = flat.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(flat))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(shape=latents.shape, offsets=offsets, indices=indices, values=flat[row, indices])

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(each.nbytes for each in (self.offsets, self.indices, self.values))

    @property
    def rows(self) -> Tensor:
        """The row of each entry, int64 `(entries,)`."""
        counts = self.offsets.diff()
        every = torch.arange(len(counts), device=counts.device)
        return every.repeat_interleave(counts, output_size=len(self.indices))

    def detach(self) -> "SparseLatents":
        """Return the same, out of the graph."""
        return attrs.evolve(self, values=self.values.detach())

    def to_dense(self) -> Tensor:
        """Return the latents as a tensor of `shape`."""
        dense = self.values.new_zeros(len(self.offsets) - 1, self.shape[-1])
        return dense.index_put((self.rows, self.indices), self.values).reshape(self.shape)

    def columns(self, latents: list[int]) -> Tensor:
        """Return some latents of every row, `(rows, len(latents))`."""
        if len(latents) > FEW:
            return self.to_dense().reshape(-1, self.shape[-1])[:, latents]
        found = self.values.new_zeros(len(self.offsets) - 1, len(latents))
        for column, latent in enumerate(latents):
            entry = (self.indices == latent).nonzero().reshape(-1)
            row = torch.searchsorted(self.offsets, entry, right=True) - 1
            where = torch.full_like(row, column)
            found = found.index_put((row, where), self.values[entry])
        return found

    def times(self, matrix: Tensor) -> Tensor:
        """Return the product with `matrix` `(n_latents, n)`, `(rows, n)`."""
        if not len(self.indices):
            return matrix.new_zeros(len(self.offsets) - 1, matrix.shape[1])
        return functional.embedding_bag(
            self.indices,
            matrix,
            self.offsets,
            mode="sum",
            per_sample_weights=self.values.to(matrix.dtype),
            include_last_offset=True,
        )


def compact(latents: Tensor) -> "Tensor | SparseLatents":
    """Return what takes less memory: the latents as they are, or only those that are not 0."""
    entry = 8 + latents.element_size()
    rows = latents.numel() // max(latents.shape[-1], 1)
    if int(torch.count_nonzero(latents)) * entry + 8 * (rows + 1) < latents.nbytes:
        return SparseLatents.of_dense(latents)
    return latents
