"""What other libraries call the places that have names here, and back.

A name is given where the other library's is the same place. Its numbers may differ all the same:
TransformerLens folds norms and centres weights when it loads a model, unless told not to.
"""

import re

import attrs

from tenterhook.errors import TenterhookError, closest

TRANSFORMER_LENS, NNTERP = "transformer-lens", "nnterp"

_LENS = {
    "embed": "hook_embed",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "q_pre": "blocks.{}.attn.hook_q",
    "k_pre": "blocks.{}.attn.hook_k",
    "q": "blocks.{}.attn.hook_rot_q",
    "k": "blocks.{}.attn.hook_rot_k",
    "v": "blocks.{}.attn.hook_v",
    "scores": "blocks.{}.attn.hook_attn_scores",
    "pattern": "blocks.{}.attn.hook_pattern",
    "z": "blocks.{}.attn.hook_z",
    "mlp_pre": "blocks.{}.mlp.hook_pre",
    "mlp_act": "blocks.{}.mlp.hook_post",
}
_NNTERP = {
    "embed": "token_embeddings",
    "resid_pre": "layers_input[{}]",
    "resid_post": "layers_output[{}]",
    "attn_out": "attentions_output[{}]",
    "mlp_out": "mlps_output[{}]",
    "pattern": "attention_probabilities[{}]",
    "logits": "logits",
}
_TABLES = {TRANSFORMER_LENS: _LENS, NNTERP: _NNTERP}
LIBRARIES = tuple(_TABLES)
"""The libraries whose names are known."""


@attrs.define(slots=False)
class NoTranslation(TenterhookError, ValueError):
    """A name of another library that has none here, or a library that is not known."""

    name: str
    """What was asked for."""

    library: str
    """The library whose it is."""

    known: list[str]
    """What would have been understood."""

    def __str__(self) -> str:
        if self.library not in _TABLES:
            return (
                f"No names of {self.library!r} are known, only those of "
                f"{' and '.join(map(repr, LIBRARIES))}."
            )
        near = ", ".join(map(repr, closest(self.name, self.known)))
        return f"{self.name!r} is no name of {self.library} that has one here. Closest: {near}."


def to_library(name: str, library: str, *, rotary: bool = True) -> str | None:
    """Return what a library calls the place `name`: `blocks.3.attn.hook_z` for `z.3`.

    `rotary` says whether the model has rotary positions: without them `q` and `q_pre` are the same
    place, and TransformerLens has one name for both. Returns `None` where it has no name for it.
    Raises `NoTranslation`, a `ValueError`, for a library that is not known.
    """
    table = _table(name, library)
    word, _, block = name.partition(".")
    if library == TRANSFORMER_LENS and not rotary and word in ("q", "k"):
        word = f"{word}_pre"
    found = table.get(word)
    return None if found is None or ("{}" in found) != block.isdecimal() else found.format(block)


def from_library(name: str, library: str) -> str:
    """Return the name here of a place that a library calls `name`: `z.3`.

    `hook_q` of TransformerLens is before rotary positions, so it is `q_pre`. Raises
    `NoTranslation`, a `ValueError`, for a name that has none here.
    """
    table = _table(name, library)
    for word, other in table.items():
        pattern = re.escape(other).replace(re.escape("{}"), r"(\d+)")
        found = re.fullmatch(pattern, name)
        if found:
            return f"{word}.{found[1]}" if found.groups() else word
    raise NoTranslation(name, library, [each.format(0) for each in table.values()])


def _table(name: str, library: str) -> dict[str, str]:
    if library not in _TABLES:
        raise NoTranslation(name, library, list(LIBRARIES))
    return _TABLES[library]
