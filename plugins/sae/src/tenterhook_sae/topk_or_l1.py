"""What transcoders and crosscoders have in common: which latents they leave active."""

from torch import Tensor

from tenterhook_sae.limits import whole
from tenterhook_sae.models import TopKSae, largest, share, weighted
from tenterhook_sae.sae import Sae


class TopKOrL1(Sae):
    """Keeps what is positive, with an L1 penalty; or the `k` largest of that, without one."""

    k: int | None

    def _keep(self, k: int | None) -> None:
        self.k = None if k is None else share(whole("k", k), self.n_latents)
        if k is not None:
            self.resampled_length = TopKSae.resampled_length  # type: ignore[misc]

    def activate(self, pre: Tensor) -> Tensor:
        """Return the positive latents of `pre` `(..., n_latents)`, the `k` largest; 0 elsewhere."""
        return pre.relu() if self.k is None else largest(pre, self.k)

    def decoder_lengths(self) -> Tensor:
        """Return how much each latent weighs in the penalty, `(n_latents,)`."""
        lengths: Tensor = self.W_dec.norm(dim=1)
        return lengths

    def sparsity_loss(self, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the latents' sum, each times its decoder's length, a mean over rows; a scalar.

        `latents` are `(..., n_latents)`. 0 with `k`.
        """
        if self.k is not None:
            return latents.new_zeros(())
        return weighted(latents, self.decoder_lengths())
