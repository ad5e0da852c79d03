"""Tensors by name: each a zarr array of one chunk, and a record that says which is current."""

import contextlib
import math
import os
import secrets
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from tenterhook_store import CannotKeep, DamagedStore, dtype_name
from tenterhook_store.structuring import WHOLE
from tenterhook_zarr._backend import Files, read_file
from tenterhook_zarr._checksums import CRC_BYTES, checksum, crc32c
from tenterhook_zarr._commits import TensorRecord
from tenterhook_zarr._dtypes import from_numpy, stored_as, to_bytes
from tenterhook_zarr._files import (
    TRIES,
    in_folder,
    is_unfinished,
    move,
    remove_abandoned,
    remove_if_empty,
    remove_tree,
    write_aside,
)
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._record_json import record_json
from tenterhook_zarr._records import record_of, sealed, unsealed

if TYPE_CHECKING:
    from torch import Tensor

CURRENT = "current.json"


def save_tensor(files: Files, folder: PurePath, tensor: "Tensor", name: str) -> None:
    """Keep a tensor of any shape in its folder, in place of what was there; atomic."""
    content = to_bytes(tensor).tobytes()
    array = f"array-{secrets.token_hex(8)}"
    metadata = to_json(_metadata(list(tensor.shape), dtype_name(tensor.dtype), name))
    record = sealed({"name": name, "array": array, "metadata": checksum(metadata)})
    axes = tensor.ndim
    if files.is_local:
        _save_here(files, Path(folder), array, record, metadata, content, axes)
        return
    files.settle(folder)
    before = _array_of(files, folder / CURRENT)
    _write_tensor(files, folder / array, metadata, content, axes)
    files.write(folder / CURRENT, record)
    if before is not None:
        files.remove_all(folder / before)


def _save_here(
    files: Files,
    folder: Path,
    array: str,
    record: bytes,
    metadata: bytes,
    content: bytes,
    axes: int,
) -> None:
    claim: Path | None = None
    current = folder / CURRENT
    try:
        # There before the array is, and then what names it: see `_remove_old`.
        claim = in_folder(folder, lambda: write_aside(current, record))
        _write_tensor(files, folder / array, metadata, content, axes)
        move(claim, current)
    finally:
        if claim is not None:
            claim.unlink(missing_ok=True)
        _remove_old(files, folder)
        remove_if_empty(folder)


def load_tensor(files: Files, folder: PurePath, name: str) -> "Tensor | None":
    """Return the tensor of that name, bit for bit; `None` where its folder has none.

    Raises `DamagedStore` where it is not what was written.
    """
    for _ in range(TRIES):
        record = _current(files, folder / CURRENT)
        if record is None:
            return None
        if record.name != name:
            reason = f"it is of the tensor {record.name!r} and stands in the place of {name!r}"
            raise DamagedStore(files.show(folder / CURRENT), reason)
        try:
            return _read_tensor(files, folder / record.array, record)
        except DamagedStore as error:
            # What is current stays; what another process has replaced meanwhile is removed.
            if _array_of(files, folder / CURRENT) == record.array:
                raise
            failed = error
    raise failed


def name_in(files: Files, folder: PurePath) -> str | None:
    """Return the name of the tensor in a folder; `None` where there is none."""
    found = _current(files, folder / CURRENT)
    return None if found is None else found.name


def _only_chunk(axes: int) -> str:
    return "/".join(["c", *["0"] * axes])


def _current(files: Files, path: PurePath) -> TensorRecord | None:
    """Return what a record says of a tensor; `None` where there is no such file."""
    try:
        content = files.read(path)
    except FileNotFoundError:
        return None
    return record_of(TensorRecord, unsealed(content, files.show(path)), files.show(path))


def _array_of(files: Files, path: PurePath) -> str | None:
    """Return the array that a record names; `None` where there is no such file."""
    found = _current(files, path)
    return None if found is None else found.array


def _remove_old(files: Files, folder: Path) -> None:
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
                arrays.discard(_array_of(files, folder / name) or "")
        arrays.discard(_array_of(files, folder / CURRENT) or "")
        for array in arrays:
            remove_tree(folder / array)


def _read_tensor(files: Files, array: PurePath, record: TensorRecord) -> "Tensor":
    """Read what `_write_tensor` wrote, each file at once.

    Not through zarr, to which a chunk that is removed meanwhile is one of fill values.
    """
    path = array / "zarr.json"
    content = read_file(files, path)
    if checksum(content) != record.metadata:
        raise DamagedStore(files.show(path), "its checksum says that it is not what was written")
    shape, dtype = _shape_and_dtype(content, record.name, files.show(path))
    stored = stored_as(dtype).numpy
    if 0 in shape:
        return from_numpy(np.empty(shape, dtype=stored), dtype)
    path = array / _only_chunk(len(shape))
    chunk = read_file(files, path, math.prod(shape) * stored.itemsize + CRC_BYTES)
    values = chunk[:-CRC_BYTES]
    if len(values) != math.prod(shape) * stored.itemsize or crc32c(values) != chunk[-CRC_BYTES:]:
        reason = "this tensor cannot be read: its checksum says that it is not what was written"
        raise DamagedStore(files.show(path), reason)
    return from_numpy(np.frombuffer(values, dtype=stored).reshape(shape), dtype)


def _shape_and_dtype(content: bytes, name: str, path: str) -> tuple[list[int], str]:
    """Read what `_metadata` wrote; `DamagedStore` where it is something else."""
    found = record_json(content, path)
    try:
        shape, dtype = found["shape"], found["attributes"]["torch_dtype"]
        if (
            all(type(each) is int and 0 <= each < WHOLE for each in shape)
            and to_json(_metadata(shape, dtype, name)) == content
        ):
            return shape, dtype
    except (LookupError, TypeError, CannotKeep):
        pass
    raise DamagedStore(path, f"this is not the metadata of the tensor {name!r}")


def _write_tensor(
    files: Files, array: PurePath, metadata: bytes, content: bytes, axes: int
) -> None:
    """Write a zarr array of one chunk."""
    if content:
        chunk = array / _only_chunk(axes)
        files.make(chunk.parent)
        files.write(chunk, content + crc32c(content))
    files.make(array)
    files.write(array / "zarr.json", metadata)


def _metadata(shape: list[int], dtype: str, name: str) -> dict[str, Any]:
    """Return what the `zarr.json` of a tensor says: an array of one chunk."""
    stored = stored_as(dtype)
    values: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if stored.numpy.itemsize == 1:
        values = {"name": "bytes"}
    return {
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
