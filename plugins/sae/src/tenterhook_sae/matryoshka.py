"""Matryoshka sparse autoencoders: dictionaries within one another, each of use by itself."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tenterhook_sae.errors import BadSetting
from tenterhook_sae.limits import whole
from tenterhook_sae.models import BatchTopKSae
from tenterhook_sae.sae import Mode


class MatryoshkaBatchTopKSae(BatchTopKSae):
    """A `BatchTopKSae` whose first latents have to do without the others, at several widths.

    Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders",
    arXiv:2503.17547. Training minimises the sum, over the widths `m`, of the squared errors

        |x - (z[:m] @ W_dec[:m] + b_dec)|^2

    of which the last, where `m` is all latents, is that of a `BatchTopKSae`. Encoding is the same:
    the `k` a token that are left active are chosen among all latents. So what is general comes
    early, and is not taken apart by what is special.
    """

    architecture = "matryoshka_batchtopk"

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        k: float,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        widths: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        center: bool = True,
        mode: Mode = "edit",
    ) -> None:
        """`widths` are how many latents each dictionary has, rising to `n_latents`, the last.

        By default a sixteenth of the latents, an eighth, a quarter, half and all of them. Raises
        `ValueError` as `BatchTopKSae` does, and for widths that do not rise or end elsewhere.
        """
        super().__init__(
            n_latents, n_inputs, k, hook_id, device, store, dtype=dtype, center=center, mode=mode
        )
        self.widths = _halved(self.n_latents) if widths is None else _checked(widths, n_latents)

    def further_loss(self, target: Tensor, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the mean squared errors of all dictionaries but the whole one, summed; a scalar.

        `target` is `(rows, n_inputs)`, `latents` `(rows, n_latents)`.
        """
        total = target.new_zeros(())
        found: Tensor = self.b_dec
        for start, stop in pairwise((0, *self.widths[:-1])):
            found = found + latents[..., start:stop] @ self.W_dec[start:stop]
            total = total + (target - found.to(target.dtype)).square().mean()
        return total

    def settings(self) -> dict[str, Any]:
        """Return `k` and the widths."""
        return {**super().settings(), "widths": list(self.widths)}


def _halved(n_latents: int) -> tuple[int, ...]:
    return tuple(sorted({n_latents // part for part in (16, 8, 4, 2, 1)} - {0}))


def _checked(widths: Any, n_latents: int) -> tuple[int, ...]:
    valid = f"whole numbers that rise to n_latents={n_latents}, the last"
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise BadSetting("widths", widths, valid)
    found = tuple(whole("widths", each) for each in widths)
    if found[-1] != n_latents or any(one >= two for one, two in pairwise(found)):
        raise BadSetting("widths", list(found), valid)
    return found
