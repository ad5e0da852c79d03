"""Take the activation out of inputs and outputs, and, in place, put another there.

The in-place form is for those who hold an output object of their own. The framework itself
replaces functionally; see `tenterhook.activations`.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "apply_modification_to_output",
    "extract_tensor_from_input",
    "extract_tensor_from_output",
]


def extract_tensor_from_input(input: Any) -> Tensor | None:
    """Return the first item of `input` if it is a tensor, the first tensor inside it if it is a
    tuple or list, else `None`; a tensor given itself is returned as it is."""
    first = input[0] if isinstance(input, tuple | list) and input else input
    return first if isinstance(first, Tensor) else _first_tensor(first)


def extract_tensor_from_output(output: Any) -> Tensor | None:
    """Return `output` if it is a tensor, the first tensor of a tuple or list, the
    `.last_hidden_state` of an output object, else `None`."""
    found = _first_tensor(output)
    if found is None:
        found = getattr(output, "last_hidden_state", output)
    return found if isinstance(found, Tensor) else None


def apply_modification_to_output(
    output: Any, modified_tensor: Tensor, target_device: torch.device | str | None = None
) -> None:
    """Put `modified_tensor` into `output`, in place.

    Copies into a tensor, replaces the first tensor of a list, copies into that of a tuple, sets
    `.last_hidden_state` of an output object. The tensor is moved to `target_device`, else to the
    device of what it replaces, and cast to its dtype. Raises `RuntimeError` where it does not fit
    into the tensor that is copied into; leaves an output without a tensor alone.
    """
    current = extract_tensor_from_output(output)
    if current is None:
        return
    device = current.device if target_device is None else target_device
    new = modified_tensor.to(device=device, dtype=current.dtype)
    if isinstance(output, Tensor | tuple):
        if new.shape != current.shape:  # copy_ would broadcast without a word
            raise RuntimeError(
                f"A tensor of shape {tuple(new.shape)} does not fit into the output's "
                f"{tuple(current.shape)}."
            )
        with torch.no_grad():
            current.copy_(new)
    elif isinstance(output, list):
        at = next(at for at, item in enumerate(output) if isinstance(item, Tensor))
        output[at] = new
    else:
        output.last_hidden_state = new


def _first_tensor(items: Any) -> Tensor | None:
    if not isinstance(items, tuple | list):
        return None
    return next((item for item in items if isinstance(item, Tensor)), None)
