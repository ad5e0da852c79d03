"""Crosscoders over two models: latents that both share, and latents of one alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tenterhook_sae.errors import BadSetting, NoOther, WrongWidth
from tenterhook_sae.limits import WIDEST, whole
from tenterhook_sae.models import BatchTopKSae
from tenterhook_sae.sae import Mode

Beside = Tensor | Callable[[Tensor], Tensor]
"""What the other model's layer gave for the same tokens, or a function that returns it."""


class ModelCrosscoder(BatchTopKSae):
    """Reads a layer of each of two models: latents that both share, and a decoder for each.

    Model diffing by crosscoder is of Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer
    Features and Model Diffing", transformer-circuits.pub/2024/crosscoders; which latents are kept
    is the BatchTopK crosscoder of Minder et al. 2025, "Robustly identifying concepts introduced
    during chat fine-tuning using crosscoders", arXiv:2504.02922. For the activations `a_m` of the
    models `m`, of the same characters of the same text,

        z = ReLU(sum_m a_m @ W_enc_m + b_enc),    a'_m = z @ W_dec_m + b_dec_m

    and of a batch of `n` rows those `k * n` latents are kept whose `z_j * sum_m |W_dec_m[j]|` is
    largest; training minimises `sum_m |a_m - a'_m|^2`. Training has `sum_m |W_dec_m[j]|` be 1 for
    every latent (`normalize_decoder`), so that what is compared is `z_j` itself. In use latents
    above `threshold` are kept, as in `BatchTopKSae`. An L1 penalty would shrink decoders of little
    use to nothing, and call latents exclusive that are not; keeping the largest does not.

    `relative_norms` says which latents are whose: 0 for the first model alone, 1 for the second
    alone, a half for both.

    The weights of the models stand side by side, in the order of `models`. A row to train on is
    both layers side by side, each scaled to the same size; the lengths of decoders are compared in
    those scales.

    As a hook it stands at its layer of the model `side`, and reads there what the other model gave
    for the same tokens from `beside`, which has to be set. `"edit"` and `"reconstruct"` change the
    model that it stands in.
    """

    architecture = "model_crosscoder"
    sizes: Tensor
    """The scale that each model's activations have, float64 `(2,)`; 1 before training."""

    def __init__(
        self,
        n_latents: int,
        model_widths: Sequence[int],
        k: float,
        models: Sequence[str] = ("a", "b"),
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        mode: Mode = "edit",
        side: str | None = None,
    ) -> None:
        """`model_widths` are the features of each model's layer, and `models` their names.

        `side` is the name of the model that it stands in as a hook, the last unless given. Raises
        `BadSetting` (a `ValueError`) for sizes that are not whole and positive, names that are not
        two, and `k > n_latents`.
        """
        names = _pair("models", models, str, "the names of two models, each once")
        if names[0] == names[1]:
            raise BadSetting("models", [*models], "the names of two models, each once")
        widths = _pair("model_widths", model_widths, int, "the features of each model's layer")
        found = [whole("model_widths", each, most=WIDEST // 2) for each in widths]
        super().__init__(
            *(n_latents, sum(found), k, hook_id, device, store),
            dtype=dtype,
            center=False,
            mode=mode,
        )
        self.models: tuple[str, str] = names
        self.model_widths = found[0], found[1]
        self.register_buffer("sizes", torch.ones(2, dtype=torch.float64, device=device))
        self.side = names[-1] if side is None else side
        self.beside: Beside | None = None
        """What the other model's layer gave, `(..., width)`, or a function that is given what its
        own layer gives and returns that."""
        self.normalize_decoder()

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has; see `model.scoped`."""
        return super().elements({**parameters, "n_inputs": sum(parameters["model_widths"])}) + 2

    @classmethod
    def width(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many features the layer that it stands at must have."""
        names, side = parameters.get("models", ("a", "b")), parameters.get("side")
        found: int = parameters["model_widths"][0 if side == names[0] else 1]
        return found

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of the models' layers, side by side in a row to train on."""
        return self.model_widths

    @property
    def side(self) -> str:
        """The model that it stands in as a hook; `BadSetting` for what is none of its two."""
        return self._side

    @side.setter
    def side(self, side: str) -> None:
        if side not in self.models:
            raise BadSetting("side", side, f"one of {', '.join(map(repr, self.models))}")
        self._side = side

    @property
    def encoders(self) -> dict[str, Tensor]:
        """The part of `W_enc` that is each model's, `(width, n_latents)`; views."""
        return dict(zip(self.models, self.W_enc.split(self.model_widths), strict=True))  # type: ignore[no-untyped-call]

    @property
    def decoders(self) -> dict[str, Tensor]:
        """The part of `W_dec` that is each model's, `(n_latents, width)`; views."""
        return dict(zip(self.models, self.W_dec.split(self.model_widths, 1), strict=True))  # type: ignore[no-untyped-call]

    def layers_read(self, layer: str) -> list[str]:
        """Return its models, each of which is read at one layer."""
        return [*self.models]

    # --- whose the latents are

    @torch.no_grad()
    def decoder_lengths(self) -> Tensor:
        """Return the length of each latent's decoder in each model, `(n_latents, 2)`.

        In activations of the same size, so that models of other sizes can be compared.
        """
        lengths = [each.norm(dim=1) for each in self.decoders.values()]
        return torch.stack(lengths, 1) / self.sizes.to(self.dtype)

    def relative_norms(self) -> Tensor:
        """Return each latent's share of the second model, from 0 to 1, `(n_latents,)`.

        `|W_dec_b| / (|W_dec_a| + |W_dec_b|)`, as Lindsey et al. 2024 compare them: 0 for a latent
        of the first model alone, 1 of the second alone; of one without any decoder a half.
        """
        lengths = self.decoder_lengths()
        total = lengths.sum(1)
        return torch.where(total > 0, lengths[:, 1] / total.clamp_min(1e-30), 0.5)

    def exclusive(self, model: str, share: float = 0.9) -> Tensor:
        """Return the latents whose decoder lies to this share in one model, int64, falling by it.

        Raises `BadSetting` for what is none of its models, and for a share not above a half.
        """
        self._check_share(share)
        if model not in self.models:
            raise BadSetting("model", model, f"one of {', '.join(map(repr, self.models))}")
        second = self.relative_norms()
        own = second if model == self.models[1] else 1 - second
        order = own.argsort(descending=True, stable=True)
        return order[own[order] >= share]

    def shared(self, share: float = 0.9) -> Tensor:
        """Return the latents of which no model has this share, int64, rising."""
        self._check_share(share)
        second = self.relative_norms()
        return ((second < share) & (1 - second < share)).nonzero().flatten()

    def _check_share(self, share: float) -> None:
        if type(share) not in (int, float) or not 0.5 < share <= 1:
            raise BadSetting("share", share, "a number above a half, and 1 at most")

    # --- training

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Have the lengths of every latent's decoder rows sum to 1, in place."""
        self.W_dec.div_(self.decoder_lengths().sum(1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def rescale_parts(self, factors: Sequence[float]) -> None:
        """See `Sae.rescale_parts`; the latents stay, and so does what `relative_norms` says."""
        scale = torch.cat(
            [
                self.b_dec.new_full((width,), each)
                for width, each in zip(self.model_widths, factors, strict=True)
            ]
        )
        self.W_enc.div_(scale[:, None])
        self.W_dec.mul_(scale)
        self.b_dec.mul_(scale)
        self.sizes.mul_(self.sizes.new_tensor(factors))

    def settings(self) -> dict[str, Any]:
        """Return the widths, the models, and `k`."""
        return {"model_widths": [*self.model_widths], "models": [*self.models], "k": self.k}

    # --- the hook

    def describe_change(self) -> dict[str, Any]:
        """Return what it does to an activation here and now, for the identity of a run."""
        return {**super().describe_change(), "side": self.side}

    @property
    def _written(self) -> slice:  # type: ignore[override]
        first = self.model_widths[0]
        return slice(None, first) if self._side == self.models[0] else slice(first, None)

    def _read(self, given: Tensor | None, y: Tensor) -> Tensor | None:
        at = self.models.index(self._side)
        if self.beside is None:
            raise NoOther(self.models[1 - at], self.layer_signature)
        other = self.beside if isinstance(self.beside, Tensor) else self.beside(y)
        parts = [other, y] if at else [y, other]
        for width, each in zip(self.model_widths, parts, strict=True):
            if each.ndim == 0 or each.shape[-1] != width:
                raise WrongWidth(width, each.shape[-1] if each.ndim else 0, self.layer_signature)
        if other.shape[:-1] != y.shape[:-1]:
            what = f"of the same tokens, {list(y.shape[:-1])} and not {list(other.shape[:-1])}"
            raise BadSetting("beside", list(other.shape), what)
        return torch.cat([each.to(self.device, self.dtype) for each in parts], -1)


def _pair(name: str, values: Any, kind: type, valid: str) -> tuple[Any, Any]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise BadSetting(name, values, valid)
    if any(isinstance(each, bool) or not isinstance(each, kind) or not each for each in values):
        raise BadSetting(name, [*values], valid)
    return values[0], values[1]
