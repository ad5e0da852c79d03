"""The zarr store of tenterhook: tensors and runs as plain zarr 3 in a folder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_zarr._store import ZarrStore as ZarrStore

__all__ = ["ZarrStore"]


def __getattr__(name: str) -> Any:
    """Import the store when it is asked for, so that listing plugins does not import zarr."""
    if name == "ZarrStore":
        from tenterhook_zarr._store import ZarrStore

        return ZarrStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
