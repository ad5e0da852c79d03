"""The hooks that fill a cache: each keeps a copy in memory of its own."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tenterhook_hook_points.handles import Hook
from tenterhook_hook_points.point import HookPoint

PosSlice = int | slice | tuple[int | None, ...] | Sequence[int] | Tensor | None
"""Positions: one, which keeps the axis, of length 1; a slice, or a tuple of what `slice` takes; a
list or 1-d tensor of positions; `None` for all."""

_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result")
"""Points whose tensors end in position, head, feature; others end in position, feature."""


def keeper(
    cache: MutableMapping[str, Tensor],
    name: str,
    suffix: str = "",
    device: torch.device | str | None = None,
    remove_batch_dim: bool = False,
    pos_slice: PosSlice = None,
) -> Hook:
    """Return a hook that writes a detached copy of what it sees to `cache[name + suffix]`.

    The copy is on `device`, by default the tensor's own, in the tensor's dtype, and of its shape
    but for what `remove_batch_dim` (the first axis, of a batch of one) and `pos_slice` take away.
    The hook raises `TypeError` for what is no tensor, `ValueError` for another batch.
    """
    key = name + suffix
    if device is None and not remove_batch_dim and pos_slice is None:

        def keep(tensor: Tensor, hook: HookPoint) -> None:
            cache[key] = detached(name, tensor).clone()

        return keep

    axis = -3 if name.endswith(_PER_HEAD) else -2

    def keep_part(tensor: Tensor, hook: HookPoint) -> None:
        part = detached(name, tensor)
        if pos_slice is not None and part.ndim >= -axis:
            part = _positions(part, axis, pos_slice)
        if remove_batch_dim:
            part = without_batch(name, part)
        cache[key] = part.to(device or part.device, copy=True)

    return keep_part


def first_alone(keep: Hook) -> Hook:
    """Return a hook that keeps what it sees in the first of its calls."""
    seen = False

    def keep_first(tensor: Tensor, hook: HookPoint) -> None:
        nonlocal seen
        if not seen:
            seen = True
            keep(tensor, hook=hook)

    return keep_first


def detached(name: str, tensor: Any) -> Tensor:
    """Return the tensor detached; `TypeError` where a point returned something else."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name!r} returned a {type(tensor).__name__}, and a cache keeps tensors. Leave the "
            "point out with names_filter=, or have it return one tensor."
        )
    return tensor.detach()


def without_batch(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without its first axis; `ValueError` unless that is a batch of one."""
    if tensor.ndim == 0 or tensor.shape[0] != 1:
        raise ValueError(
            f"{name!r} is {tuple(tensor.shape)}; only a batch of one can be taken away. Run one "
            "row at a time, or leave remove_batch_dim out."
        )
    return tensor[0]


def _positions(tensor: Tensor, axis: int, positions: Any) -> Tensor:
    """Return the positions of a tensor along an axis, as a view where that can be."""
    if isinstance(positions, int):
        return tensor.select(axis, positions).unsqueeze(axis)
    if isinstance(positions, tuple):
        positions = slice(*positions)
    if not isinstance(positions, slice):
        positions = torch.as_tensor(positions, device=tensor.device)
    rest: Any = (slice(None),) * (-axis - 1)
    return tensor[(..., positions, *rest)]
