"""How an SAE is trained; a value that serialises."""

import math
from typing import Any

import attrs
from attrs.validators import optional

from tenterhook_sae.limits import LARGEST, MOST, SEEDS, check_flag, is_within

_POSITIVE = is_within("a number above 0", 1e-300, LARGEST)
_COUNT = is_within("a whole number, 1 or more", 1, MOST, is_whole=True)
_SHARE = is_within("a share, between 0 and 1", 0, 1)
_DECAY = is_within("0 or more, and below 1", 0, math.nextafter(1, 0))
_AMOUNT = is_within("a number, 0 or more", 0, LARGEST)
_LIMIT: Any = optional(_POSITIVE)
_SEED = is_within("a whole number, 0 or more", 0, SEEDS, is_whole=True)


def _yes_or_no(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    check_flag(attribute.name, value)


@attrs.frozen(kw_only=True)
class TrainingSettings:
    """How an SAE is trained.

    The loss is, in activations scaled to a mean square of 1 per feature, the mean squared error
    per feature, plus `sparsity` times the kind's own penalty over the number of features, plus
    `aux` times the auxiliary loss.
    """

    steps: int = attrs.field(default=10_000, validator=_COUNT)
    """Batches, in all."""

    learning_rate: float = attrs.field(default=1e-3, validator=_POSITIVE)
    """Of AdamW, at its highest."""

    warm_up: float = attrs.field(default=0.05, validator=_SHARE)
    """The share of the steps in which the learning rate rises to that."""

    decay: float = attrs.field(default=0.2, validator=_SHARE)
    """The share of the steps, the last ones, in which it falls to 0."""

    beta1: float = attrs.field(default=0.9, validator=_DECAY)
    beta2: float = attrs.field(default=0.999, validator=_DECAY)
    weight_decay: float = attrs.field(default=0.0, validator=_AMOUNT)

    sparsity: float = attrs.field(default=1.0, validator=_AMOUNT)
    """The weight of the penalty of `L1Sae` and `JumpReLUSae`; top-k kinds have none."""

    sparsity_warm_up: float = attrs.field(default=0.2, validator=_SHARE)
    """The share of the steps in which that weight rises from 0."""

    normalize_decoder: bool = attrs.field(default=True, validator=_yes_or_no)
    """Keep decoder rows at length 1, and take out of their gradient what would change it."""

    aux: float = attrs.field(default=1 / 32, validator=_AMOUNT)
    """The weight of AuxK: dead latents reconstruct the error (Gao et al. 2024, arXiv:2406.04093,
    appendix A.2). What they miss is in units of that error, and the gradient passes those that are
    below 0 as if they were not."""

    aux_k: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """How many dead latents do; half the number of features by default."""

    dead_after: int = attrs.field(default=100_000, validator=_COUNT)
    """A latent that was not active for more rows than this is dead."""

    resample_every: int | None = attrs.field(default=None, validator=optional(_COUNT))
    """Every so many steps, of the first three quarters, dead latents are made anew from rows that
    are reconstructed badly (Bricken et al. 2023, its appendix on resampling); along the row's error
    and not along the row, and for top-k kinds with an encoder long enough to be among the largest.
    The threshold of a `JumpReLUSae` becomes the mean of those alive, as much lower as the encoder
    is shorter.
    """

    clip: float | None = attrs.field(default=1.0, validator=_LIMIT)
    """The gradient's norm at most; `None` for no limit."""

    autocast: bool | None = attrs.field(default=None, validator=optional(_yes_or_no))
    """Whether forwards run in bfloat16; by default on CUDA alone, where it pays."""

    seed: int = attrs.field(default=0, validator=_SEED)
    """Of what resampling draws."""

    log_every: int = attrs.field(default=100, validator=_COUNT)
    """Steps between two reports of progress."""

    checkpoint_every: int = attrs.field(default=1000, validator=_COUNT)
    """Steps between two checkpoints."""
