"""Hooks that watch and change what happens inside PyTorch models.

`import tenterhook` loads no plugin and no torch; each name is imported when it is first used. Their
static types are in the `.pyi` file beside this one.
"""

import importlib  # and no `typing`, which takes ten times as long as all the rest here

from tenterhook._version import __version__ as __version__

_HOMES = {
    "Captured": "scopes.captured",
    "Extension": "extensions",
    "HookContext": "context",
    "HookError": "errors",
    "HookRegistry": "registry",
    "HookedModel": "model",
    "Inputs": "activations",
    "LayerConflict": "errors",
    "LayerIndex": "layers",
    "NeverFired": "errors",
    "NotClean": "errors",
    "PluginManager": "plugins",
    "Selection": "selections",
    "TenterhookError": "errors",
    "UnknownLayer": "errors",
    "assert_clean": "model",
    "attach": "model",
    "carry": "_dispatch.frames",
    "hookimpl": "hookspecs",
}

_names = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    if name == "__all__":  # worked out when it is asked for, since few do
        from importlib.util import find_spec

        others = find_spec("tenterhook_selections") is not None  # all else here is core's
        return [each for each in _names if each != "Selection" or others]
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_names})
