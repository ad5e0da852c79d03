"""Gated sparse autoencoders: whether a latent is active, and how strong it is, apart."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook_sae.models import weighted
from tenterhook_sae.sae import Mode, Sae
from tenterhook_sae.sparse_latents import SparseLatents, compact


class GatedSae(Sae):
    """Keeps the latents whose gate is open; how strong they are, another bias and scale say.

    Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
    arXiv:2404.16014. With `p = (x - b_dec) @ W_enc`, which both paths share,

        z = (p + b_gate > 0) * ReLU(exp(r_mag) * p + b_mag)

    and training minimises, beside the squared error of `z @ W_dec + b_dec`,

        sparsity * |ReLU(p + b_gate)|_1 + |x - (ReLU(p + b_gate) @ W_dec + b_dec)|^2

    where the decoder of the second term is frozen: it has no gradient from there. The penalty
    weighs each latent by the length of its decoder row, as `L1Sae` does; rows of length 1, which
    training keeps, are the paper's.

    `b_enc` is the bias of the gate, `b_gate` another name for it; `b_mag` and `r_mag` are
    `(n_latents,)` too. `pre` is `p` here, without a bias.
    """

    architecture = "gated"
    begin_at_zero = ("b_mag", "r_mag")
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        center: bool = True,
        mode: Mode = "edit",
    ) -> None:
        """Raises `BadSetting` (a `ValueError`) as `Sae` does."""
        super().__init__(
            n_latents, n_inputs, hook_id, device, store, dtype=dtype, center=center, mode=mode
        )
        self.b_mag = nn.Parameter(torch.zeros_like(self.b_enc))
        self.r_mag = nn.Parameter(torch.zeros_like(self.b_enc))

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has, scales and second biases among them."""
        latents: int = parameters["n_latents"]
        return super().elements(parameters) + 2 * latents

    @property
    def b_gate(self) -> nn.Parameter:
        """The bias of the gate, `(n_latents,)`: `b_enc`."""
        return self.b_enc

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return `(x - b_dec) @ W_enc`, `(..., n_latents)`, which has no bias yet.

        On the SAE's device and in its dtype, which `x` is converted to. Raises `WrongWidth`.
        """
        return self._product(x, torch.zeros_like(self.b_enc))

    def activate(self, pre: Tensor) -> Tensor:
        """Return the latents of `pre` `(..., n_latents)` with an open gate, and 0 elsewhere."""
        strength = (self.r_mag.exp() * pre + self.b_mag).relu()
        return torch.where(pre + self.b_enc > 0, strength, 0)

    def active(self, pre: Tensor) -> Tensor:
        """Return which latents of `(..., n_latents)` have an open gate and are positive, bool."""
        return self.activate(pre) != 0

    def activate_sparse(self, pre: Tensor) -> SparseLatents:
        """Return the latents of `pre` `(..., n_latents)` with only the active ones stored."""
        return SparseLatents.of_dense(self.activate(pre))

    def encode_compact(self, x: Tensor) -> Tensor | SparseLatents:
        """Return the latents of `x` `(..., n_inputs)` in the form that takes less memory."""
        latents = self.encode(x)
        return compact(latents, latents != 0)

    def sparsity_loss(self, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the sum of what passes the gate, a mean over rows; a scalar.

        `pre` is `(..., n_latents)`; each counts times its decoder row's length.
        """
        return weighted((pre + self.b_enc).relu(), self.W_dec.norm(dim=1))

    def further_loss(self, target: Tensor, latents: Tensor, pre: Tensor) -> Tensor:
        """Return how badly the gate alone reconstructs, with a decoder that is frozen; a scalar.

        It is what the gate learns from: what it lets through has no gradient for the gate.
        """
        opened = (pre + self.b_enc).relu().reshape(-1, self.n_latents)
        found = torch.addmm(self.b_dec.detach(), opened, self.W_dec.detach())
        return (target - found.reshape(target.shape).to(target.dtype)).square().mean()

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """See `Sae.rescale`; the biases of the strengths grow too."""
        super().rescale(factor)
        self.b_mag.mul_(factor)
