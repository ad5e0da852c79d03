"""What the first-party plugins are called.

Core imports no plugin. It knows these names only to tell somebody who lacks one what to install.
"""

from collections.abc import Mapping

FIRST_PARTY: Mapping[str, Mapping[str, str]] = {
    "detectors": {
        "LayerActivationDetector": "tenterhook-layer-activation",
        "ModelInputDetector": "tenterhook-model-io",
        "ModelOutputDetector": "tenterhook-model-io",
    },
    "controllers": {
        "AddVector": "tenterhook-edits",
        "Clamp": "tenterhook-edits",
        "FunctionController": "tenterhook-function-controller",
        "MeanAblate": "tenterhook-edits",
        "Patch": "tenterhook-edits",
        "ProjectOut": "tenterhook-edits",
        "Scale": "tenterhook-edits",
        "ZeroAblate": "tenterhook-edits",
    },
    "stores": {"ZarrStore": "tenterhook-zarr"},
    "loaders": {"hf": "tenterhook-transformers", "tiny": "tenterhook-tiny"},
    "datasets": {"hf": "tenterhook-transformers", "tiny": "tenterhook-tiny"},
    "layer_names": {"transformers": "tenterhook-transformers"},
    "commands": {"tokens": "tenterhook-transformers"},
    "observers": {"run-log": "tenterhook-run-log"},
}
