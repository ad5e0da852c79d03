"""What the first-party plugins declare, by distribution.

Core imports no plugin. It knows these names to tell somebody who lacks one what to install, and to
keep them free: no other distribution serves them.
"""

from collections.abc import Mapping

_EDITS = ("AddVector", "Clamp", "MeanAblate", "Patch", "ProjectOut", "Scale", "ZeroAblate")
_ATTENTION = ("attention", "k", "k_pre", "pattern", "q", "q_pre", "scores", "v", "z")
_MLP = ("experts", "mlp_act", "mlp_pre", "router")
_RESIDUAL = ("attn_out", "mlp_out", "resid_mid", "resid_post", "resid_pre")
_POINTS = (*_ATTENTION, *_MLP, *_RESIDUAL, "embed", "final_norm", "logits", "unembed")
_FORMATS = ("csv", "datasets", "npy", "parquet", "safetensors", "webdataset")
_SAES = (
    *("BatchTopKSae", "GatedSae", "JumpReLUSae", "L1Sae", "MatryoshkaBatchTopKSae", "TopKSae"),
)

_DECLARED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "tenterhook-capture": {"engines": ("local", "processes", "slurm")},
    "tenterhook-cli": {"commands": ("capture", "layers", "plugins", "runs", "submit", "work")},
    "tenterhook-edits": {"controllers": _EDITS},
    "tenterhook-function-controller": {"controllers": ("FunctionController",)},
    "tenterhook-hook-points": {"loaders": ("points",)},
    "tenterhook-interiors": {"points": _POINTS},
    "tenterhook-layer-activation": {"detectors": ("LayerActivationDetector",)},
    "tenterhook-model-io": {"detectors": ("ModelInputDetector", "ModelOutputDetector")},
    "tenterhook-ray": {"engines": ("ray",)},
    "tenterhook-run-log": {"observers": ("run-log",)},
    "tenterhook-sae": {"detectors": _SAES, "controllers": _SAES, "commands": ("sae",)},
    "tenterhook-selections": {"selectors": ("generated", "last", "prompt")},
    "tenterhook-specs": {"spec_formats": ("json", "toml", "yaml", "yml")},
    "tenterhook-store": {"stores": ("MemoryStore",), "exporters": _FORMATS},
    "tenterhook-tiny": {"loaders": ("tiny",), "datasets": ("tiny",)},
    "tenterhook-transformers": {
        "loaders": ("hf",),
        "datasets": ("hf",),
        "layer_names": ("transformers",),
        "commands": ("tokens",),
    },
    "tenterhook-view": {"commands": ("plot", "view")},
    "tenterhook-zarr": {"stores": ("ZarrStore",), "schemes": ("az", "file", "gs", "memory", "s3")},
}

FIRST_PARTY: Mapping[str, Mapping[str, str]] = {
    kind: {name: each for each, kinds in _DECLARED.items() for name in kinds.get(kind, ())}
    for kind in sorted({kind for kinds in _DECLARED.values() for kind in kinds})
}
"""Kind to name to the distribution that has it."""


def asked_as(kind: str) -> str:
    """Return what a kind is asked for as: `tenterhook.hooks` serves detectors and controllers."""
    return "hooks" if kind in ("detectors", "controllers") else kind


RESERVED: Mapping[tuple[str, str], str] = {
    (asked, name): distribution
    for kind, names in FIRST_PARTY.items()
    for name, distribution in names.items()
    for asked in (kind, asked_as(kind))
}
"""A kind, or what it is asked for as, and a name, to the distribution that alone may serve it."""
