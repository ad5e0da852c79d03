"""Tensors as stores take them: dense and on the CPU, their bytes, their dtypes by name.

Importing this imports no torch: a command that lists runs takes a third of a second without it.
"""

import re
from typing import TYPE_CHECKING, Any

from tenterhook_store.errors import CannotKeep

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def plain_tensor(tensor: Any) -> "Tensor":
    """Return a tensor's values: dense, contiguous, on the CPU, without gradients.

    Shape and dtype stay, whatever they are.
    It is a view where the tensor is all that already. Raises `CannotKeep` for what is no tensor,
    and for a tensor that is sparse, quantized or has no values (meta).
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        what = f"{type(tensor).__name__} objects, only tensors"
        raise CannotKeep(what, "Make it one first, for example with torch.as_tensor().")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        kind = str(tensor.layout).removeprefix("torch.").replace("strided", "quantized")
        kind = "meta" if tensor.is_meta else kind
        raise CannotKeep(f"{kind} tensors", "Make it dense first, for example with to_dense().")
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def flat_bytes(tensor: "Tensor") -> "Tensor":
    """Return the bytes of a plain tensor, uint8 `[elements * itemsize]`; a view."""
    import torch

    # A contiguous tensor of one element may have any strides, which views as bytes do not take.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def dtype_name(dtype: "torch.dtype") -> str:
    """Return `bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def torch_dtype(name: str) -> "torch.dtype":
    """Return `torch.bfloat16` for `bfloat16`; `ValueError` for what is no dtype."""
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype of torch. Use for example 'float32' or 'bfloat16'.")
    return found


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number of a dtype; `ValueError` for what is no dtype.

    Those that runs mostly have are known by their names, without torch.
    """
    if dtype == "bool":
        return 1
    bits = re.fullmatch(r"(?:u?int|b?float|complex)(8|16|32|64|128)", dtype)
    return int(bits[1]) // 8 if bits else torch_dtype(dtype).itemsize
