"""What is shared with all of a run: safetensors files, one a piece, and the record that signs them.

shared/NAME.json                the record: the plan that they are of, facts, and each piece's size
                                and checksum; written last, so that what has one is whole
shared/NAME/000000.safetensors  a piece

Of two processes that share at once both write the same files, and one of them the record.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, final

from tenterhook_store import (
    BadName,
    DamagedStore,
    DeletedRun,
    Problem,
    check_shared_name,
)
from tenterhook_zarr._backend import Files, read_file
from tenterhook_zarr._commits import SharedRecord
from tenterhook_zarr._folder import PLAN, RunFolder, plan_checksum
from tenterhook_zarr._records import record_of, sealed
from tenterhook_zarr._unit_tensors import describe, pack, storable, unpack

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


@final
class ZarrTensors:
    """Reads what was shared under one name; fills `SharedTensors`."""

    def __init__(self, files: Files, folder: PurePath, record: SharedRecord) -> None:
        self._files = files
        self._folder = folder
        self._record = record

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was said of them."""
        return self._record.facts

    def __len__(self) -> int:
        return len(self._record.pieces)

    def load(self, piece: int) -> "dict[str, Tensor]":
        """Return the tensors of a piece; `DamagedStore` where the record signs others."""
        signed, path = self._record.pieces[piece], self._folder / piece_file(piece)
        return unpack(read_file(self._files, path, signed.bytes), signed, self._files.show(path))


def share(
    folder: RunFolder, name: str, pieces: "Iterable[Mapping[str, Tensor]]", facts: Mapping[str, Any]
) -> None:
    """Keep pieces with a run, and their record when they are all there."""
    record, parts = _record_path(folder, name), folder.shared / name
    files = folder.files
    if files.is_there(record):
        return
    files.make_below(folder.path, parts)
    signed = []
    for number, piece in enumerate(pieces):
        tensors = {key: storable(tensor) for key, tensor in piece.items()}
        content = pack(tensors)
        files.write(parts / piece_file(number), content)
        signed.append(describe(content, tensors))
    _check_there(folder)
    files.write_once(
        record,
        sealed({"format": FORMAT, "plan": folder.signature, "facts": facts, "pieces": signed}),
    )
    if not files.is_local and not files.is_there(folder.path / PLAN):
        files.remove(record)  # where nothing is renamed, a removal can have passed by
        raise DeletedRun(folder.path.name)


def shared(folder: RunFolder, name: str) -> ZarrTensors | None:
    """Return what was shared under a name; `DamagedStore` where it is not of this run."""
    try:
        check_shared_name(name)
    except BadName:
        return None
    path = _record_path(folder, name)
    if not folder.files.is_there(path):
        return None
    shown = folder.files.show(path)
    record = record_of(SharedRecord, folder.read_record(path), shown)
    if record.plan != folder.signature:
        raise DamagedStore(shown, f"it was made with another {PLAN} than the one that is there")
    return ZarrTensors(folder.files, folder.shared / name, record)


def problems_of_shared(folder: RunFolder) -> Iterator[Problem]:
    """Read all that was shared, and return what is not as it was written."""
    for path in folder.records_in(folder.shared):
        name = path.name.removesuffix(".json")
        try:
            found = shared(folder, name)
        except DamagedStore as error:
            yield Problem(None, error.path, error.reason)
            continue
        if found is None:
            yield Problem(None, folder.files.show(path), "nothing of that name is shared")
            continue
        for piece in range(len(found)):
            try:
                found.load(piece)
            except DamagedStore as error:
                yield Problem(None, error.path, error.reason)


def piece_file(piece: int) -> str:
    """Return the name of the file of a piece."""
    return f"{piece:06d}.safetensors"


def _check_there(folder: RunFolder) -> None:
    """Raise `DeletedRun` unless the run is still the one that was opened."""
    try:
        found = plan_checksum(folder)
    except DamagedStore:
        found = ""
    if found != folder.signature:
        raise DeletedRun(folder.path.name)


def _record_path(folder: RunFolder, name: str) -> PurePath:
    return folder.shared / f"{check_shared_name(name)}.json"
