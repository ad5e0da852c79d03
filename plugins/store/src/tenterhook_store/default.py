"""The store that serves a place, whichever plugin it is of: by URL scheme, else the default."""

import os
from typing import TYPE_CHECKING

from tenterhook.plugins import load_store
from tenterhook_store.schemes import store_serving

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store

DEFAULT = "ZarrStore"


def LocalStore(base_path: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the default store in a folder, or make it there with the first thing that is saved.

    A URL will do as well: `s3://bucket/prefix`, `gs://`, `az://`, `memory://`, `file://`, and what
    else an installed plugin serves: a store that declares the scheme `sqlite` opens
    `sqlite:runs.db`. A path that is there is a path whatever it is called, and so is a `Path`.

    With `create=False` a place without a store is an error, `NoStore`. Raises `UnknownScheme`
    where no plugin has the scheme, `AmbiguousExtension` where two have it, an `ImportError` that
    says what to install where the plugin is one of ours and missing, and `NotAStore` where the
    place holds something else.
    """
    found = store_serving(base_path)
    if found is None:
        store: Store = load_store(DEFAULT)(base_path, create=create)
    else:
        store = found.call(base_path, create=create)
    return store


def open_store(place: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the store at a path or a URL; another name of `LocalStore`."""
    return LocalStore(place, create=create)
