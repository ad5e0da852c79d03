"""The store: a folder with a mark, tensors by name, and runs."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tenterhook.store import (
    DamagedStore,
    NoStore,
    NotAStore,
    NotWritable,
    Problem,
    Run,
    RunPlan,
    UnknownRun,
    UnknownTensor,
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
    dtype_name,
)
from tenterhook_zarr._arrays import read_file
from tenterhook_zarr._checksums import CRC_BYTES, crc32c
from tenterhook_zarr._dtypes import from_numpy, stored_as, to_bytes
from tenterhook_zarr._files import (
    TRIES,
    in_folder,
    is_there,
    is_unfinished,
    make_below,
    make_folders,
    nearest_standing,
    put_in_place,
    remove_abandoned,
    remove_aside,
    remove_if_empty,
    remove_tree,
    try_writing,
    write_aside,
    write_once,
    write_whole,
)
from tenterhook_zarr._folder import PLAN, KeptReader, RunFolder
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._names import folder_name
from tenterhook_zarr._records import sealed, unsealed
from tenterhook_zarr._verify import verify
from tenterhook_zarr._writer import ZarrRunWriter, begin_run

MARK = "tenterhook.json"
FORMAT = {"format": "tenterhook store", "version": 1}
CURRENT = "current.json"
_LOOKS = 50


class ZarrStore:
    """Tensors and runs in a folder, as plain zarr format 3.

    The folder is made with the first thing that is kept; opening and reading make nothing.
    Several processes may use one folder.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        """Open the store at a path, which need not be there unless `create=False`.

        Raises `NotAStore` where the place holds something else, `NoStore` where it must be there
        and is not.
        """
        self.path = Path(_checked_path(path)).expanduser().absolute()
        self._check_place(create)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"ZarrStore({str(self.path)!r})"

    # --- tensors

    def save_tensor(self, name: str, tensor: Tensor) -> None:
        """Keep a copy of the tensor under the name, in place of what was there; atomic."""
        check_tensor_name(name)
        content = to_bytes(tensor)
        check_free("tensor", name, self.list_tensors())
        current = self._tensors / folder_name(name) / CURRENT
        folder = current.parent
        array = f"array-{secrets.token_hex(8)}"
        names = sealed({"name": name, "array": array})
        with self._made():
            claim: Path | None = None
            try:
                # There before the array is, and then what names it: see `_remove_old`.
                claim = in_folder(folder, lambda: write_aside(current, names))
                _write_tensor(folder / array, tensor, content.tobytes(), name)
                put_in_place(claim, current)
            finally:
                if claim is not None:
                    claim.unlink(missing_ok=True)
                _remove_old(folder)
                remove_if_empty(folder)

    def load_tensor(self, name: str) -> Tensor:
        """Return the tensor, bit for bit, on the CPU; `UnknownTensor` where there is none."""
        check_tensor_name(name)
        current = self._tensors / folder_name(name) / CURRENT
        for _ in range(TRIES):
            array = _array_of(current)
            if array is None:
                raise UnknownTensor(name, self.list_tensors(), self.location)
            try:
                return _read_tensor(current.parent / array)
            except DamagedStore as error:
                # What is current stays; what another process has replaced meanwhile is removed.
                if _array_of(current) == array:
                    raise
                failed = error
        raise failed

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        found = (_named_by(each / CURRENT) for each in self._folders_with(self._tensors, CURRENT))
        return sorted(named["name"] for named in found if named is not None)

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor, for good; `UnknownTensor` where there is none."""
        check_tensor_name(name)
        folder = self._tensors / folder_name(name)
        if not is_there(folder / CURRENT):
            raise UnknownTensor(name, self.list_tensors(), self.location)
        with self._refused():
            remove_aside(folder)

    # --- runs

    def runs(self) -> list[str]:
        """Return the ids of all runs, sorted."""
        return sorted(folder.name for folder in self._folders_with(self._runs, PLAN))

    def run(self, run_id: str) -> Run:
        """Open a run for reading, which changes nothing; `UnknownRun` where there is none."""
        folder = self._opened(run_id)
        return Run(
            run_id,
            folder.plan,
            folder.committed(),
            read_layer=lambda name, start, stop: folder.read(("layer", name), start, stop),
            read_number=lambda name, start, stop: folder.read(("row", name), start, stop),
            load_records=folder.records,
            take_layer=lambda name, rows, check: folder.take(("layer", name), rows, check),
            take_number=lambda name, rows, check: folder.take(("row", name), rows, check),
            store=self,
            load_attributes=folder.notes,
            kept=KeptReader(folder),
        )

    def delete_run(self, run_id: str) -> None:
        """Remove a run, for good; `UnknownRun` where there is none.

        It is renamed first, so that it is gone as a whole, and then removed file by file.
        """
        self._check_known(run_id)
        with self._refused():
            remove_aside(self._runs / run_id)

    def verify_run(self, run_id: str) -> list[Problem]:
        """Read every checksum of a run and return what is wrong; see `Store.verify_run`."""
        self._check_known(run_id)
        return verify(self._runs / run_id)

    def set_attribute(self, run_id: str, name: str, value: Any) -> None:
        """Note something on a run; see `Store.set_attribute`."""
        check_attribute(name, value)
        folder = self._opened(run_id)
        check_free("attribute", name, folder.notes())
        path = folder.attributes / f"{folder_name(name)}.json"
        with self._refused():
            if value is None:
                path.unlink(missing_ok=True)
            else:
                make_below(path.parent, folder.path)
                write_whole(path, sealed({"name": name, "value": value}))

    def write_run(self, run_id: str, plan: RunPlan) -> ZarrRunWriter:
        """Begin a run, or go on with one of the same plan; see `Store.write_run`."""
        check_run_id(run_id)
        for layer in plan.layers:
            stored_as(layer.dtype)
        check_free("run", run_id, self.runs())
        with self._made():
            return begin_run(self._runs / run_id, plan)

    def _check_known(self, run_id: str) -> None:
        check_run_id(run_id)
        known = self.runs()
        if run_id not in known:
            raise UnknownRun(run_id, known, self.location)

    def _opened(self, run_id: str) -> RunFolder:
        self._check_known(run_id)
        return RunFolder.open(self._runs / run_id)

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Say of what the system refuses where it was."""
        try:
            yield
        except NotWritable:
            raise
        except OSError as error:
            raise NotWritable(str(error.filename or self.location), _cannot_write(error)) from error

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""
        standing = nearest_standing(self.path)
        try:
            try_writing(standing)
        except OSError as error:
            raise NotWritable(self.location, _cannot_write(error)) from error

    def count_shards(self, plan: RunPlan) -> int:
        """Return how many files of rows a run of that plan will have."""
        folder = RunFolder(self._runs, plan)
        layouts = [folder.planned_layout(key) for key in folder.keys()]  # noqa: SIM118
        return sum(-(-plan.rows // layout.shard_rows) for layout in layouts)

    # --- the folder

    @property
    def _runs(self) -> Path:
        return self.path / "runs"

    @property
    def _tensors(self) -> Path:
        return self.path / "tensors"

    def _folders_with(self, parent: Path, file: str) -> list[Path]:
        """Return the folders that have the file; `NotWritable` where they cannot be looked at."""
        try:
            folders = [parent / name for name in os.listdir(parent)]
            return [folder for folder in folders if is_there(folder / file)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NotWritable(str(parent), f"it cannot be opened: {error.strerror}") from error

    def _check_place(self, create: bool) -> None:
        try:
            standing = nearest_standing(self.path)
            if not standing.is_dir():
                raise NotAStore(str(standing), "this is no folder, so no store can be in it")
            if standing != self.path:
                _check_names(standing, self.path)
                if not create:
                    raise NoStore(self.location, "there is no such folder")
            elif self._holds_store():
                with contextlib.suppress(FileNotFoundError):  # taken back with the empty store
                    _check_format(self.path / MARK)
            elif not create:
                raise NoStore(self.location, "this folder is empty")
        except (NotAStore, NoStore):
            raise
        except PermissionError as error:
            raise NotWritable(self.location, f"it cannot be opened: {error.strerror}") from error
        except OSError as error:  # a name that is too long, a loop of links
            raise NotAStore(self.location, f"no store can be there: {error.strerror}") from error

    def _holds_store(self) -> bool:
        """Whether the folder is marked; `False` where it is empty, `NotAStore` where it is not.

        A process that begins a store, or takes a new one back, has its folders there without the
        mark for a moment; that is waited for.
        """
        for _ in range(_LOOKS):
            names = {name for name in os.listdir(self.path) if not is_unfinished(name)}
            if MARK in names or not names:
                return MARK in names
            if names - {"runs", "tensors"}:
                break
            time.sleep(0.01)
        reason = "this folder holds something else and no store; choose another"
        raise NotAStore(self.location, reason)

    def _mark(self) -> bool:
        """Say in the folder that it is a store; `False` where that was said."""
        return in_folder(self.path, lambda: write_once(self.path / MARK, to_json(FORMAT)))

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Have the folder be a store; if that, or what is done with it, fails, unmake it."""
        new: list[Path] = []
        marked = False
        try:
            new = make_folders(self.path)
            marked = self._mark()
            for folder in (self.path, self._runs, self._tensors):
                remove_abandoned(folder)
                make_folders(folder)
            yield
            if not is_there(self.path / MARK):  # another process failed, and took it back
                self._mark()
        except BaseException as error:
            if marked:
                self._unmake()
            for folder in reversed(new):
                remove_if_empty(folder)
            if isinstance(error, OSError) and not isinstance(error, NotWritable | NotAStore):
                raise NotWritable(self.location, _cannot_write(error)) from error
            raise

    def _unmake(self) -> None:
        """Take back a new store in which nothing came to be, and that nobody else uses."""
        for folder in (self._runs, self._tensors):
            remove_if_empty(folder)
            if os.path.lexists(folder):
                return
        (self.path / MARK).unlink(missing_ok=True)
        if os.listdir(self.path):
            self._mark()


def _checked_path(path: str | os.PathLike[str]) -> str:
    found = os.fspath(path)
    if not found:
        raise NotAStore("''", "the path is empty")
    if "\0" in found:
        raise NotAStore(repr(found), "the path holds a NUL character")
    if "://" in found:
        raise NotAStore(found, "this store keeps to local folders; give the path of one")
    return found


def _check_names(standing: Path, path: Path) -> None:
    """Raise `OSError` for a name, among the folders still to make, that the system never takes."""
    for part in path.relative_to(standing).parts:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(standing / part)


def _check_format(mark: Path) -> None:
    try:
        found: Any = json.loads(mark.read_bytes())
        version = found["version"] if found["format"] == FORMAT["format"] else None
    except (ValueError, LookupError, TypeError):
        version = None
    if version is None:
        raise NotAStore(str(mark.parent), f"its {MARK} is not one of a store")
    if version != FORMAT["version"]:
        raise NotAStore(
            str(mark.parent),
            f"this store has format {version}, and this version of tenterhook-zarr reads format "
            f"{FORMAT['version']}; update it",
        )


def _cannot_write(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"nothing can be written there ({reason}); choose another place, or make room or rights"


def _only_chunk(axes: int) -> str:
    return "/".join(["c", *["0"] * axes])


def _named_by(path: Path) -> dict[str, Any] | None:
    """Return what a file says of a tensor; `None` where there is no such file."""
    try:
        return unsealed(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def _array_of(path: Path) -> str | None:
    """Return the array that a file names; `None` where there is no such file."""
    found = _named_by(path)
    return None if found is None else str(found["array"])


def _remove_old(folder: Path) -> None:
    """Remove the arrays of a tensor that nothing names, now or later.

    Before a writer makes its array, its claim on it is there, whole: a file that names the array,
    and that is put in the place of `CURRENT` at the end. So an array that was seen before the
    claims were looked at, and `CURRENT` after them, is old if none of these name it.
    """
    with contextlib.suppress(OSError, DamagedStore):
        arrays = {name for name in os.listdir(folder) if name.startswith("array-")}
        remove_abandoned(folder)
        for name in filter(is_unfinished, os.listdir(folder)):
            with contextlib.suppress(DamagedStore):  # not whole yet, so its array is not there
                arrays.discard(_array_of(folder / name) or "")
        arrays.discard(_array_of(folder / CURRENT) or "")
        for array in arrays:
            remove_tree(folder / array)


def _read_tensor(array: Path) -> Tensor:
    """Read what `_write_tensor` wrote, each file at once.

    Not through zarr, to which a chunk that is removed meanwhile is one of fill values.
    """
    try:
        metadata = json.loads(read_file(array / "zarr.json"))
        shape, dtype = metadata["shape"], metadata["attributes"]["torch_dtype"]
        stored = stored_as(dtype).numpy
        if 0 in shape:
            return from_numpy(np.empty(shape, dtype=stored), dtype)
        chunk = read_file(array / _only_chunk(len(shape)))
        content, checksum = chunk[:-CRC_BYTES], chunk[-CRC_BYTES:]
        if crc32c(content) != checksum:
            raise ValueError("its checksum is another")
        return from_numpy(np.frombuffer(content, dtype=stored).reshape(shape), dtype)
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedStore(str(array), f"this tensor cannot be read ({error})") from error


def _write_tensor(array: Path, tensor: Tensor, content: bytes, name: str) -> None:
    """Write a zarr array of one chunk."""
    dtype = dtype_name(tensor.dtype)
    shape = list(tensor.shape)
    stored = stored_as(dtype)
    values: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if stored.numpy.itemsize == 1:
        values = {"name": "bytes"}
    metadata = to_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": stored.zarr,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [max(axis, 1) for axis in shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": stored.fill,
            "codecs": [values, {"name": "crc32c"}],
            "attributes": {"torch_dtype": dtype, "tensor": name},
        }
    )
    if content:
        chunk = array / _only_chunk(len(shape))
        make_folders(chunk.parent)
        write_whole(chunk, content + crc32c(content))
    make_folders(array)
    write_whole(array / "zarr.json", metadata)
