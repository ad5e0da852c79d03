"""Vectors in files: a direction, or the weights of a probe, as .safetensors or .npy.

Nothing is unpickled.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tenterhook_view.errors import UnreadableVector
from tenterhook_view.quantities import Quantity, direction

MOST_BYTES = 2**30


def read_direction(path: str | os.PathLike[str], *, layer: str | None = None) -> Quantity:
    """Return the dot product with the vector in a file; see `read_vector`."""
    return direction(read_vector(path, layer=layer), name=f"direction {Path(path).stem}")


def read_vector(path: str | os.PathLike[str], *, layer: str | None = None) -> Tensor:
    """Return the vector in a file, `[features]`.

    Of a file of several tensors the one named `layer` is meant, or `direction` or `vector`.
    Raises `UnreadableVector` (a `ValueError`).
    """
    tensors = _read(Path(path))
    asked = ("direction", "vector", "weight") if layer is None else (layer, "direction", "vector")
    names = [each for each in asked if each in tensors]
    found = tensors[names[0]] if names else next(iter(tensors.values()))
    if not names and len(tensors) > 1:
        raise UnreadableVector(
            str(path), f"holds {len(tensors)} tensors, and none is called 'direction'"
        )
    return _vector(found, path)


def read_probe(path: str | os.PathLike[str]) -> Quantity:
    """Return what a linear probe in a file gives: `weight` `[features]`, and `bias` if it has one.

    Raises `UnreadableVector` (a `ValueError`).
    """
    tensors = _read(Path(path))
    names = [each for each in ("weight", "weights", "coef", "direction") if each in tensors]
    if not names:
        if len(tensors) > 1:
            raise UnreadableVector(str(path), "holds no tensor that is called 'weight'")
        names = list(tensors)
    bias = tensors.get("bias", tensors.get("intercept", torch.zeros(1))).flatten()
    if len(bias) != 1:
        raise UnreadableVector(str(path), f"holds a bias of {len(bias)} numbers, and not of 1")
    return direction(
        _vector(tensors[names[0]], path), name=f"probe {Path(path).stem}", bias=float(bias[0])
    )


def _vector(tensor: Tensor, path: str | os.PathLike[str]) -> Tensor:
    found = tensor.squeeze()
    if found.ndim != 1 or found.is_complex():
        raise UnreadableVector(str(path), f"holds no vector, but numbers of {tuple(tensor.shape)}")
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UnreadableVector(str(path), "is no file")
    if path.stat().st_size > MOST_BYTES:
        raise UnreadableVector(str(path), "is larger than 1 GiB")
    try:
        if path.suffix == ".npy":
            import numpy as np

            return {"direction": torch.from_numpy(np.load(path, allow_pickle=False))}
        found = load_file(path)
    except (SafetensorError, ValueError, TypeError, EOFError) as error:
        raise UnreadableVector(str(path), f"cannot be read ({error})") from error
    if not found:
        raise UnreadableVector(str(path), "holds no tensor")
    return found
