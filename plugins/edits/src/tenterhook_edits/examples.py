"""One of each edit, for a layer of 8 features: what contract tests try."""

import torch

from tenterhook_edits.controllers import (
    AddVector,
    Clamp,
    MeanAblate,
    Patch,
    ProjectOut,
    Scale,
)

_UP = torch.arange(1.0, 9.0)


def add_vector() -> AddVector:
    """Add half of a unit vector."""
    return AddVector("inner", _UP, 0.5, normalize=True)


def clamp() -> Clamp:
    """Keep entries between two bounds."""
    return Clamp("inner", -0.1, 0.1)


def mean_ablate() -> MeanAblate:
    """Put in a mean."""
    return MeanAblate("inner", _UP)


def patch(batch: int = 2, seq: int = 3) -> Patch:
    """Put in an activation of that shape."""
    return Patch("inner", _UP.expand(batch, seq, 8))


def project_out() -> ProjectOut:
    """Remove two directions."""
    return ProjectOut("inner", torch.stack([_UP, _UP.flip(0)]))


def scale() -> Scale:
    """Multiply by three."""
    return Scale("inner", 3.0)
