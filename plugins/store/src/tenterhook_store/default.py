"""The default store, in a folder or at a URL, whichever plugin it comes from."""

import os
from typing import TYPE_CHECKING

from tenterhook.plugins import load_store

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store

DEFAULT = "ZarrStore"


def LocalStore(base_path: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the default store in a folder, or make it there with the first thing that is kept.

    A URL will do as well: `s3://bucket/prefix`, `gs://`, `az://`, `memory://`, `file://`. With
    `create=False` a place without a store is an error, `NoStore`. The store is the zarr plugin's;
    `ImportError` says how to install it where it is missing. Raises `NotAStore` where the place
    holds something else.
    """
    store: Store = load_store(DEFAULT)(base_path, create=create)
    return store


def open_store(place: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the default store at a path or a URL; another name of `LocalStore`."""
    return LocalStore(place, create=create)
