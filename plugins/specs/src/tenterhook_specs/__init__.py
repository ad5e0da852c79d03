"""Specs: what hooks stand on a model, as frozen values and as TOML, YAML or JSON.

`model.describe()` gives one and `model.apply(spec)` does what it says. Nothing is pickled: a tensor
is its numbers, a function or class is named by its import path, and only what the user allows is
imported.
"""

from tenterhook_specs.errors import BadSpec, NotAllowed, NotDescribable
from tenterhook_specs.formats import dumps, loads, read_spec, write_spec
from tenterhook_specs.hooks import (
    Given,
    HookSpec,
    ModelSpec,
    apply,
    describe,
    describe_hook,
    make_hook,
)
from tenterhook_specs.parameters import parameters_of
from tenterhook_specs.values import plain, structure

__all__ = [
    "BadSpec",
    "Given",
    "HookSpec",
    "ModelSpec",
    "NotAllowed",
    "NotDescribable",
    "apply",
    "describe",
    "describe_hook",
    "dumps",
    "loads",
    "make_hook",
    "parameters_of",
    "plain",
    "read_spec",
    "structure",
    "write_spec",
]
