"""The small tensors of a unit: one safetensors file, whose size and checksum its record has."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors

from tenterhook_store import CannotKeep, DamagedStore, dtype_name, plain_tensor
from tenterhook_zarr._backend import check_length
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._commits import SignedTensors

if TYPE_CHECKING:
    from torch import Tensor


def storable(tensor: Any) -> "Tensor":
    """Return a dense, contiguous copy on the CPU that a safetensors file can hold.

    Shape and dtype stay.
    Raises `CannotKeep` for a dtype that it cannot hold.
    """
    import torch

    plain = plain_tensor(tensor)
    if plain.dtype is torch.complex128:
        raise CannotKeep(f"{dtype_name(plain.dtype)} tensors with a unit", "Cast it to complex64.")
    return plain.clone(memory_format=torch.contiguous_format)


def pack(tensors: "Mapping[str, Tensor]") -> bytes:
    """Return the file, the same bytes for the same tensors."""
    from safetensors.torch import save

    return save(dict(tensors))


def describe(content: bytes, names: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Return what a commit record says of the file."""
    return {"bytes": len(content), "crc32c": checksum(content), "names": sorted(names)}


def unpack(content: bytes, signed: SignedTensors, path: str) -> "dict[str, Tensor]":
    """Return the tensors of a file, by name, as they were kept, on the CPU.

    Raises `DamagedStore` where it is not the file of the record.
    """
    from safetensors.torch import load

    check_length(len(content), signed.bytes, path)
    if checksum(content) != signed.crc32c:
        raise DamagedStore(path, "its checksum says that it is not what was written")
    try:
        found = load(content)
    except safetensors.SafetensorError as error:
        raise DamagedStore(path, f"this is no safetensors file ({error})") from error
    if sorted(found) != list(signed.names):
        raise DamagedStore(path, f"it has {sorted(found)} and should have {list(signed.names)}")
    return found
