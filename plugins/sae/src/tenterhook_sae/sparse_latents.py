"""Latents of which only the active ones are stored: which they are, and how strong."""

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
        return cls.of_active(latents, latents != 0)

    @classmethod
    def of_active(cls, latents: Tensor, active: Tensor) -> "SparseLatents":
        """Return those of `latents` `(..., n_latents)` where `active`, bool of that shape, says."""
        count = latents.shape[-1]
        entry = active.reshape(-1).nonzero().reshape(-1)
        starts = torch.arange(0, active.numel() + 1, count, device=entry.device)
        return cls(
            shape=latents.shape,
            offsets=torch.searchsorted(entry, starts),
            indices=entry.remainder(count),
            values=latents.reshape(-1)[entry],
        )

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
        """Return the latents as a tensor of `shape`, `(..., n_latents)`, dtype as `values`."""
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


def compact(latents: Tensor, active: Tensor) -> "Tensor | SparseLatents":
    """Return latents, 0 where they are not active, in the form that takes less memory.

    Both are `(..., n_latents)`, `active` bool.
    """
    entry = 8 + latents.element_size()
    rows = latents.numel() // max(latents.shape[-1], 1)
    if int(torch.count_nonzero(active)) * entry + 8 * (rows + 1) < latents.nbytes:
        return SparseLatents.of_active(latents, active)
    return torch.where(active, latents, 0)
