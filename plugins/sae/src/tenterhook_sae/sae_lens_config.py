"""What `cfg.json` says, in every layout of SAELens: which function the weights beside it are.

SAELens 6 has a class for each architecture, and `k` beside its other settings. Versions 4 and 5
have one class for all: a top-k is an activation function there (`activation_fn_str`), whose `k` is
among that function's arguments (`activation_fn_kwargs`), with `architecture` `"topk"`; before, it
was `"standard"` or not there at all. Still older ones say `activation_fn` and `hook_point`.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from tenterhook.one_line import shown
from tenterhook_sae.errors import UnknownArchitecture, UnreadableSae
from tenterhook_sae.kinds import SAES
from tenterhook_sae.limits import WIDEST

CONFIG = "cfg.json"

TRANSCODERS = ("transcoder", "skip_transcoder")
TOP_K = "topk_"
"""What our configs have before the architecture of a transcoder with `k`, which SAELens has not."""

_DTYPES = {
    f"{prefix}{name}": getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16")
    for prefix in ("", "torch.")
}

_ACTIVATIONS = {
    "standard": ("relu",),
    "topk": ("topk",),
    "batchtopk": ("relu", "topk", "batchtopk"),
    "jumprelu": ("relu", "jumprelu"),
    "gated": ("relu",),
    "transcoder": ("relu",),
    "skip_transcoder": ("relu",),
    "crosscoder": (),
    "model_crosscoder": (),
    "matryoshka_batchtopk": ("relu", "topk", "batchtopk"),
}
"""The activation functions that older configs name beside an architecture."""


@attrs.frozen(kw_only=True)
class SaeConfig:
    """What a config says, in one way whatever version wrote it."""

    architecture: str
    n_inputs: int
    n_latents: int
    dtype: torch.dtype
    center: bool
    k: Any
    """As it is there, `None` where it is not."""

    rescale: bool
    """Whether latents are weighed by the lengths of decoder rows."""

    hook_name: str | None
    """The layer, as TransformerLens calls it."""

    more: Mapping[str, Any]
    """The config itself."""

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> "SaeConfig":
        """Raises `UnknownArchitecture`, and `UnreadableSae` for what is missing or not done here.

        The latter includes what is of another type than it should be.
        """
        say = _Say(config, where)
        activation = say.activation()
        architecture = say.text("architecture") or "standard"
        if architecture == "standard" and activation == "topk":
            architecture = "topk"
        plain = architecture.removeprefix(TOP_K)
        if plain != architecture and plain in TRANSCODERS:
            architecture = plain
        if architecture not in SAES:
            raise UnknownArchitecture(where, architecture, sorted(SAES))
        if activation is not None and activation not in _ACTIVATIONS[architecture]:
            say.wrong(
                f"architecture={architecture!r} with the activation function {activation!r}, "
                "and the two are not one function"
            )
        say.check_nothing_else_is_done()
        metadata = say.mapping("metadata")
        arguments = say.mapping("activation_fn_kwargs")
        k = config["k"] if config.get("k") is not None else arguments.get("k")
        return cls(
            architecture=architecture,
            n_inputs=say.size("d_in"),
            n_latents=say.size("d_sae"),
            dtype=say.dtype(),
            center=say.flag("apply_b_dec_to_input", default=architecture not in TRANSCODERS),
            k=k,
            rescale=config.get("rescale_acts_by_decoder_norm") is not None
            and say.flag("rescale_acts_by_decoder_norm", default=False),
            hook_name=_Say(metadata, where).text("hook_name_out")
            or _Say(metadata, where).text("hook_name")
            or say.text("hook_name")
            or say.text("hook_point"),
            more=config,
        )


@attrs.frozen
class _Say:
    """The values of a config, each of its type or an error that shows it."""

    config: Mapping[str, Any]
    where: str

    def wrong(self, what: str) -> None:
        raise UnreadableSae(self.where, f"{CONFIG} says {what}.")

    def text(self, key: str) -> str | None:
        value = self.config.get(key)
        if value is not None and not isinstance(value, str):
            self.wrong(f"{key}={shown(value)}, which is no text")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.config.get(key)
        if value is not None and not isinstance(value, dict):
            self.wrong(f"{key}={shown(value)}, which is no object")
        return value or {}

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            self.wrong(f"{key}={shown(value)}, which is neither true nor false")
        return bool(value)

    def size(self, key: str) -> int:
        value = self.config.get(key)
        if type(value) is not int or not 1 <= value <= WIDEST:
            what = f"{CONFIG} has no whole number {key!r}, 1 or more and {WIDEST:,} at most"
            raise UnreadableSae(self.where, what)
        return value

    def dtype(self) -> torch.dtype:
        name = self.text("dtype") or "float32"
        if name not in _DTYPES:
            self.wrong(f"dtype={shown(name)}, which is no floating dtype that SAEs are in")
        found: torch.dtype = _DTYPES[name]
        return found

    def activation(self) -> str | None:
        """Return the activation function that older configs name; later ones name none."""
        named = {key: self.text(key) for key in ("activation_fn", "activation_fn_str")}
        for key, value in named.items():
            if value not in (None, "relu", "topk", "batchtopk", "jumprelu"):
                self.wrong(
                    f"{key}={shown(value)}, which is not done here; relu, topk, batchtopk and "
                    "jumprelu are"
                )
        found = {value for value in named.values() if value is not None}
        if len(found) > 1:
            self.wrong(f"two activation functions, {' and '.join(sorted(found))}")
        return found.pop() if found else None

    def check_nothing_else_is_done(self) -> None:
        for key in ("normalize_activations", "reshape_activations"):
            value = self.config.get(key)
            if not (value is None or value is False or value == "none"):
                self.wrong(f"{key}={shown(value)}, which is not done here. {_way_out(value)}")
        if self.config.get("finetuning_scaling_factor"):
            self.wrong("finetuning_scaling_factor, which is not done here")


def _way_out(value: Any) -> str:
    """Return what to do with an SAE whose activations SAELens changes before it encodes them."""
    if value == "expected_average_only_in":
        return (
            "It is one factor: fold it into the weights with fold_activation_norm_scaling_factor "
            "of SAELens, and save again"
        )
    if value == "hook_z":
        return (
            "For a layer that has its heads side by side in one axis, 'none' is the same: write "
            f"that into {CONFIG}"
        )
    return (
        "What each row's own numbers decide cannot be folded into weights: run this SAE with "
        "SAELens"
    )
