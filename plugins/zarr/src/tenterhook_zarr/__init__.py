"""The zarr store of tenterhook: tensors and runs as plain zarr 3 in a folder."""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_zarr._store import ZarrStore as ZarrStore

__all__ = ["ZarrStore"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "_store"))
