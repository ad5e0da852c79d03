"""Where a served model can be captured and changed: names, and how wide the rows there are."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.errors import closest
from tenterhook_specs.values import brief

MOST_NAMED = 12
"""So many points an error names."""


class _Width(nn.Module):
    """Stands for a point where specs are checked, as a layer that says how wide it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_features = self.out_features = width


@attrs.frozen(eq=False)
class ServedPoints:
    """The points of a served model. A value; what it takes to check specs is made when needed."""

    widths: Mapping[str, int] = attrs.field()
    """Standard name, as `resid_post.3`, to how many features a row has there."""
    dtype: torch.dtype = torch.float32
    """What the rows are; the checks of specs compute in it."""

    def mistake(self, name: Any) -> str | None:
        """Return why a name is none of a point here; `None` where it is one."""
        if isinstance(name, str) and name in self.widths:
            return None
        known = list(self.widths)
        if not known:
            return f"{brief(name)} is no point here, and there are none"
        close = closest(name[:100], known, 1) if isinstance(name, str) else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        return f"{brief(name)} is no point here, but {', '.join(known[:MOST_NAMED])}{more}{hint}"

    @cached_property
    def model(self) -> HookedModel:
        """A model of layers that stand for the points and compute nothing; for checks of specs."""
        root = nn.Module()
        for name, width in self.widths.items():
            *above, last = name.split(".")
            inside = root
            for part in above:
                if part not in dict(inside.named_children()):
                    inside.add_module(part, nn.Module())
                inside = inside.get_submodule(part)
            inside.add_module(last, _Width(width))
        return tenterhook.attach(root)
