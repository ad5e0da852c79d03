"""What this distribution offers to tenterhook; imports nothing heavy."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_engines() -> Sequence[Extension]:
    """Declare the engines that every capture has."""
    return [
        Extension(
            "local",
            "tenterhook_capture.engine:LocalEngine",
            "Does one unit after the other in this process.",
        ),
        Extension(
            "processes",
            "tenterhook_capture.processes:ProcessesEngine",
            "Several processes of this machine do units, each with a model of its own.",
        ),
        Extension(
            "slurm",
            "tenterhook_capture.slurm:SlurmEngine",
            "Tasks of a Slurm job do units, on the nodes of a cluster.",
        ),
    ]
