"""Captured rows as they pass from a worker's process to another."""

from typing import Any

import torch
from torch import Tensor

from tenterhook_store import dtype_name, torch_dtype


def in_bytes(rows: Tensor) -> dict[str, Any]:
    """Return rows as they pass between processes."""
    data = rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {"dtype": dtype_name(rows.dtype), "shape": list(rows.shape), "data": data}


def rows_of(table: Any) -> Tensor:
    """Return rows that came as `in_bytes` gives them, or as they are."""
    if isinstance(table, Tensor):
        return table
    dtype = torch_dtype(table["dtype"])
    if not table["data"]:
        return torch.empty(table["shape"], dtype=dtype)
    data = torch.frombuffer(bytearray(table["data"]), dtype=torch.uint8)
    return data.view(dtype).reshape(table["shape"])
