"""Kinds of sparse autoencoder: which latents they leave active; see `kinds` for all of them."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tenterhook_sae.errors import BadSetting, NotFinite
from tenterhook_sae.limits import number, whole
from tenterhook_sae.sae import Mode, Sae
from tenterhook_sae.sparse_latents import SparseLatents

K = TypeVar("K", int, float)

CALIBRATED_AT_ONCE = 512
"""Rows whose latents `calibrate` has in memory at once."""


class TopKSae(Sae):
    """Keeps, of each token, the `k` largest latents, where they are positive.

    Gao et al. 2024, arXiv:2406.04093, equation 3, and a ReLU on what is kept.
    """

    architecture = "topk"
    resampled_length = 0.5  # with less a latent would not be among the largest

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        k: int,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        center: bool = True,
        mode: Mode = "edit",
    ) -> None:
        """Raises `ValueError` for sizes that are not whole and positive, and `k > n_latents`."""
        super().__init__(
            n_latents, n_inputs, hook_id, device, store, dtype=dtype, center=center, mode=mode
        )
        self.k = share(whole("k", k), n_latents)

    def activate(self, pre: Tensor) -> Tensor:
        """Return the `k` largest of each row where they are positive, and 0 elsewhere.

        Takes and returns `(..., n_latents)`, in one dtype.
        """
        return largest(pre, self.k)

    def activate_sparse(self, pre: Tensor) -> SparseLatents:
        """Return the `k` largest of each row of `(..., n_latents)`; a negative one counts as 0."""
        values, indices = pre.reshape(-1, self.n_latents).topk(self.k, sorted=False)
        return SparseLatents.of_top(values.relu(), indices, pre.shape)

    def encode_compact(self, x: Tensor) -> Tensor | SparseLatents:
        """Return the latents of `x` `(..., n_inputs)` in the form that takes less memory.

        Dense `(..., n_latents)`, or sparse; `k` alone decides. Raises `WrongWidth`.
        """
        pre = self.pre_activations(x)
        entry = 8 + pre.element_size()
        smaller = self.k * entry + 8 < self.n_latents * pre.element_size()
        return self.activate_sparse(pre) if smaller else self.activate(pre)

    def settings(self) -> dict[str, Any]:
        """Return `k`."""
        return {"k": self.k}


class BatchTopKSae(Sae):
    """Keeps `k` latents a token on average: the largest of the whole batch, where positive.

    Bussmann et al. 2024, arXiv:2412.06410. In use each token has to stand for itself: latents
    above `threshold` are kept. During training it is the running mean of the smallest that a batch
    kept (equation 5 there), which lags behind weights that change, and as training ends
    `calibrate` sets it. Before any training, when it is negative, the batch given decides.
    """

    architecture = "batchtopk"
    resampled_length = TopKSae.resampled_length
    calibration_rows = 8192
    threshold: Tensor

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        k: float,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        center: bool = True,
        mode: Mode = "edit",
    ) -> None:
        """`k` may be a fraction. Raises `ValueError` as `TopKSae` does."""
        super().__init__(
            n_latents, n_inputs, hook_id, device, store, dtype=dtype, center=center, mode=mode
        )
        self.k = share(k, n_latents)
        self.register_buffer("threshold", torch.tensor(-1.0, device=device, dtype=torch.float64))

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has, its threshold among them."""
        return super().elements(parameters) + 1

    def activate(self, pre: Tensor) -> Tensor:
        """Return the latents above the threshold, and 0 elsewhere: `(..., n_latents)`, as `pre`."""
        return torch.where(self.active(pre), pre, 0)

    def active(self, pre: Tensor) -> Tensor:
        """Return which latents of `pre` `(..., n_latents)` are above the threshold, bool.

        Before any training, which of the whole batch are active in `training_latents`.
        """
        threshold = float(self.threshold)
        return self._of_batch(pre) != 0 if threshold < 0 else pre > threshold

    def _of_batch(self, pre: Tensor) -> Tensor:
        flat = pre.relu().reshape(-1)
        rows = flat.numel() // self.n_latents
        values, indices = flat.topk(min(int(self.k * rows), flat.numel()), sorted=False)
        return torch.zeros_like(flat).scatter(0, indices, values).reshape(pre.shape)

    def training_latents(self, pre: Tensor) -> Tensor:
        """Return the batch's `k * rows` largest where positive, 0 elsewhere: `(..., n_latents)`.

        Moves `threshold` a hundredth of the way towards the least of them.
        """
        latents = self._of_batch(pre)
        self.learn_from(latents.detach()[latents > 0])
        return latents

    def training_entries(self, pre: Tensor) -> SparseLatents:
        """Return the same latents of `pre` `(rows, n_latents)`, those alone; without gradients.

        What the threshold says so far rules most out before the largest are looked for.
        """
        flat = pre.reshape(-1)
        wanted = min(int(self.k * len(pre)), flat.numel())
        places = (flat > max(0.0, 0.8 * float(self.threshold))).nonzero().reshape(-1)
        if len(places) < wanted:  # it has come to be too high
            places = (flat > 0).nonzero().reshape(-1)
        if len(places) > wanted:
            places = places[flat[places].topk(wanted, sorted=False).indices].sort().values
        starts = torch.arange(0, flat.numel() + 1, self.n_latents, device=pre.device)
        values = flat[places]
        self.learn_from(values)
        return SparseLatents(
            shape=pre.shape,
            offsets=torch.searchsorted(places, starts),
            indices=places.remainder(self.n_latents),
            values=values,
        )

    @torch.no_grad()
    def learn_from(self, active: Tensor) -> None:
        """Move the threshold a hundredth of the way towards the least of a batch's active latents.

        `active` are all of them, `(entries,)`; where there is none it stays.
        """
        if len(active):
            least = active.min().to(self.threshold.dtype)
            fresh = self.threshold < 0
            self.threshold.copy_(torch.where(fresh, least, 0.99 * self.threshold + 0.01 * least))

    @torch.no_grad()
    def calibrate(self, rows: Tensor) -> None:
        """Set the threshold so that of `rows`, `(rows, n_inputs)`, `k` latents each are active.

        On average, and to the latent: as many as `training_latents` would keep of them all as one
        batch. Fewer are positive only where the weights have it so; then all of these are active.
        Where rows and `k` are so few that no latent may be active, the threshold stays.

        Equation 5 of arXiv:2412.06410 asks for the mean of what batches kept least. One batch of
        many rows, by the final weights, is that mean without what the weights were before.

        Raises `WrongWidth`, and `NotFinite` for rows with NaN or infinity. Memory is `k` numbers a
        row, and the latents of `CALIBRATED_AT_ONCE` rows.
        """
        wanted = int(self.k * len(rows))
        if not wanted:
            return
        bad = ~torch.isfinite(rows).all(1)
        if bad.any():
            raise NotFinite(int(bad.sum()), len(rows), "The rows to calibrate with")
        # The largest so far, one more than are wanted: the threshold lies before the last.
        largest = torch.empty(0, device=self.device, dtype=self.dtype)
        for block in rows.split(CALIBRATED_AT_ONCE):  # type: ignore[no-untyped-call]
            pre = self.pre_activations(block).reshape(-1)
            least = largest.min() if len(largest) > wanted else largest.new_zeros(())
            largest = torch.cat((largest, pre[pre > least]))
            if len(largest) > wanted + 1:
                largest = largest.topk(wanted + 1, sorted=False).values
        if len(largest) <= wanted:
            self.threshold.zero_()
            return
        out, least = largest.topk(2, largest=False).values.sort().values
        # Midway, so that rounding later lets none in and keeps none out; if the dtype has a midway.
        middle = ((out.double() + least.double()) / 2).to(self.dtype)
        self.threshold.copy_(torch.where(middle < least, middle, out))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """See `Sae.rescale`; the threshold grows too."""
        super().rescale(factor)
        if self.threshold >= 0:
            self.threshold.mul_(factor)

    def settings(self) -> dict[str, Any]:
        """Return `k`."""
        return {"k": self.k}


class JumpReLUSae(Sae):
    """Keeps the latents that are above a threshold of their own.

    Rajamanoharan et al. 2024, arXiv:2407.14435, equation 4. The threshold learns through
    straight-through estimators with a rectangle kernel of width `bandwidth` (equations 11 and 12
    there), and the penalty is the number of active latents, L0.
    """

    architecture = "jumprelu"
    threshold: nn.Parameter

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        initial_threshold: float = 0.01,
        bandwidth: float = 0.05,
        dtype: torch.dtype = torch.float32,
        center: bool = True,
        mode: Mode = "edit",
    ) -> None:
        """`initial_threshold` is where all latents' thresholds begin; `threshold` `(n_latents,)`.

        Both it and `bandwidth` are in the units of the latents.

        Raises `ValueError` for sizes that are not whole and positive, a negative threshold, and a
        bandwidth that is not positive.
        """
        super().__init__(
            n_latents, n_inputs, hook_id, device, store, dtype=dtype, center=center, mode=mode
        )
        self.initial_threshold = number("initial_threshold", initial_threshold)
        self.bandwidth = number("bandwidth", bandwidth, positive=True)
        self.threshold = nn.Parameter(torch.full_like(self.b_enc, initial_threshold))

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has, a threshold for each latent too."""
        thresholds: int = parameters["n_latents"]
        return super().elements(parameters) + thresholds

    def activate(self, pre: Tensor) -> Tensor:
        """Return the positive latents above their thresholds, and 0 elsewhere.

        Takes and returns `(..., n_latents)`, in one dtype.
        """
        return torch.where(self.active(pre), pre, 0)

    def active(self, pre: Tensor) -> Tensor:
        """Return which latents of `(..., n_latents)` are positive and above their thresholds."""
        return pre > self.threshold.clamp_min(0)

    def training_latents(self, pre: Tensor) -> Tensor:
        """Return the latents `(..., n_latents)`, with a gradient for the thresholds.

        Equation 11 of arXiv:2407.14435.
        """
        jump: Any = _Jump.apply
        latents: Tensor = jump(pre, self.threshold, self.bandwidth)
        return latents

    def sparsity_loss(self, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the number of active latents (L0), a mean over rows; a scalar.

        `pre` is `(..., n_latents)`. The gradient, equation 12 of arXiv:2407.14435, is for the
        thresholds alone.
        """
        step: Any = _Active.apply
        active: Tensor = step(pre, self.threshold, self.bandwidth)
        return active.mean()

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """See `Sae.rescale`; the thresholds grow too."""
        super().rescale(factor)
        self.threshold.mul_(factor)

    def settings(self) -> dict[str, Any]:
        """Return the bandwidth."""
        return {"bandwidth": self.bandwidth}


class L1Sae(Sae):
    """Keeps what is positive (ReLU); an L1 penalty in training makes that sparse.

    Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features. The penalty weighs
    each latent by the length of its decoder row (Conerly et al. 2024, the April update).
    """

    architecture = "standard"

    def activate(self, pre: Tensor) -> Tensor:
        """Return what is positive, and 0 elsewhere: `(..., n_latents)`, as `pre`."""
        return pre.relu()

    def active(self, pre: Tensor) -> Tensor:
        """Return which latents of `(..., n_latents)` are positive, bool."""
        return pre > 0

    def sparsity_loss(self, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the latents' sum, each times its decoder row's length, a mean over rows; a scalar.

        `latents` are `(..., n_latents)`, none of them negative.
        """
        return weighted(latents, self.W_dec.norm(dim=1))


class _Jump(torch.autograd.Function):
    """JumpReLU; the threshold's gradient is equation 11 of arXiv:2407.14435."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return _where_above(pre, threshold, pre)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        of_pre = _where_above(pre, threshold, grad)
        near = _near(pre, threshold, ctx.bandwidth, grad)
        return of_pre, -(threshold / ctx.bandwidth) * near, None


class _Active(torch.autograd.Function):
    """How many latents of a row are active, `(...,)`; equation 12 of arXiv:2407.14435."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).sum(-1).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _near(pre, threshold, ctx.bandwidth, grads[0][..., None])
        return None, -near / ctx.bandwidth, None


IN_CACHE = 2**16
"""Numbers that are worked on at once: what is between steps stays in the cache."""


def _where_above(pre: Tensor, threshold: Tensor, values: Tensor) -> Tensor:
    """Return `values` where `pre` is positive and above its threshold, 0 elsewhere."""
    found = torch.empty_like(pre, memory_format=torch.contiguous_format)
    parts = (each.reshape(-1, len(threshold)) for each in (pre, values, found))
    least = threshold.detach().clamp_min(0)
    for some, wanted, into in in_parts(*parts):
        torch.sub(some, least, out=into)
        into.gt_(0).mul_(wanted).add_(0.0)  # which makes -0.0 a 0
    return found


def _near(pre: Tensor, threshold: Tensor, bandwidth: float, grad: Tensor) -> Tensor:
    """Return the sum of `grad` over rows whose `pre` is within half the bandwidth, `(latents,)`.

    The kernel is a rectangle. `grad` is as `pre`, `(..., latents)`, or has one column.
    """
    total = torch.zeros_like(threshold)
    rows, grads = pre.reshape(-1, len(threshold)), grad.reshape(-1, grad.shape[-1])
    for some, of_some in in_parts(rows, grads):
        near = (some - threshold).div_(bandwidth).abs_().lt_(0.5)
        total += near.mul_(of_some).sum(0)
    return total


def in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of each, as many at once as stay in the cache."""
    size = max(1, IN_CACHE // tensors[0].shape[1])
    for at in range(0, len(tensors[0]), size):
        yield tuple(each[at : at + size] for each in tensors)


def largest(pre: Tensor, k: int) -> Tensor:
    """Return the `k` largest of each row of `(..., n_latents)` where positive, and 0 elsewhere."""
    values, indices = pre.topk(k, sorted=False)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def weighted(latents: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of latents `(..., n_latents)`, each weighted, a mean over rows; a scalar."""
    return (latents @ weights).mean()


def share(k: K, n_latents: int) -> K:
    """Return `k`, a number of latents or a fraction of one; `BadSetting` for what is none."""
    if type(k) not in (int, float) or not 0 < k <= n_latents:
        raise BadSetting("k", k, f"a number of latents, of which there are {n_latents}")
    return k
