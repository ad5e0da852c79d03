"""Parts of a page: markup that can be read as it is, and numbers that the page's script colours by.

A part is a value. It knows nothing of the page that it will stand on, and holds no tensor.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook.one_line import printable
from tenterhook_view.markup import line
from tenterhook_view.notebook import in_notebook

LEVELS = 10
"""Steps of the colours of amounts: classes `s0` to `s9`."""

SIDES = 4
"""Steps to either side of 0 of the colours of signed numbers: classes `d0` to `d8`, `d4` is 0."""

NO_NUMBER = 65535
"""What stands for a number that is not finite among those of a series."""


@attrs.frozen(kw_only=True)
class Part:
    """A section of a page; `page` puts them together, and a notebook shows one by itself."""

    kind: str
    """What the page's script does with it: `tokens`, `attention`, `cells` or `plain`."""

    title: str

    markup: str
    """HTML, everything of others escaped, that says all without a script."""

    preview: str = ""
    """The beginning of long markup, for notebooks."""

    data: Mapping[str, Any] = attrs.field(factory=dict)
    """What the script reads, plain JSON values."""

    def section(self, number: int) -> str:
        """Return the section of a page: a heading, the markup, and the data beside it."""
        data = f'<script type="application/json">{_as_json(self.data)}</script>'
        return (
            f'<section data-kind="{self.kind}" aria-labelledby="part-{number}">'
            f'<h2 id="part-{number}">{line(self.title)}</h2>\n{self.markup}\n'
            f"{data if self.data else ''}</section>\n"
        )

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __repr__(self) -> str:
        return f"Part({self.kind!r}, {printable(self.title)!r}, {len(self.markup):,} characters)"


def _as_json(data: Mapping[str, Any]) -> str:
    # In a script element `</script` and `<!--` mean something, within a JSON string, too.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@attrs.frozen(eq=False, kw_only=True)
class Series:
    """A number for each token, or for each cell, with the scale that colours it."""

    name: str
    """What the numbers are: `norm`, `latent 17`."""

    layer: str = ""
    """Where they were seen."""

    values: Tensor
    """float32 `[n]`, on the CPU."""

    is_signed: bool = False
    """Whether 0 is in the middle of the scale."""

    low: float = attrs.field(init=False)
    high: float = attrs.field(init=False)
    """Where the colours begin and end. What lies beyond has the last colour: a few tokens, the
    first of a text above all, may be a hundred times as long as all others."""

    def __attrs_post_init__(self) -> None:
        finite = self.values[self.values.isfinite()]
        ends = (
            torch.quantile(finite.abs() if self.is_signed else finite, _ENDS)
            if len(finite)
            else _ENDS
        )
        high = float(ends[1])
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "low", -high if self.is_signed else min(float(ends[0]), high))

    def levels(self) -> list[str]:
        """Return the class of each number's colour; `sx` for one that is not finite."""
        room = self.high - self.low
        share = ((self.values - self.low) / room).clamp(0, 1) if room > 0 else self.values * 0
        steps = 2 * SIDES + 1 if self.is_signed else LEVELS
        letter = "d" if self.is_signed else "s"
        if room <= 0:
            share = torch.full_like(self.values, 0.5 if self.is_signed else 0.0)
        numbers = (share.nan_to_num(0) * steps).long().clamp_max(steps - 1)
        return [
            f"{letter}{number}" if is_finite else "sx"
            for number, is_finite in zip(
                numbers.tolist(), self.values.isfinite().tolist(), strict=True
            )
        ]

    def as_data(self) -> dict[str, Any]:
        """Return what the page's script reads: 16 bits for each number, and the scale."""
        is_finite = self.values.isfinite()
        finite = self.values[is_finite].double()
        least, most = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        room = most - least or 1.0
        steps = ((self.values.double() - least) / room * (NO_NUMBER - 1)).round()
        steps = torch.where(is_finite, steps, float(NO_NUMBER)).to(torch.int32)
        packed = steps.numpy().astype("<u2").tobytes()
        return {
            "name": printable(self.name, 100),
            "layer": printable(self.layer, 100),
            "signed": self.is_signed,
            "low": self.low,
            "high": self.high,
            "least": least,
            "room": room,
            "values": base64.b64encode(packed).decode(),
        }


_ENDS = torch.tensor([0.01, 0.99])
