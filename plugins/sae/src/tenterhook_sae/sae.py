"""What all sparse autoencoders share: encode, decode, and how they stand at a layer.

The kinds differ in which latents they leave active, and in how they are trained; see `models`.
"""

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from tenterhook import HookContext
from tenterhook.activations import activation_of, first_input
from tenterhook.hooks import Controller, Detector, HookType
from tenterhook.html import table
from tenterhook_sae.concepts import Change, Concepts
from tenterhook_sae.errors import BadSetting, WrongWidth
from tenterhook_sae.limits import WIDEST, check_dtype, check_flag, whole
from tenterhook_sae.sparse_latents import SparseLatents, compact
from tenterhook_selections.eager import eager

Mode = Literal["edit", "reconstruct", "observe"]
"""What an attached SAE does to the activation.

- `"edit"` adds what the manipulations change of the reconstruction, so that what the SAE does not
  explain (its error) stays; without a manipulation the activation is left alone, bit for bit.
- `"reconstruct"` puts the reconstruction in its place.
- `"observe"` leaves it alone, whatever is manipulated.
"""


class Sae(Detector, Controller, nn.Module):
    """A sparse autoencoder: a hook that detects and controls, and a module with weights.

    `z = activation((x - b_dec) @ W_enc + b_enc)` and `x' = z @ W_dec + b_dec` (Bricken et al.
    2023, transformer-circuits.pub/2023/monosemantic-features; with `center=False` the first
    `b_dec` is left out). It begins with decoder rows of random direction and length 1, and with
    `W_enc = W_dec.T`.

    Weights: `W_enc` `(n_inputs, n_latents)`, `b_enc` `(n_latents,)`, `W_dec`
    `(n_latents, n_inputs)`, `b_dec` `(n_inputs,)`; all on one device, in one dtype, which
    activations are converted to and from.
    """

    architecture: ClassVar[str]
    """What files call this kind."""

    resampled_length: ClassVar[float] = 0.2
    """The length of the encoder of a latent that training makes anew, in that of those alive; and
    its threshold, where it has its own, in theirs."""

    calibration_rows: ClassVar[int] = 0
    """How many rows, the latest, a training keeps for `calibrate`; 0 for kinds that need none."""

    begin_at_zero: ClassVar[tuple[str, ...]] = ()
    """Weights `(n_latents,)` of the kind's own, which are 0 for a latent that is made anew."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

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
        n_outputs: int | None = None,
    ) -> None:
        """`n_outputs` is for kinds that reconstruct something else than they read.

        Raises `BadSetting` (a `ValueError`) for sizes that are not whole and positive, and for
        those whose weights do not fit into memory.
        """
        nn.Module.__init__(self)
        super().__init__(HookType.FORWARD, hook_id, store)
        self.n_latents = n_latents = whole("n_latents", n_latents, most=WIDEST)
        self.n_inputs = n_inputs = whole("n_inputs", n_inputs, most=WIDEST)
        self.n_outputs = n_inputs
        if n_outputs is not None:
            self.n_outputs = whole("n_outputs", n_outputs, most=WIDEST)
        check_dtype(dtype)
        check_flag("center", center)
        self.center = center
        self._mode: Mode = "edit"
        self.mode = mode
        decoder = _directions(n_latents, self.n_outputs)
        encoder = decoder if n_outputs is None else _directions(n_latents, n_inputs)
        self.W_dec = nn.Parameter(decoder.to(device, dtype))
        self.W_enc = nn.Parameter(encoder.to(device, dtype).T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(n_latents, device=device, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(self.n_outputs, device=device, dtype=dtype))
        self.concepts = Concepts(n_latents)
        self.about: dict[str, Any] = {}
        """What it was made of, in plain JSON values: layer, run, settings; saved with it."""
        self._latest: Tensor | SparseLatents | None = None
        self._here = threading.local()

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has; see `model.scoped`."""
        latents, inputs = parameters["n_latents"], parameters["n_inputs"]
        weights: int = 2 * latents * inputs + latents + inputs
        return weights

    @classmethod
    def width(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many features its layer must have."""
        inputs: int = parameters["n_inputs"]
        return inputs

    # --- the autoencoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are in."""
        return self.W_dec.dtype

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of what a row to train on is made of, side by side: `n_inputs` for most.

        The first `n_inputs` columns are what is encoded, and the last `n_outputs` what is to be
        reconstructed; for most kinds they are the same.
        """
        return (self.n_inputs,)

    def layers_read(self, layer: str) -> list[str]:
        """Return the layers whose `parts` a row is, side by side, where it stands at `layer`."""
        return [layer]

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return `(x - b_dec) @ W_enc + b_enc`, `(..., n_latents)`, of `x` `(..., n_inputs)`.

        On the SAE's device and in its dtype, which `x` is converted to. Raises `WrongWidth`.
        """
        return self._product(x, self.b_enc)

    def _product(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return `(x - b_dec) @ W_enc + bias`, `(..., n_latents)`."""
        if self.center and torch.is_grad_enabled() and self.b_dec.requires_grad:
            # What is taken off is the same for all rows, so what comes back to it is the product of
            # one row. Through the rows it would be that of them all, a fifth more of a step.
            fixed = self.b_dec.detach()
            bias = bias - (self.b_dec - fixed) @ self.W_enc.detach()  # 0 is taken off
            self._check_width(x)
            rows = x.to(self.device, self.dtype).reshape(-1, self.n_inputs) - fixed
        else:
            rows = self.encoder_rows(x)
        return torch.addmm(bias, rows, self.W_enc).reshape(*x.shape[:-1], self.n_latents)

    def encoder_rows(self, x: Tensor) -> Tensor:
        """Return what the encoder multiplies, `(rows, n_inputs)`, of `x` `(..., n_inputs)`.

        On the SAE's device, in its dtype, with `b_dec` taken off where `center` says so. Raises
        `WrongWidth`.
        """
        self._check_width(x)
        flat = x.to(self.device, self.dtype).reshape(-1, self.n_inputs)
        return flat - self.b_dec if self.center else flat

    @abstractmethod
    def activate(self, pre: Tensor) -> Tensor:
        """Return the latents of `pre`, what came out of the encoder; most are 0.

        Both are `(..., n_latents)`, in one dtype.
        """

    def active(self, pre: Tensor) -> Tensor:
        """Return which latents are active, bool `(..., n_latents)`.

        The latents that are active are what came out of the encoder, unchanged.
        """
        return self.activate(pre) != 0

    def activate_sparse(self, pre: Tensor) -> SparseLatents:
        """Return the latents of `pre` `(..., n_latents)` with only the active ones stored."""
        return SparseLatents.of_active(pre, self.active(pre))

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents `(..., n_latents)` of activations `(..., n_inputs)`.

        Raises `WrongWidth` (a `ValueError`) for another last axis.
        """
        return self.activate(self.pre_activations(x))

    def encode_sparse(self, x: Tensor) -> SparseLatents:
        """Return the latents of activations `(..., n_inputs)`, only the active ones stored.

        Raises `WrongWidth` for another last axis.
        """
        return self.activate_sparse(self.pre_activations(x))

    def decode(self, latents: Tensor | SparseLatents) -> Tensor:
        """Return the reconstruction `(..., n_outputs)` of latents `(..., n_latents)`.

        Raises `WrongWidth` for another last axis.
        """
        if latents.shape[-1] != self.n_latents:
            raise WrongWidth(self.n_latents, latents.shape[-1], latents=True)
        if isinstance(latents, SparseLatents):
            flat = latents.times(self.W_dec) + self.b_dec
        else:
            flat = torch.addmm(self.b_dec, latents.reshape(-1, self.n_latents), self.W_dec)
        return flat.reshape(*latents.shape[:-1], self.n_outputs)

    def reconstruct(self, x: Tensor, latents: Tensor | SparseLatents) -> Tensor:
        """Return the reconstruction `(..., n_outputs)` of `x`, `(..., n_inputs)`, by its latents.

        `decode(latents)`, and what a kind lets `x` add past its latents.
        """
        return self.decode(latents)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction `(..., n_outputs)` of activations `(..., n_inputs)`."""
        return self.reconstruct(x, self.encode_compact(x))

    def encode_compact(self, x: Tensor) -> Tensor | SparseLatents:
        """Return the latents of `x` `(..., n_inputs)` in the form that takes less memory.

        Dense `(..., n_latents)`, 0 where they are not active, or sparse. Raises `WrongWidth`.
        """
        pre = self.pre_activations(x)
        return compact(pre, self.active(pre))

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Give every row of the decoder length 1, in place; the encoder stays."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Have it do to `factor * x` what it did to `x`: latents and output grow by the factor.

        All kinds are homogeneous, so only the biases (and thresholds) change, in place.
        """
        self.b_enc.mul_(factor)
        self.b_dec.mul_(factor)

    def rescale_parts(self, factors: Sequence[float]) -> None:
        """Have it do to `parts`, each times its factor, what it did to them: see `rescale`."""
        (factor,) = factors
        self.rescale(factor)

    def new_encoder_rows(self, x: Tensor, error: Tensor) -> Tensor:
        """Return along what latents that are made anew encode rows, `(rows, n_inputs)`.

        `x` `(rows, n_inputs)` is encoded, and `error` `(rows, n_outputs)` what is missed of it.
        """
        return error

    def calibrate(self, rows: Tensor) -> None:
        """Fit to rows `(rows, n_inputs)` what training only estimates; does nothing for most.

        A training calls it as it ends, with the rows that it saw last.
        """

    def settings(self) -> dict[str, Any]:
        """Return what, beside sizes and weights, says which function this is; JSON values."""
        return {}

    def describe_change(self) -> dict[str, Any]:
        """Return what it does to an activation here and now, for the identity of a run."""
        return {
            "weights": self.state_dict(),
            "center": self.center,
            **self.settings(),
            "mode": self.mode,
            "changes": [[each.latent, each.manipulation] for each in self.concepts.changes()],
        }

    # --- training: what the kinds say of themselves

    def training_latents(self, pre: Tensor) -> Tensor:
        """Return the latents `(..., n_latents)` of `pre` as training sees them, with gradients.

        A kind that learns from them as well, as `BatchTopKSae` its threshold, does so here.
        """
        return self.activate(pre)

    def sparsity_loss(self, latents: Tensor, pre: Tensor) -> Tensor:
        """Return the penalty that makes the latents sparse: a mean over rows, a scalar; 0 for most.

        Both are `(..., n_latents)`: the latents, and what came out of the encoder.
        """
        return latents.new_zeros(())

    def further_loss(self, target: Tensor, latents: Tensor, pre: Tensor) -> Tensor:
        """Return what a kind minimises beside its error and its penalty, a scalar; 0 for most.

        `target` is what is to be reconstructed, `(rows, n_inputs)`; the others are
        `(rows, n_latents)`.
        """
        return target.new_zeros(())

    # --- the hook

    @property
    def mode(self) -> Mode:
        """What it does to the activation when it is attached: see `Mode`.

        Setting it to anything else raises `BadSetting` (a `ValueError`).
        """
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise BadSetting("mode", mode, f"one of {', '.join(map(repr, get_args(Mode)))}")
        self._mode = mode

    @property
    def latents(self) -> Tensor | None:
        """The latents of the last call, of the unmodified activation; `None` before any.

        `(batch, seq, n_latents)` or as the layer has its axes, detached, on the SAE's device.
        Between calls they are stored sparse where that is smaller; see `sparse_latents`.
        """
        latest = self._latest
        return latest.to_dense() if isinstance(latest, SparseLatents) else latest

    @property
    def sparse_latents(self) -> SparseLatents | None:
        """The latents of the last call, only the active ones stored; `None` before any."""
        latest = self._latest
        return SparseLatents.of_dense(latest) if isinstance(latest, Tensor) else latest

    def clear_latents(self) -> None:
        """Forget the latents of the last call."""
        self._latest = None
        self.metadata.pop("latents_shape", None)

    def set_context(self, context: HookContext | None) -> None:
        """Set the context of the model it is attached to; registration does."""
        super().set_context(context)
        self.concepts.set_context(context)

    @eager
    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Encode the activation, keep its latents and, where texts are tracked, the best texts.

        The activation is the first tensor of the output, or of the input before the layer runs,
        `(..., n_inputs)`. Raises `WrongWidth` for another last axis.
        """
        given = first_input(input)
        y = given if output is None else activation_of(output)
        x = None if y is None else self._read(given, y)
        if x is None:
            self.clear_latents()
            return
        latents = self._encoded(x)
        self._here.encoded = y, x, latents
        detached = latents.detach()
        if torch.is_inference_mode_enabled():  # the user's own: fit for autograd, like any other
            with torch.inference_mode(False):
                detached = _cloned(detached)
        self._latest = detached
        self.metadata["latents_shape"] = tuple(detached.shape)
        self.concepts.track(detached)

    @eager
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Return what takes the activation's place, as `mode` and the manipulations say.

        `(..., n_inputs)`, on the device and in the dtype of the activation; `None`, which leaves
        it alone, where nothing changes.
        """
        y = inputs if output is None else output
        seen: tuple[Any, Any, Any] = getattr(self._here, "encoded", (None, None, None))
        self._here.encoded = None, None, None
        changes = self.concepts.changes()
        if self._mode == "observe" or (self._mode == "edit" and not changes):
            return None
        if y is None:
            return None
        x = seen[1] if seen[0] is y else self._read(inputs, y)
        if x is None:
            return None
        latents = seen[2] if seen[0] is y else self._encoded(x)
        with _exactly(y.device.type):
            return self._changed(y, x, latents, changes)

    def _read(self, given: Tensor | None, y: Tensor) -> Tensor | None:
        """Return what is encoded where `y` may be replaced, whose layer was given `given`.

        `(..., n_inputs)`; `None` where there is nothing to encode.
        """
        return y

    _written = slice(None)
    """Which columns of the decoder are for the activation that may be replaced."""

    def _encoded(self, x: Tensor) -> Tensor | SparseLatents:
        """Return the latents of a layer's activation; in the graph only where they change it."""
        used = self._mode == "reconstruct" or (self._mode == "edit" and self.concepts.changes())
        with _exactly(x.device.type), nullcontext() if used else torch.no_grad():
            return self.encode_compact(x)

    def _changed(
        self, y: Tensor, x: Tensor, latents: Tensor | SparseLatents, changes: list[Change]
    ) -> Tensor:
        written = self._written
        if not changes:
            return self.reconstruct(x, latents)[..., written].to(y.device, y.dtype)
        chosen = list(dict.fromkeys(change.latent for change in changes))
        old = _columns(latents, chosen)
        new = old
        shape = torch.Size((*y.shape[:-1], self.n_inputs))
        for change in changes:
            new = change.apply(new, chosen.index(change.latent), shape)
        difference = new - old
        shift = (difference @ self.W_dec[chosen][:, written]).reshape(y.shape)
        if self._mode == "reconstruct":
            return (self.reconstruct(x, latents)[..., written] + shift).to(y.device, y.dtype)
        moved = (difference != 0).any(1).reshape(*y.shape[:-1], 1).to(y.device)
        # A row that nothing changed keeps its bits: -0.0 + 0.0 would not.
        return torch.where(moved, y + shift.to(y.device, y.dtype), y)

    def _check_width(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.n_inputs:
            width = x.shape[-1] if x.ndim else 0
            raise WrongWidth(self.n_inputs, width, self.layer_signature)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle holds: no model, no call under way."""
        state = super().__getstate__()
        del state["_here"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]
        self._here = threading.local()

    def __repr__(self) -> str:
        state = "" if self.enabled else ", disabled"
        return (
            f"{type(self).__name__}(n_latents={self.n_latents}, n_inputs={self.n_inputs}, "
            f"id={self.id!r}, layer={self.layer_signature!r}{state})"
        )

    def _repr_html_(self) -> str:
        facts: list[tuple[object, object]] = [
            (type(self).__name__, ""),
            ("latents", f"{self.n_latents:,}"),
            ("inputs", f"{self.n_inputs:,}"),
            ("weights", f"{self.dtype} on {self.device}"),
            ("layer", self.layer_signature),
            ("mode", self.mode if self.enabled else f"{self.mode}, disabled"),
            ("named latents", len(self.concepts.names)),
            ("manipulated latents", len(self.concepts.manipulations)),
        ]
        return table([*facts, *self.about.items()])


def _room_for(n_latents: int, n_inputs: int) -> Tensor:
    try:
        return torch.empty(n_latents, n_inputs)
    except (RuntimeError, MemoryError) as error:
        size = f"{4e-9 * n_latents * n_inputs:,.0f} GB for each of two"
        few = f"fewer: weights of {n_latents:,} x {n_inputs:,} take {size}, which is not there"
        raise BadSetting("n_latents", n_latents, few) from error


def sae_parts(sae: Sae, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what of rows `(rows, width)` is encoded, and what is to be reconstructed."""
    if rows.shape[-1] == sae.n_inputs == sae.n_outputs:
        return rows, rows
    return rows[..., : sae.n_inputs], rows[..., -sae.n_outputs :]


def _directions(rows: int, width: int) -> Tensor:
    """Return rows of random direction and length 1, float32 on the CPU."""
    found = _room_for(rows, width).normal_()
    found /= found.norm(dim=1, keepdim=True)
    return found


def _columns(latents: Tensor | SparseLatents, chosen: list[int]) -> Tensor:
    if isinstance(latents, SparseLatents):
        return latents.columns(chosen)
    return latents.reshape(-1, latents.shape[-1])[:, chosen]


def _cloned(latents: Tensor | SparseLatents) -> Tensor | SparseLatents:
    if isinstance(latents, Tensor):
        return latents.clone()
    return SparseLatents(
        shape=latents.shape,
        offsets=latents.offsets.clone(),
        indices=latents.indices.clone(),
        values=latents.values.clone(),
    )


def _exactly(device: str) -> Any:
    """Return a block in which the SAE computes in its own dtype, autocast or not."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
