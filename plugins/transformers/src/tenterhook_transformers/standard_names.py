"""Standard names of layers: one word for one place in the residual stream, in every family.

`resid_post.3` is what block 3 returns, `attn_out.3` and `mlp_out.3` what its attention and its MLP
add to the stream. Which layers those are, plugins know; which sum holds, `residual` says.
"""

import re
from collections.abc import Mapping
from typing import Literal, final, get_args

import attrs
from attrs import validators

from tenterhook.one_line import shown

Residual = Literal["sequential", "parallel", "post_norm"]
"""How a block adds up, in eval mode (dropout off), `x` being what goes into it:

- `"sequential"`: `resid_post = x + attn_out + mlp_out`, and the MLP reads `x + attn_out`.
- `"parallel"`: the same sum, and attention and MLP both read `x`.
- `"post_norm"`: `resid_post = norm(norm(x + attn_out) + mlp_out)`.
"""

PLACES = ("resid_post", "attn_out", "mlp_out")
"""What is named in every block."""

_STANDARD = re.compile(rf"(?:{'|'.join(PLACES)})\.\d+")


def looks_standard(name: str) -> bool:
    """Say whether a name has the form of a standard name, as `resid_post.3`."""
    return _STANDARD.fullmatch(name) is not None


def _check_names(_: object, attribute: object, layers: Mapping[str, str]) -> None:
    for name in layers:
        if not looks_standard(name):
            raise ValueError(
                f"{name!r} is no standard name. Write {' or '.join(PLACES)}, a dot and the block's "
                "number."
            )


def _plain(layers: Mapping[str, str]) -> dict[str, str]:
    """Return a dict of plain text; `TypeError` for what is none."""
    for text in (*layers.keys(), *layers.values()):
        if not isinstance(text, str):
            raise TypeError(f"layers has {shown(text)}, which is no name. Give text.")
    return dict(layers)


@final
@attrs.frozen(kw_only=True)
class StandardNames:
    """The standard names of one model."""

    layers: Mapping[str, str] = attrs.field(converter=_plain, validator=_check_names)
    """Standard name to dotted name, in the order of the blocks."""
    residual: Residual = attrs.field(validator=validators.in_(get_args(Residual)))
