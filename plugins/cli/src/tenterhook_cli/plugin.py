"""What this distribution adds to tenterhook: the commands that come with it."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_commands() -> Sequence[Extension]:
    """Declare the commands."""
    return [
        Extension(
            "capture",
            "tenterhook_cli.capture:capture",
            "Save what a model's layers return for many documents.",
        ),
        Extension(
            "layers", "tenterhook_cli.layers:layers", "List the layers of a model, with weights."
        ),
        Extension("plugins", "tenterhook_cli.plugins:plugins", "Show, check and begin plugins."),
        Extension(
            "runs",
            "tenterhook_cli.runs:runs",
            "Show, check, finish, export and delete the runs of a store.",
        ),
        Extension(
            "submit",
            "tenterhook_cli.submit:submit",
            "Submit a Slurm job that does what is missing of a run.",
        ),
        Extension("work", "tenterhook_cli.work:work", "Do the units that are missing of a run."),
    ]
