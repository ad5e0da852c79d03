"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_controllers() -> Sequence[Extension]:
    """Declare the controllers of this distribution."""
    helps = {
        "AddVector": "Add a vector to a layer's activation, with a coefficient.",
        "Clamp": "Keep a layer's activation between bounds.",
        "MeanAblate": "Put a given mean in place of a layer's activation.",
        "Patch": "Put the activation of another run in place of a layer's.",
        "ProjectOut": "Remove directions from a layer's activation.",
        "Scale": "Multiply a layer's activation by a factor.",
        "ZeroAblate": "Put zeros in place of a layer's activation.",
    }
    return [
        Extension(name, f"tenterhook_edits.controllers:{name}", help)
        for name, help in helps.items()
    ]
