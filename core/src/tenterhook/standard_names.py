"""Standard names of layers: one word for one place in the residual stream, in every family.

`resid_post.3` is what block 3 returns, `attn_out.3` and `mlp_out.3` what its attention and its MLP
add to the stream. Which layers those are, plugins know; which sum holds, `residual` says.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, final, get_args

import attrs
from attrs import validators

from tenterhook.one_line import shown

Residual = Literal["sequential", "parallel", "post_norm"]
"""How a block adds up, in eval mode (dropout off), `x` being what goes into it:

- `"sequential"`: `resid_post = x + attn_out + mlp_out`, and the MLP reads `x + attn_out`.
- `"parallel"`: the same sum, and attention and MLP both read `x`.
- `"post_norm"`: `resid_post = norm(norm(x + attn_out) + mlp_out)`.
"""

_STANDARD = re.compile(r"(resid_post|attn_out|mlp_out)\.\d+")


def _checked(layers: Mapping[Any, Any]) -> dict[str, str]:
    for name, path in layers.items():
        if not (isinstance(name, str) and _STANDARD.fullmatch(name) and isinstance(path, str)):
            what = f"layers has {shown(name)} for {shown(path)}"
            raise ValueError(f"{what}. Write resid_post.3, attn_out.3 or mlp_out.3 for a path.")
    return dict(layers)


@final
@attrs.frozen(kw_only=True)
class StandardNames:
    """The standard names of one model."""

    layers: Mapping[str, str] = attrs.field(converter=_checked)
    """Standard name to dotted name, in the order of the blocks."""
    residual: Residual = attrs.field(validator=validators.in_(get_args(Residual)))
