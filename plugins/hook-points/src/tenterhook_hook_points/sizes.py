"""What the configs of models with hook points share: sizes, and the activations there are."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from attrs import validators
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, "tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, "tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
"""By the names that transformers has for them."""


def size() -> Any:
    """Return the field of a whole number from 1."""
    return attrs.field(validator=[validators.instance_of(int), validators.ge(1)])


def activation(default: str) -> Any:
    """Return the field of the name of one of `ACTIVATIONS`."""
    return attrs.field(default=default, validator=validators.in_(tuple(ACTIVATIONS)))
