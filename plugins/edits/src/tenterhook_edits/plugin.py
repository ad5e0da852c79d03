"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_controllers() -> Sequence[Extension]:
    """Declare the controllers of this distribution."""
    target, examples = "tenterhook_edits.controllers:", "tenterhook_edits.examples:"
    helps = {
        "AddVector": "Add a vector to a layer's activation, with a coefficient.",
        "Clamp": "Keep a layer's activation between bounds.",
        "MeanAblate": "Put a given mean in place of a layer's activation.",
        "Patch": "Put the activation of another run in place of a layer's.",
        "ProjectOut": "Remove directions from a layer's activation.",
        "Scale": "Multiply a layer's activation by a factor.",
        "ZeroAblate": "Put zeros in place of a layer's activation.",
    }
    made_by = {
        "AddVector": "add_vector",
        "Clamp": "clamp",
        "MeanAblate": "mean_ablate",
        "Patch": "patch",
        "ProjectOut": "project_out",
        "Scale": "scale",
    }
    return [
        Extension(
            name,
            f"{target}{name}",
            help,
            example=f"{examples}{made_by[name]}" if name in made_by else "",
        )
        for name, help in helps.items()
    ]
