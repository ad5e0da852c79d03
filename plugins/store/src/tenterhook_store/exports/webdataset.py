"""Rows as tar files with a sample for each document, which WebDataset reads one after another.

A sample is files whose names are alike up to the first dot, here the document's number. They are
laid down as they are read: `tarfile` wants each file whole, and a document may be long.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import torch

from tenterhook_store.errors import BadSetting
from tenterhook_store.exports.arrays import (
    Narrow,
    Pieces,
    Progress,
    check_narrow,
    for_numpy,
    import_needed,
    write_rows,
)
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing

SHARD_BYTES = 2**30


def to_webdataset(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    shard_bytes: int = SHARD_BYTES,
    bfloat16: Narrow = "float32",
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as tar files with a sample for each document; return the folder.

    `rows-00000.tar` and so on, each ended by the document with which it comes to `shard_bytes`. The
    sample of document 12 is `000000012.token.npy` and `.position.npy`, `[tokens]`, a file
    `[tokens, features]` for each layer, whose name `run.json` says, and `000000012.json`: the
    document's number, the rows of the run that it is, and the fields that the run keeps of it,
    unless it lacks units. The same run gives the same bytes.

    Raises `BadSetting` for `shard_bytes` below 1. What else it takes and raises is as for `to_npy`.
    """
    if shard_bytes < 1:
        raise BadSetting("shard_bytes", shard_bytes, "a whole number, 1 or more")
    check_narrow(bfloat16)
    import_needed("numpy")
    pieces = Pieces(run, layers, missing, progress)
    with pieces, export_folder(folder, run, pieces.part, "webdataset", overwrite=overwrite) as made:
        samples = _Samples(run, pieces, bfloat16)
        shards = made.facts["shards"] = {}
        documents = _documents(pieces)
        document = next(documents, None)
        while document is not None:
            name = f"rows-{len(shards):05d}.tar"
            first = stop = document.start
            with (made.path / name).open("wb") as file:
                while document is not None and file.tell() < shard_bytes:
                    samples.write(file, document)
                    stop, document = document.stop, next(documents, None)
                file.write(bytes(2 * tarfile.BLOCKSIZE))
                _pad(file, tarfile.RECORDSIZE)
            shards[name] = [first, stop]
        made.facts["files"] = {each.name: f"{each.file}.npy" for each in samples.arrays}
        made.facts["bfloat16"] = bfloat16
    return Path(folder)


@attrs.frozen
class _Document:
    """A document, and where its rows are among those that are written."""

    number: int
    start: int
    stop: int


def _documents(pieces: Pieces) -> Iterator[_Document]:
    """Yield the documents in the order of their rows."""
    (index,) = (each for each in pieces.arrays if each.name == "document")
    open_one: _Document | None = None
    at = 0
    for piece in pieces.through(index):
        numbers, counts = torch.unique_consecutive(piece, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if open_one is not None and open_one.number == number:
                open_one = attrs.evolve(open_one, stop=at + count)
            else:
                if open_one is not None:
                    yield open_one
                open_one = _Document(number, at, at + count)
            at += count
    if open_one is not None:
        yield open_one


class _Samples:
    """Writes documents into a tar file."""

    def __init__(self, run: Readable, pieces: Pieces, bfloat16: Narrow) -> None:
        self.arrays = [each for each in pieces.arrays if each.name != "document"]
        self._run_id, self._pieces = run.id, pieces
        self._convert = {each.name: for_numpy(each.rows.dtype, bfloat16) for each in self.arrays}
        names = () if run.missing else run.documents.fields
        self._fields = {name: run.documents[name] for name in names}

    def write(self, file: BinaryIO, document: _Document) -> None:
        """Write the files of a document's sample."""
        key = f"{document.number:09d}"
        rows = list(self._pieces.part.stretches(document.start, document.stop))
        about: dict[str, Any] = {"run": self._run_id, "document": document.number, "rows": rows}
        about["fields"] = {name: each[document.number] for name, each in self._fields.items()}
        content = json.dumps(about).encode()
        _begin(file, f"{key}.json", len(content))
        file.write(content)
        _pad(file, tarfile.BLOCKSIZE)
        for array in self.arrays:
            convert = self._convert[array.name]
            empty = convert(torch.empty(0, *array.rows.shape[1:], dtype=array.rows.dtype))
            shape = (document.stop - document.start, *empty.shape[1:])
            header = _npy_header(empty.numpy().dtype, shape)
            size = empty.element_size() * torch.Size(shape).numel()
            _begin(file, f"{key}.{array.file}.npy", len(header) + size)
            file.write(header)
            for piece in self._pieces.through(array, document.start, document.stop):
                write_rows(file, convert(piece))
            _pad(file, tarfile.BLOCKSIZE)


def _npy_header(kind: Any, shape: tuple[int, ...]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    header = {"descr": kind.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    return file.getvalue()


def _begin(file: BinaryIO, name: str, size: int) -> None:
    """Write what stands before a file in the archive; nothing of it says who wrote it, or when."""
    member = tarfile.TarInfo(name)
    member.size = size
    file.write(member.tobuf(tarfile.PAX_FORMAT))


def _pad(file: BinaryIO, size: int) -> None:
    file.write(bytes(-file.tell() % size))
