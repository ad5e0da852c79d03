"""Makes what installed plugins offer, for `tenterhook plugins check`."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tenterhook.hooks import HookType
from tenterhook.one_line import error_line
from tenterhook.plugins import default_manager


def target(kind: str, name: str) -> tuple[Any, Callable[[], Any] | None]:
    """Import an extension and the function that makes one for tests, if it has one."""
    registered = default_manager().extensions(kind)[name]
    return registered.load(), registered.extension.load_example()


def made(kind: str, name: str, *arguments: Any, layer: str | None = None, **shape: int) -> Any:
    """Make one: by its example, told the shape where it takes that, else of its defaults.

    Skips the test where it needs arguments that nobody gives.
    """
    call, example = target(kind, name)
    if example is not None:
        taken = inspect.signature(example).parameters
        return example(*arguments, **{at: size for at, size in shape.items() if at in taken})
    signature = inspect.signature(call)
    given = {"layer_signature": layer} if "layer_signature" in signature.parameters else {}
    try:
        signature.bind(*arguments, **given)
    except TypeError as error:
        pytest.skip(
            f"{name} cannot be made of its defaults ({error}). Give its Extension an example=, "
            "the import path of a function that makes one."
        )
    return call(*arguments, **given)


def small(kind: str, name: str) -> str:
    """Return the name of a small model or data set of a scheme: its example's, else none.

    Skips the test where there is none without a name.
    """
    read, example = target(kind, name)
    if example is not None:
        return str(example())
    what = {"loaders": "model", "datasets": "data set"}[kind]
    try:
        read("")
    except Exception as error:  # noqa: BLE001 - it is shown
        pytest.skip(
            f"{name} loads nothing without a name ({error_line(error)}). Give its Extension an "
            f"example=, the import path of a function that returns the name of a small {what}."
        )
    return ""


def model_of(name: str, kind: str = "layer_names") -> Any:
    """Return a small model whose layers, or points, get names: what the example of these returns.

    Skips the test where there is no example.
    """
    _, example = target(kind, name)
    if example is None:
        pytest.skip(
            f"{name} names the layers of models that nobody gives. Give its Extension an example=, "
            "the import path of a function that makes a small model."
        )
    return example()


def place(kind: str, name: str) -> str:
    """Return where an example of a hook stands: a layer, or the whole model if it says so."""
    hook = made(kind, name, layer="inner")
    if hook.layer_signature in ("input", "output"):
        return str(hook.layer_signature)
    whole = hook.hook_type is HookType.PRE_FORWARD and not hook.layer_signature
    return "input" if whole else "inner"
