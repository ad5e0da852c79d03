"""Runs as other people's files: npy, safetensors, a data set of Hugging Face.

Each is written into a folder of its own, in the memory of a few rows, beside the place it is for,
and has its name once it is whole and on the disk.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import attrs
import torch
from torch import Tensor

from tenterhook.errors import TenterhookError
from tenterhook_store.errors import BadSetting, NotWritable, PlaceTaken
from tenterhook_store.row_ranges import Missing, RowRanges, ranges
from tenterhook_store.rows import Rows, as_bytes
from tenterhook_store.run import Run
from tenterhook_store.tensors import dtype_name

MARK = "run.json"
"""Says what is in the folder, and that it may be overwritten."""

FORMAT = "tenterhook export"
PIECE_BYTES = 16 * 2**20
"""About as much is in memory at a time."""

REFUSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
"""What the system says where a folder cannot be written."""

FILE_BYTES = 2**30
ARROW_FILE = "data-00000-of-00001.arrow"
ARROW_ROWS = 1024
"""Rows of a record batch: what Hugging Face's `datasets` reads at once."""

_SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}

Progress = Callable[[int, int], None]
"""Called with the rows done, over all arrays, and how many there are."""

Narrow = Literal["float32", "bits"]


def to_npy(
    run: Run,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    bfloat16: Narrow = "float32",
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as npy files, one for each array; return the folder.

    `token.npy`, `document.npy` and `position.npy` are `[rows]`; each layer is `[rows, features]`,
    in the file that `run.json` names for it. `numpy.load(path, mmap_mode="r")` reads them. npy
    has no bfloat16 and no float8: these become float32, which holds each of their values, or with
    `bfloat16="bits"` unsigned integers of their bits.

    All layers unless `layers` says which. Of a run that lacks units, the rows before the first that
    is missing are written, with a `UserWarning` where there are others; `missing="skip"` writes
    all that are there, and `missing="stop"` spares the warning. `run.json` says which rows they
    are (`rows`, ranges of row numbers) and which units are missing (the first and last of each
    stretch of them). Raises `PlaceTaken` where the folder holds something, which `overwrite=True`
    replaces if it is an export of a run, `NotWritable`, `NotCaptured`, `DamagedStore`,
    `BadSetting`, and `ImportError` without numpy.
    """
    _check_narrow(bfloat16)
    np = _needs("numpy")
    arrays = _arrays(run, layers)
    part = run.ranges.part(slice(None), missing)
    with _new_folder(folder, overwrite) as aside:
        steps = _Steps(progress, part, len(arrays))
        for each in arrays:
            convert = _for_numpy(each.rows.dtype, bfloat16)
            kind = convert(torch.empty(0, dtype=each.rows.dtype)).numpy().dtype
            header = {"descr": kind.newbyteorder("<").str, "fortran_order": False}
            with (aside / f"{each.file}.npy").open("wb") as file:
                shape = (part.rows, *each.rows.shape[1:])
                np.lib.format.write_array_header_2_0(file, {**header, "shape": shape})
                for piece in steps.through(each):
                    _write(file, convert(piece))
        files = {each.name: f"{each.file}.npy" for each in arrays}
        _mark(aside, run, part, "npy", {"files": files, "bfloat16": bfloat16})
    return Path(folder)


def to_safetensors(
    run: Run,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    file_bytes: int = FILE_BYTES,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as safetensors files of some of the rows each; return the folder.

    Every file has `token`, `document`, `position` and the layers, by their names, of the same
    rows, bit for bit in the dtype that was stored; `run.json` says which of the rows written, from
    0, are in which, and the metadata in a file the numbers that they have in the run. No
    file is larger than `file_bytes`, its header and a single row aside. What else it takes and
    raises is as for `to_npy`.
    """
    if file_bytes < 1:
        raise BadSetting("file_bytes", file_bytes, "a whole number, 1 or more")
    _needs("numpy")
    # Wide numbers first, so that each array begins where its numbers may.
    arrays = sorted(_arrays(run, layers), key=lambda each: -each.rows.dtype.itemsize)
    for each in arrays:
        if dtype_name(each.rows.dtype) not in _SAFETENSORS:
            raise BadSetting("layers", each.name, f"of a dtype of {', '.join(_SAFETENSORS)}")
    row_bytes = sum(each.row_bytes for each in arrays)
    step = max(1, file_bytes // row_bytes)
    part = run.ranges.part(slice(None), missing)
    starts = range(0, max(part.rows, 1), step)
    with _new_folder(folder, overwrite) as aside:
        steps = _Steps(progress, part, len(arrays))
        files = {}
        for number, start in enumerate(starts):
            stop = min(start + step, part.rows)
            name = f"rows-{number:05d}-of-{len(starts):05d}.safetensors"
            files[name] = [start, stop]
            with (aside / name).open("wb") as file:
                file.write(_safetensors_header(arrays, part, start, stop, run.id))
                for each in arrays:
                    for piece in steps.through(each, start, stop):
                        _write(file, piece)
        _mark(aside, run, part, "safetensors", {"files": files})
    return Path(folder)


def to_datasets(
    run: Run,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Write the rows of a run as a data set of Hugging Face; return it, a `datasets.Dataset`.

    A row has `token`, `document`, `position` and a list of numbers for each layer, by its name.
    The data set is mapped from the folder, and `datasets.load_from_disk(folder)` opens it again.
    Arrow has no bfloat16 and no float8: these become float32, which holds each of their values.
    What else it takes and raises is as for `to_npy`; `ImportError` without `datasets`.
    """
    datasets, pyarrow = _needs("datasets"), _needs("pyarrow")
    arrays = _arrays(run, layers)
    part = run.ranges.part(slice(None), missing)
    with _new_folder(folder, overwrite) as aside:
        steps = _Steps(progress, part, len(arrays))
        columns = [_ArrowColumn(each, pyarrow) for each in arrays]
        schema = pyarrow.schema([pyarrow.field(each.name, each.type) for each in columns])
        features = datasets.Features.from_arrow_schema(schema)
        # What `save_to_disk` lays around the rows, of a data set without any.
        with _no_bars(datasets):
            empty = datasets.Dataset.from_dict({name: [] for name in features}, features=features)
            empty.save_to_disk(aside)
        state = json.loads((aside / "state.json").read_bytes())
        state["_fingerprint"] = secrets.token_hex(8)
        state["_data_files"] = [{"filename": ARROW_FILE}]
        (aside / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        with (
            (aside / ARROW_FILE).open("wb") as file,
            pyarrow.ipc.new_stream(file, features.arrow_schema) as stream,
        ):
            for start, stop in steps.cut(ARROW_ROWS):
                read = [column.read(start, stop) for column in columns]
                batch = pyarrow.record_batch(read, names=[column.name for column in columns])
                stream.write_batch(batch.cast(features.arrow_schema))
                steps.count((stop - start) * len(columns))
        _mark(aside, run, part, "datasets", {})
    return datasets.load_from_disk(os.fspath(folder))


# --- the arrays of a run


@attrs.frozen(eq=False)
class _Array:
    name: str
    file: str
    """Its file's name without an ending: safe on every system."""
    rows: Rows

    @property
    def row_bytes(self) -> int:
        features = self.rows.shape[1] if self.rows.ndim > 1 else 1
        return features * self.rows.dtype.itemsize


def _arrays(run: Run, layers: str | int | Sequence[str | int] | None) -> list[_Array]:
    numbers = {
        "token": run.tokens,
        "document": run.documents.index,
        "position": run.documents.position,
    }
    asked = [layers] if isinstance(layers, str | int) else layers or run.layers
    found = {rows.name: rows for rows in map(run.__getitem__, asked)}
    if taken := sorted({*numbers, "__metadata__"} & found.keys()):
        raise BadSetting("layers", taken[0], "another name: this one means something else there")
    files = [
        f"layer-{number:03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:100]}"
        for number, name in enumerate(found)
    ]
    return [_Array(name, name, rows) for name, rows in numbers.items()] + [
        _Array(name, file, rows) for file, (name, rows) in zip(files, found.items(), strict=True)
    ]


class _Steps:
    """Goes through arrays a piece at a time and says how far it is."""

    def __init__(self, progress: Progress | None, part: RowRanges, arrays: int) -> None:
        self._progress = progress
        self._part = part
        self._done = 0
        self._total = part.rows * arrays

    def through(self, array: _Array, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Read the rows of an array from one place of the part to another."""
        for first, last in self.cut(max(1, PIECE_BYTES // array.row_bytes), start, stop):
            yield array.rows[first:last]
            self.count(last - first)

    def cut(self, step: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Return ranges of row numbers, of so many rows at most."""
        stop = self._part.rows if stop is None else stop
        for first, last in self._part.stretches(start, stop):
            for at in range(first, last, step):
                yield at, min(at + step, last)

    def count(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)


def _for_numpy(dtype: torch.dtype, narrow: Narrow) -> Callable[[Tensor], Tensor]:
    """Return what makes rows of a dtype that numpy has."""
    if not dtype_name(dtype).startswith(("bfloat16", "float8")):
        return lambda rows: rows
    if narrow == "float32":
        return lambda rows: rows.to(torch.float32)
    return lambda rows: rows.view(torch.uint16 if dtype.itemsize == 2 else torch.uint8)


def _check_narrow(bfloat16: str) -> None:
    if bfloat16 not in get_args(Narrow):
        raise BadSetting("bfloat16", bfloat16, " or ".join(map(repr, get_args(Narrow))))


# --- formats


def _safetensors_header(
    arrays: Sequence[_Array], part: RowRanges, start: int, stop: int, run_id: str
) -> bytes:
    """Return the length of the header and the header, as the format's page has it.

    https://github.com/huggingface/safetensors#format
    """
    rows = ",".join(f"{first}:{last}" for first, last in part.stretches(start, stop)) or "0:0"
    header: dict[str, Any] = {"__metadata__": {"run": run_id, "rows": rows}}
    at = 0
    for each in arrays:
        size = (stop - start) * each.row_bytes
        header[each.name] = {
            "dtype": _SAFETENSORS[dtype_name(each.rows.dtype)],
            "shape": [stop - start, *each.rows.shape[1:]],
            "data_offsets": [at, at + size],
        }
        at += size
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


class _ArrowColumn:
    """An array as a column of arrow."""

    def __init__(self, array: _Array, pyarrow: Any) -> None:
        self.name = array.name
        self._rows = array.rows
        self._pyarrow = pyarrow
        self._convert = _for_numpy(array.rows.dtype, "float32")
        empty = self._convert(torch.empty(0, dtype=array.rows.dtype))
        if empty.is_complex():
            raise BadSetting("layers", array.name, "of real numbers: arrow has no complex ones")
        kind = pyarrow.from_numpy_dtype(empty.numpy().dtype)
        self._width = array.rows.shape[1] if array.rows.ndim > 1 else None
        self.type = kind if self._width is None else pyarrow.list_(kind, self._width)

    def read(self, start: int, stop: int) -> Any:
        rows = self._convert(self._rows[start:stop])
        values = self._pyarrow.array(rows.flatten().numpy())
        if self._width is None:
            return values
        return self._pyarrow.FixedSizeListArray.from_arrays(values, self._width)


@contextlib.contextmanager
def _no_bars(datasets: Any) -> Iterator[None]:
    """Keep datasets from drawing on stderr, which is the caller's."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _needs(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"This needs {package}: `pip install {package}`.") from error


# --- files


def _write(file: BinaryIO, rows: Tensor) -> None:
    file.write(as_bytes(rows).numpy().data if len(rows) else b"")


def _mark(folder: Path, run: Run, part: RowRanges, kind: str, facts: dict[str, Any]) -> None:
    left_out = {"missing_units": ranges(run.missing, None)} if run.missing else {}
    mark = {"format": FORMAT, "kind": kind, "rows": part.pairs(), **left_out, **facts}
    mark["metadata"] = run.metadata
    content = json.dumps(mark, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MARK).write_text(content, encoding="utf-8")


@contextlib.contextmanager
def _new_folder(folder: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """Give a folder to write to, which becomes the one asked for when all is in it."""
    target = Path(folder).expanduser().resolve()
    _check_place(target, overwrite)
    aside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        _put_in_place(aside, target, overwrite)
    except OSError as error:
        if error.errno not in REFUSED or isinstance(error, TenterhookError):
            raise
        reason = f"it cannot be written ({error.strerror}); make room or rights, or choose another"
        raise NotWritable(str(target), f"{reason}. Nothing of it is left") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_place(target: Path, overwrite: bool) -> None:
    """Raise `PlaceTaken` unless nothing is there, or what may be overwritten."""
    if os.path.ismount(target):
        raise PlaceTaken(str(target), "a file system is mounted there; choose a folder in it")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_export(target):
        raise PlaceTaken(str(target), "something else is there; choose another folder")
    if not overwrite:
        reason = (
            "a run was exported to it before; choose another folder, or replace it "
            "(overwrite=True, --overwrite)"
        )
        raise PlaceTaken(str(target), reason)


def _is_export(target: Path) -> bool:
    try:
        return bool(json.loads((target / MARK).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _put_in_place(aside: Path, target: Path, overwrite: bool) -> None:
    _check_place(target, overwrite)  # again: it took long
    old: Path | None = None
    if target.exists():
        old = aside.with_suffix(".old")
        target.rename(old)
    aside.rename(target)
    _sync(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk, where the system can."""
    if os.name == "nt":  # folders cannot be opened there, nor files for reading be synced
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
