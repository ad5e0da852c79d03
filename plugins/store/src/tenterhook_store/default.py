"""The store that serves a place, whichever plugin it is of: by URL scheme, else the default."""

import os
from typing import TYPE_CHECKING

from tenterhook.one_line import shown, type_name
from tenterhook.plugins import load_store
from tenterhook_store.schemes import resolve_store

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store

DEFAULT = "ZarrStore"

_METHODS = ("location", "runs", "run", "write_run")
"""What every command asks of a store first; a store that lacks one is none."""


def LocalStore(base_path: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the default store in a folder, or make it there with the first thing that is saved.

    A URL will do as well: `s3://bucket/prefix`, `gs://`, `az://`, `memory://`, `file://`, and what
    else an installed plugin serves: a store that declares the scheme `sqlite` opens
    `sqlite:runs.db`. A path that is there is a path whatever it is called, and so is a `Path`.

    With `create=False` a place without a store is an error, `NoStore`. Raises `UnknownScheme`
    where no plugin has the scheme, `AmbiguousExtension` where two have it, an `ImportError` that
    says what to install where the plugin is one of ours and missing, `NotAStore` where the place
    holds something else, and `BrokenExtension` where what a plugin opens is no store.
    """
    found = resolve_store(base_path)
    if found is None:
        store: Store = load_store(DEFAULT)(base_path, create=create)
        return store
    try:
        opened = found.call(base_path, create=create)
    except SystemExit as error:  # the command would end as if all were well
        raise found.broken(f"called sys.exit({shown(error.code)})") from error
    lacking = [name for name in _METHODS if not hasattr(opened, name)]
    if lacking:
        raise found.broken(f"opened a {type_name(opened)}, which has no {', '.join(lacking)}")
    store = opened
    return store


def open_store(place: str | os.PathLike[str], *, create: bool = True) -> "Store":
    """Open the store at a path or a URL; another name of `LocalStore`."""
    return LocalStore(place, create=create)
