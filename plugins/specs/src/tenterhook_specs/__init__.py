"""Specs: what hooks stand on a model, as frozen values and as TOML, YAML or JSON.

`model.describe()` gives one and `model.apply(spec)` does what it says. Nothing is pickled: a tensor
is its numbers, a function or class is named by its import path, and only what the user allows is
imported.

Importing this imports no torch, so that the plugin of this distribution is found without it; each
name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
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
    from tenterhook_specs.request_scope import scoped
    from tenterhook_specs.spec_format import SpecFormat
    from tenterhook_specs.values import plain, structure

__all__ = [
    "BadSpec",
    "Given",
    "HookSpec",
    "ModelSpec",
    "NotAllowed",
    "NotDescribable",
    "SpecFormat",
    "apply",
    "describe",
    "describe_hook",
    "dumps",
    "loads",
    "make_hook",
    "parameters_of",
    "plain",
    "read_spec",
    "scoped",
    "structure",
    "write_spec",
]

_HOMES = {
    "BadSpec": "errors",
    "Given": "hooks",
    "HookSpec": "hooks",
    "ModelSpec": "hooks",
    "NotAllowed": "errors",
    "NotDescribable": "errors",
    "SpecFormat": "spec_format",
    "apply": "hooks",
    "describe": "hooks",
    "describe_hook": "hooks",
    "dumps": "formats",
    "loads": "formats",
    "make_hook": "hooks",
    "parameters_of": "parameters",
    "plain": "values",
    "read_spec": "formats",
    "scoped": "request_scope",
    "structure": "values",
    "write_spec": "formats",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
