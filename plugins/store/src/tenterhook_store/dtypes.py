"""Torch dtypes by name."""

import torch


def dtype_name(dtype: torch.dtype) -> str:
    """Return `bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def torch_dtype(name: str) -> torch.dtype:
    """Return `torch.bfloat16` for `bfloat16`; `ValueError` for what is no dtype."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype of torch. Use for example 'float32' or 'bfloat16'.")
    return found
