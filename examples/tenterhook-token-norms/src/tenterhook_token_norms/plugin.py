"""What this distribution offers to tenterhook; imports none of it."""

from tenterhook import Extension, hookimpl


@hookimpl
def tenterhook_detectors() -> list[Extension]:
    """Name the detector."""
    return [
        Extension(
            name="TokenNormDetector",
            target="tenterhook_token_norms.detector:TokenNormDetector",
            help="Keeps the L2 norm of each token's activation.",
        )
    ]
