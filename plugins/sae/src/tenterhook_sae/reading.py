"""Files that may be anybody's, read so that none of them is believed before it is measured.

Two kinds: JSON, and safetensors. Whatever a file holds, and whatever stands in its place, reading
it gives what it says or raises `UnreadableSae`. Memory follows what is there, and not a number in a
file: a file of JSON is small, and what a safetensors header claims is compared with the length of
the file before any tensor is read.
"""

import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tenterhook.one_line import error_line, printable, shown
from tenterhook_sae.errors import UnreadableSae
from tenterhook_store.plain_json import plain_json

JSON_BYTES = 64 * 2**20
"""No JSON beside an SAE is larger: the names of a million latents take less."""

HEADER_BYTES = 10**8
"""No header of a safetensors file is larger; safetensors has the same limit."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
"""The dtypes of what an SAE or a checkpoint is made of, by what safetensors calls them."""


@attrs.frozen
class Stored:
    """What the header of a safetensors file says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@attrs.frozen(eq=False)
class WeightFile:
    """A safetensors file whose header is right: its tensors are where it says, all in the file."""

    path: Path
    where: str
    """What messages call it."""

    stored: Mapping[str, Stored]
    facts: Mapping[str, str]
    """What it says of itself (`__metadata__`)."""

    @classmethod
    def open(cls, path: Path, where: str) -> "WeightFile":
        """Read the header alone. Raises `UnreadableSae`."""
        with _naming(path, where), os.fdopen(_regular(path, where), "rb") as file:
            length = os.fstat(file.fileno()).st_size
            count = int.from_bytes(file.read(8), "little")
            if length < 8 or count > min(length - 8, HEADER_BYTES):
                raise UnreadableSae(where, f"{path.name}: it is no whole safetensors file")
            content = file.read(count)
        header = _object(content, path.name, where)
        facts = header.pop("__metadata__", {})
        if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
            raise UnreadableSae(where, f"{path.name}: its metadata is not texts by name")
        stored = {}
        room = length - 8 - count
        for name, about in header.items():
            try:
                stored[name] = _stored(about, room)
            except ValueError as error:
                raise UnreadableSae(where, f"{path.name}: {shown(name)} has {error}") from error
        return cls(path, where, stored, facts)

    def load(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return these tensors, on the CPU. Raises `UnreadableSae`."""
        with _naming(self.path, self.where), safe_open(self.path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in names}


def read_object(path: Path, where: str) -> dict[str, Any]:
    """Return the object that a file of JSON holds. Raises `UnreadableSae`."""
    with _naming(path, where), os.fdopen(_regular(path, where), "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length > JSON_BYTES:
            raise UnreadableSae(where, f"{path.name} has {length:,} bytes, which no such file has")
        content = file.read(length)
    return _object(content, path.name, where)


def parse_object(text: str, name: str, where: str) -> dict[str, Any]:
    """Return the object that JSON inside a file says. Raises `UnreadableSae`."""
    return _object(text.encode("utf-8", "surrogatepass"), name, where)


@contextmanager
def _naming(path: Path, where: str) -> Iterator[None]:
    """A block in which what the system or safetensors refuses is `UnreadableSae`."""
    try:
        yield
    except UnreadableSae:
        raise
    except FileNotFoundError as error:
        raise UnreadableSae(where, f"there is no {path.name} in it") from error
    except (OSError, SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        raise UnreadableSae(where, f"{path.name}: {error_line(error)}") from error


def _regular(path: Path, where: str) -> int:
    """Open a file, through links, if it is one: a pipe would be waited for without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadableSae(where, f"{path.name} is no regular file")
    # It may be another by now.
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise UnreadableSae(where, f"{path.name} is no regular file")
    return opened


def _object(content: bytes, name: str, where: str) -> dict[str, Any]:
    try:
        found = plain_json(content)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be printed
    except RecursionError:
        raise UnreadableSae(where, f"{name}: it is nested too deeply") from None
    except ValueError as error:
        raise UnreadableSae(where, f"{name}: {printable(str(error))}") from error
    if not isinstance(found, dict):
        raise UnreadableSae(where, f"{name} holds no object")
    return found


def _stored(about: Any, room: int) -> Stored:
    """Return what a header says of a tensor; `ValueError` says what of it cannot be."""
    if not isinstance(about, dict):
        raise ValueError("no dtype, shape and place")
    name, shape, place = about.get("dtype"), about.get("shape"), about.get("data_offsets")
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise ValueError(f"dtype={shown(name)}, which is none that an SAE is in")
    sizes, ends = _counts(shape), _counts(place)
    if sizes is None or len(sizes) > 8:
        raise ValueError(f"shape={shown(shape)}, which is none")
    if ends is None or len(ends) != 2 or not ends[0] <= ends[1] <= room:
        raise ValueError(f"data_offsets={shown(place)}, and there are {room} bytes")
    if math.prod(sizes) * dtype.itemsize != ends[1] - ends[0]:
        raise ValueError(f"shape={shown(shape)} and {ends[1] - ends[0]} bytes in {name}")
    return Stored(dtype, sizes)


def _counts(values: Any) -> tuple[int, ...] | None:
    if not isinstance(values, list):
        return None
    return tuple(values) if all(type(v) is int and 0 <= v < 2**63 for v in values) else None
