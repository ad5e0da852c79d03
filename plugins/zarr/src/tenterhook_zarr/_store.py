"""The store: a folder with a mark, tensors by name, and runs."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from tenterhook.store import (
    DamagedStore,
    NoStore,
    NotAStore,
    NotWritable,
    Run,
    RunPlan,
    UnknownRun,
    UnknownTensor,
    check_free,
    check_run_id,
    check_tensor_name,
    dtype_name,
)
from tenterhook_zarr._arrays import open_array, read_file
from tenterhook_zarr._dtypes import from_numpy, stored_as, to_bytes
from tenterhook_zarr._files import (
    is_unfinished,
    make_folders,
    nearest_standing,
    remove_abandoned,
    remove_if_empty,
    remove_tree,
    try_writing,
    write_once,
    write_whole,
)
from tenterhook_zarr._folder import PLAN, RunFolder
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._names import folder_name
from tenterhook_zarr._shards import crc32c
from tenterhook_zarr._writer import ZarrRunWriter, begin_run

MARK = "tenterhook.json"
FORMAT = {"format": "tenterhook store", "version": 1}
CURRENT = "current.json"


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
        folder = self._tensors / folder_name(name)
        with self._made():
            make_folders(folder)
            remove_abandoned(folder)
            array = _write_tensor(folder, tensor, content.tobytes(), name)
            write_whole(folder / CURRENT, to_json({"name": name, "array": array}))
        for old in folder.glob("array-*"):
            if old.name != array:
                remove_tree(old)

    def load_tensor(self, name: str) -> Tensor:
        """Return the tensor, bit for bit, on the CPU; `UnknownTensor` where there is none."""
        check_tensor_name(name)
        folder = self._tensors / folder_name(name)
        try:
            return self._load_tensor(name, folder)
        except DamagedStore:
            # Another process may have put a new one in its place meanwhile; once more, then.
            return self._load_tensor(name, folder)

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(json.loads(read_file(p))["name"] for p in self._tensors.glob(f"*/{CURRENT}"))

    def _load_tensor(self, name: str, folder: Path) -> Tensor:
        if not (folder / CURRENT).exists():
            raise UnknownTensor(name, self.list_tensors(), self.location)
        array = folder / str(json.loads(read_file(folder / CURRENT))["array"])
        metadata = json.loads(read_file(array / "zarr.json"))
        if 0 not in metadata["shape"]:
            read_file(array / _only_chunk(len(metadata["shape"])))
        try:
            return from_numpy(open_array(array)[...], metadata["attributes"]["torch_dtype"])
        except ValueError as error:
            raise DamagedStore(str(array), f"this tensor cannot be read ({error})") from error

    # --- runs

    def runs(self) -> list[str]:
        """Return the ids of all runs, sorted."""
        return sorted(path.parent.name for path in self._runs.glob(f"*/{PLAN}"))

    def run(self, run_id: str) -> Run:
        """Open a run for reading, which changes nothing; `UnknownRun` where there is none."""
        check_run_id(run_id)
        known = self.runs()
        if run_id not in known:
            raise UnknownRun(run_id, known, self.location)
        folder = RunFolder.open(self._runs / run_id)
        return Run(
            run_id,
            folder.plan,
            folder.committed(),
            read_layer=lambda name, start, stop: folder.read(("layer", name), start, stop),
            read_number=lambda name, start, stop: folder.read(("row", name), start, stop),
            load_records=folder.records,
        )

    def write_run(self, run_id: str, plan: RunPlan) -> ZarrRunWriter:
        """Begin a run, or go on with one of the same plan; see `Store.write_run`."""
        check_run_id(run_id)
        for layer in plan.layers:
            stored_as(layer.dtype)
        check_free("run", run_id, self.runs())
        with self._made():
            return begin_run(self._runs / run_id, plan)

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""
        standing = nearest_standing(self.path)
        try:
            try_writing(standing)
        except OSError as error:
            raise NotWritable(self.location, _cannot_write(error)) from error

    # --- the folder

    @property
    def _runs(self) -> Path:
        return self.path / "runs"

    @property
    def _tensors(self) -> Path:
        return self.path / "tensors"

    def _check_place(self, create: bool) -> None:
        try:
            standing = nearest_standing(self.path)
            if not standing.is_dir():
                raise NotAStore(str(standing), "this is no folder, so no store can be in it")
            if standing != self.path:
                _check_names(standing, self.path)
                if not create:
                    raise NoStore(self.location, "there is no such folder")
            elif (self.path / MARK).is_file():
                _check_format(self.path / MARK)
            elif not all(is_unfinished(name) for name in os.listdir(self.path)):
                reason = "this folder holds something else and no store; choose another"
                raise NotAStore(self.location, reason)
            elif not create:
                raise NoStore(self.location, "this folder is empty")
        except (NotAStore, NoStore):
            raise
        except PermissionError as error:
            raise NotWritable(self.location, f"it cannot be opened: {error.strerror}") from error
        except OSError as error:  # a name that is too long, a loop of links
            raise NotAStore(self.location, f"no store can be there: {error.strerror}") from error

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Have the folder be a store; if that, or what is done with it, fails, unmake it."""
        new: list[Path] = []
        marked = False
        try:
            new = make_folders(self.path)
            marked = write_once(self.path / MARK, to_json(FORMAT))
            for folder in (self.path, self._runs, self._tensors):
                remove_abandoned(folder)
                make_folders(folder)
            yield
        except BaseException as error:
            if marked:
                self._unmake()
            for folder in reversed(new):
                remove_if_empty(folder)
            if isinstance(error, OSError) and not isinstance(error, NotWritable | NotAStore):
                raise NotWritable(self.location, _cannot_write(error)) from error
            raise

    def _unmake(self) -> None:
        """Take back a new store in which nothing came to be."""
        for tensor in self._tensors.glob("*/"):
            if not (tensor / CURRENT).exists():
                remove_tree(tensor)
        if self.runs() or self.list_tensors():
            return
        remove_if_empty(self._runs)
        remove_if_empty(self._tensors)
        (self.path / MARK).unlink(missing_ok=True)
        remove_if_empty(self.path)


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


def _write_tensor(folder: Path, tensor: Tensor, content: bytes, name: str) -> str:
    """Write a zarr array of one chunk under a name that follows from its content; return that."""
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
    array = f"array-{hashlib.sha256(metadata + content).hexdigest()[:16]}"
    if content:
        chunk = folder / array / _only_chunk(len(shape))
        make_folders(chunk.parent)
        write_whole(chunk, content + crc32c(content))
    make_folders(folder / array)
    write_whole(folder / array / "zarr.json", metadata)
    return array
