"""What this distribution offers to tenterhook; imports none of it."""

from tenterhook import Extension, hookimpl


@hookimpl
def tenterhook_detectors() -> list[Extension]:
    """Name the detector."""
    return [
        Extension(
            "StatisticsDetector",
            "tenterhook_statistics.detector:StatisticsDetector",
            "Running mean, variance and quantiles of each feature, mergeable.",
        )
    ]


@hookimpl
def tenterhook_commands() -> list[Extension]:
    """Name the command."""
    return [
        Extension(
            "statistics",
            "tenterhook_statistics.command:statistics",
            "Show mean, deviation and quantiles of a layer's features.",
        )
    ]
