"""What this distribution offers to tenterhook; imports nothing heavy."""

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_stores() -> list[Extension]:
    """Declare the store."""
    return [
        Extension(
            name="ZarrStore",
            target="tenterhook_zarr:ZarrStore",
            help="Tensors and runs as plain zarr 3 in a folder, sharded, with checksums.",
            schemes=("az", "file", "gs", "memory", "s3"),
        )
    ]
