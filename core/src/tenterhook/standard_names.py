"""Standard names of layers: one word for one place in the residual stream, in every family.

`resid_post.3` is what block 3 returns, `attn_out.3` and `mlp_out.3` what its attention and its MLP
add to the stream. Which layers those are, plugins know; which sum holds, `residual` says.
"""

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, final, get_args

import attrs
from attrs import validators

from tenterhook.one_line import error_line, shown, type_name
from tenterhook.plugins.default import default_manager
from tenterhook.plugins.problems import PluginWarning
from tenterhook.plugins.registered import Registered

if TYPE_CHECKING:
    from torch import nn

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


def what_instead(name: str) -> str:
    """Say how to come by a place of the stream that is no layer's output; nothing for others."""
    place, _, block = name.partition(".")
    return _INSTEAD.get(place, "").format(block) if block.isdecimal() else ""


_INSTEAD = {
    "resid_pre": "It is no layer's output but what goes into block {0}: capture 'resid_post.{0}' "
    "with inputs=True, or save 'resid_post.{0}:input'.",
    "resid_mid": "No layer returns it. Where blocks are sequential it is the input of "
    "'resid_post.{0}' plus the output of 'attn_out.{0}'; parallel blocks have none.",
}


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


def standard_names(module: "nn.Module") -> StandardNames | None:
    """Return the standard names of a model's layers; `None` where no plugin knows the model.

    A plugin that fails, or names layers that the model does not have, is skipped with a
    `PluginWarning`. `LayerIndex.standard` asks once, until the model or the plugins change.
    """
    for registered in default_manager().extensions("layer_names").values():
        found = _asked(registered, module)
        if found is not None:
            return found
    return None


def _asked(registered: Registered, module: "nn.Module") -> StandardNames | None:
    try:
        found = registered.load()(module)
        if found is None:
            return None
        if type(found) is not StandardNames:
            raise TypeError(f"it returned a {type_name(found)}, and no StandardNames")
        _check_there(found, module)
        return found
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it is shown, and others may know the model
        warnings.warn(
            f"Layer names {registered.extension.name!r} of {registered.origin} failed: "
            f"{error_line(error)}",
            PluginWarning,
            stacklevel=3,
        )
        return None


def _check_there(names: StandardNames, module: "nn.Module") -> None:
    """Raise `LookupError` where layers are named that the model does not have."""
    known = {name for name, _ in module.named_modules(remove_duplicate=False)}
    absent = [path for path in names.layers.values() if path not in known]
    if absent:
        more = f", and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise LookupError(
            f"it names {shown(absent[0])}, which is not in this {type_name(module)}{more}"
        )
