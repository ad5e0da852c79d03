"""Other names of the same activations, as notebooks written for other libraries have them.

The name that a model has for a point comes first; one of these stands in where it has none of that
name: `blocks.3.attn.hook_attn_scores` for `hook_scores`, `cache["attn", 3]` for the pattern.
"""

from collections.abc import Iterator

_SHORT: dict[str, tuple[str, ...]] = {
    "attn": ("pattern",),
    "attn_pattern": ("pattern",),
    "attn_scores": ("scores",),
    "attn_logits": ("attn_scores", "scores"),
    "scores": ("attn_scores",),
    "query": ("q",),
    "key": ("k",),
    "value": ("v",),
    "mlp_pre": ("mlp.pre",),
    "mlp_pre_linear": ("mlp.pre_linear",),
    "mlp_post": ("mlp.post",),
}
"""By the end of a name, without `hook_`: what else it may be."""

_PARTS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
"""The parts of a block, as the third of a key names them: `("pre", 2, "m")`."""

_NORMS = ("scale", "normalized")
_IN_ATTENTION = ("q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores", "scores")
_IN_MLP = ("pre", "pre_linear", "mid", "post")


def part_of_block(name: str) -> str:
    """Return the part of a block that a key means: `attn` for `a`; `""` for the block itself."""
    return _PARTS.get(name, name)


def other_spellings(name: str) -> Iterator[str]:
    """Yield other names of a point, full or short, with or without `hook_`."""
    front, dot, last = name.rpartition(".")
    hook = "hook_" if last.startswith("hook_") else ""
    for other in _SHORT.get(last.removeprefix("hook_"), ()):
        part, inner_dot, end = other.rpartition(".")
        if not part or front.endswith(part):
            yield f"{front}{dot}{hook}{end}"
        else:
            yield f"{front}{dot}{part}{inner_dot}{hook}{end}"


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """Return the full name of a point: `get_act_name("q", 3)` is `blocks.3.attn.hook_q`.

    `layer` is the block's number and `layer_type` the part of it, `"attn"`, `"mlp"`, `"ln1"`, which
    is found where `name` tells it. Without a block it is a point of the model's own:
    `get_act_name("embed")` is `hook_embed`, `get_act_name("scale")` `ln_final.hook_scale`. A full
    name is returned as it is.
    """
    if "." in name or name.startswith("hook_"):
        return name
    found = _SHORT.get(name, (name,))[0] if name != "scores" else name
    part, _, end = found.rpartition(".")
    if layer_type is not None:
        part = part_of_block(layer_type)
    elif not part and end in _IN_ATTENTION:
        part = "attn"
    elif not part and end in _IN_MLP:
        part = "mlp"
    elif not part and end in _NORMS and layer is None:
        part = "ln_final"
    block = [] if layer is None else ["blocks", str(layer)]
    return ".".join([*block, *([part] if part else []), f"hook_{end}"])
