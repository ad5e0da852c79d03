"""Torch dtypes in zarr: which zarr type keeps which dtype, bit for bit.

zarr has no bfloat16 and no float8. Their bits are kept as unsigned integers, with the torch
dtype in the array's attribute `torch_dtype`, so that any zarr reader opens them.
"""

from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from tenterhook.errors import TenterhookError
from tenterhook.store import dtype_name, torch_dtype


class CannotKeep(TenterhookError, TypeError):
    """A tensor of a kind that the store has no place for."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"A zarr store keeps no {self.what}. {self.remedy}"


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
    if not isinstance(tensor, Tensor):
        what = f"{type(tensor).__name__} objects, only tensors"
        raise CannotKeep(what, "Make it one first, for example with torch.as_tensor().")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        kind = str(tensor.layout).removeprefix("torch.").replace("strided", "quantized")
        kind = "meta" if tensor.is_meta else kind
        raise CannotKeep(f"{kind} tensors", "Make it dense first, for example with to_dense().")
    stored_as(dtype_name(tensor.dtype))
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # A contiguous tensor of one element may have any strides, which views as bytes do not take.
    flat = plain.as_strided((plain.numel(),), (1,))
    bits: np.ndarray[Any, np.dtype[np.uint8]] = flat.view(torch.uint8).numpy()
    return bits


def from_numpy(array: "np.ndarray[Any, Any]", dtype: str) -> Tensor:
    """Return a stored array as a tensor of its torch dtype, bit for bit, in memory of its own."""
    own = np.array(array, dtype=stored_as(dtype).numpy, order="C", copy=True)
    native = own.astype(own.dtype.newbyteorder("="), copy=False)
    if not native.size:
        return torch.empty(array.shape, dtype=torch_dtype(dtype))
    flat = torch.from_numpy(native.reshape(-1).view(np.uint8))
    return flat.view(torch_dtype(dtype)).reshape(array.shape)
