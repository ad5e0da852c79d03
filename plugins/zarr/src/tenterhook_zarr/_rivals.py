"""Which names stand in a folder that some file system would take for another name.

The folder is listed once, and again when somebody else may have added to it; then only what is new
in it is looked at. So saving a tensor beside 10,000 others takes about as long as beside ten, while
another process saves some too.
"""

from collections.abc import Callable
from pathlib import PurePath

from tenterhook_store import check_free, fold
from tenterhook_zarr._backend import Files


class Rivals:
    """The names of one kind that stand in one folder, as far as they are known."""

    def __init__(
        self,
        kind: str,
        files: Files,
        folder: PurePath,
        name_of: Callable[[str], str | None],
        holds: Callable[[str], bool],
    ) -> None:
        """`name_of` says what a folder in it is named after; `holds` looks whether that is so."""
        self._kind = kind
        self._files = files
        self._folder = folder
        self._name_of = name_of
        self._holds = holds
        self._known: dict[str, set[str]] = {}
        """Names by what they are where case is ignored; some may be gone by now."""
        self._listed: set[str] = set()
        """Folders whose names are known."""
        self._state: object = None

    def check(self, name: str) -> None:
        """Raise `NameTaken` if another of the names would be the same file somewhere."""
        state = self._files.state(self._folder)
        if state is None or state != self._state:
            names = {each for each in self._files.names(self._folder) if not each.startswith(".")}
            self._listed &= names
            for folder in names - self._listed:
                found = self._name_of(folder)
                if found is not None:
                    self._known.setdefault(fold(found), set()).add(found)
                    self._listed.add(folder)
            self._state = state
        rivals = self._known.get(fold(name), set()) - {name}
        check_free(self._kind, name, sorted(filter(self._holds, rivals)))

    def added(self, name: str) -> None:
        """Remember a name that was just added, and look again only once others add more."""
        self._known.setdefault(fold(name), set()).add(name)
        self._state = self._files.state(self._folder)
