"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_controllers() -> Sequence[Extension]:
    """Declare the controllers of this distribution."""
    return [
        Extension(
            "FunctionController",
            "tenterhook_function_controller.controller:FunctionController",
            "Apply a function of a tensor to a layer's activation.",
            example="tenterhook_function_controller.examples:of_tanh",
        ),
    ]
