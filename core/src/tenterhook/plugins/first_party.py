"""What the first-party plugins are called.

Core imports no plugin. It knows these names only to tell somebody who lacks one what to install.
"""

from collections.abc import Mapping

FIRST_PARTY: Mapping[str, Mapping[str, str]] = {
    "detectors": {
        "BatchTopKSae": "tenterhook-sae",
        "JumpReLUSae": "tenterhook-sae",
        "L1Sae": "tenterhook-sae",
        "LayerActivationDetector": "tenterhook-layer-activation",
        "ModelInputDetector": "tenterhook-model-io",
        "ModelOutputDetector": "tenterhook-model-io",
        "TopKSae": "tenterhook-sae",
    },
    "controllers": {
        "AddVector": "tenterhook-edits",
        "BatchTopKSae": "tenterhook-sae",
        "Clamp": "tenterhook-edits",
        "FunctionController": "tenterhook-function-controller",
        "JumpReLUSae": "tenterhook-sae",
        "L1Sae": "tenterhook-sae",
        "MeanAblate": "tenterhook-edits",
        "Patch": "tenterhook-edits",
        "ProjectOut": "tenterhook-edits",
        "Scale": "tenterhook-edits",
        "TopKSae": "tenterhook-sae",
        "ZeroAblate": "tenterhook-edits",
    },
    "stores": {"MemoryStore": "tenterhook-store", "ZarrStore": "tenterhook-zarr"},
    "loaders": {
        "hf": "tenterhook-transformers",
        "points": "tenterhook-hook-points",
        "tiny": "tenterhook-tiny",
    },
    "datasets": {"hf": "tenterhook-transformers", "tiny": "tenterhook-tiny"},
    "layer_names": {"transformers": "tenterhook-transformers"},
    "commands": {"sae": "tenterhook-sae", "tokens": "tenterhook-transformers"},
    "observers": {"run-log": "tenterhook-run-log"},
    "spec_formats": {
        "json": "tenterhook-specs",
        "toml": "tenterhook-specs",
        "yaml": "tenterhook-specs",
        "yml": "tenterhook-specs",
    },
    "exporters": {
        "datasets": "tenterhook-store",
        "npy": "tenterhook-store",
        "safetensors": "tenterhook-store",
    },
}
