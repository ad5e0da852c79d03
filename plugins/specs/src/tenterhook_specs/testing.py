"""For tests of plugins: that a hook comes back from its spec.

`DetectorContract` and `ControllerContract` of `tenterhook.testing.hooks` ask it of each hook where
this distribution is installed.
"""

import pytest

from tenterhook.hooks import Hook
from tenterhook_specs.errors import NotDescribable
from tenterhook_specs.formats import dumps, loads
from tenterhook_specs.hooks import HookSpec, describe_hook, make_hook
from tenterhook_specs.parameters import parameters_of

__all__ = ["check_round_trip"]


def check_round_trip(hook: Hook) -> None:
    """Describe a hook, write that as text, read it, and make an equal hook of it.

    The hook has the layer that it is for. One of a function that has no import path may say that
    it cannot be described: the test is skipped then, and says so.
    """
    try:
        spec = describe_hook(hook)
    except NotDescribable as error:
        if "import path" in str(error) or "in a script" in str(error):
            pytest.skip(str(error))
        raise
    read = loads(dumps(spec), HookSpec)
    allow = [type(hook).__module__.partition(".")[0], *_homes_of_functions(hook)]
    again = make_hook(read, allow=allow)
    again.layer_signature = hook.layer_signature
    assert type(again) is type(hook)
    assert describe_hook(again) == spec


def _homes_of_functions(hook: Hook) -> list[str]:
    """Return the packages of the functions that a hook was made with."""
    values = (getattr(hook, name, None) for name in parameters_of(type(hook)))
    homes = {str(getattr(value, "__module__", "")) for value in values if callable(value)}
    return sorted(home.partition(".")[0] for home in homes if home)
