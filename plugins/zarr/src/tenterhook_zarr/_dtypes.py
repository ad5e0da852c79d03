"""Torch dtypes in zarr: which zarr type keeps which dtype, bit for bit.

zarr has no bfloat16 and no float8. Their bits are kept as unsigned integers, with the torch
dtype in the array's attribute `torch_dtype`, so that any zarr reader opens them.
"""

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tenterhook_store import CannotKeep, dtype_name, flat_bytes, plain_tensor, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class Stored:
    """How the values of a torch dtype are stored."""

    zarr: str
    """The zarr data type, which is the numpy one too."""

    fill: Any
    """The fill value as zarr's metadata writes it: NaN where there is one, so that rows that are
    missing are loud."""

    @property
    def numpy(self) -> "np.dtype[Any]":
        """The type on disk, little endian."""
        return np.dtype(self.zarr).newbyteorder("<")

    def fill_bytes(self) -> bytes:
        """Return the fill value as it is on disk."""
        value = complex("nan+nanj") if isinstance(self.fill, list) else self.fill
        return np.array(float("nan") if value == "NaN" else value, dtype=self.numpy).tobytes()


_STORED = {
    "bool": Stored("bool", False),
    **{f"int{bits}": Stored(f"int{bits}", -1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": Stored(f"uint{bits}", 0) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": Stored(f"float{bits}", "NaN") for bits in (16, 32, 64)},
    **{f"complex{bits}": Stored(f"complex{bits}", ["NaN", "NaN"]) for bits in (64, 128)},
    "bfloat16": Stored("uint16", 0x7FC0),
    "float8_e4m3fn": Stored("uint8", 0x7F),
    "float8_e4m3fnuz": Stored("uint8", 0x80),
    "float8_e5m2": Stored("uint8", 0x7F),
    "float8_e5m2fnuz": Stored("uint8", 0x80),
}


def stored_as(name: str) -> Stored:
    """Return how a torch dtype is stored; `CannotKeep` for one that cannot be."""
    if name not in _STORED:
        raise CannotKeep(f"{name} tensors", f"Cast it to one of: {', '.join(_STORED)}.")
    return _STORED[name]


def to_bytes(tensor: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the tensor's bytes as they go to disk, `[elements * itemsize]`; a view if it can be.

    Raises `CannotKeep` for a tensor that is not dense, or has no values (meta), and for what is
    no tensor.
    """
    plain = plain_tensor(tensor)
    stored_as(dtype_name(plain.dtype))
    bits: np.ndarray[Any, np.dtype[np.uint8]] = flat_bytes(plain).numpy()
    return bits


def from_numpy(array: "np.ndarray[Any, Any]", dtype: str) -> "Tensor":
    """Return a stored array as a tensor of its torch dtype and shape, bit for bit, of its own."""
    import torch

    own = np.array(array, dtype=stored_as(dtype).numpy, order="C", copy=True)
    native = own.astype(own.dtype.newbyteorder("="), copy=False)
    if not native.size:
        return torch.empty(array.shape, dtype=torch_dtype(dtype))
    flat = torch.from_numpy(native.reshape(-1).view(np.uint8))
    return flat.view(torch_dtype(dtype)).reshape(array.shape)
