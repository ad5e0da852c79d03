"""How a user's hook runs at a hook point: what torch calls, which calls the hook.

Each `add_hook` makes one function for torch, by `forward_runner`, `scoped_runner` (the hook of a
scope, which runs for the thread or task that opened it) or `backward_runner`. What happens when
torch calls it:

1. The tensor goes through the point's conversion, if it has one.
2. The hook is called, once for each of its aliases, each time on what the last call left.
3. What it returns is checked: a tensor, or `None`, which leaves the tensor as it is.
4. The conversion is reverted, and torch gets the new tensor.

An exception of the hook's surfaces as it is, with a note that names hook and point. Most hooks have
neither conversion nor aliases; for those the functions leave out steps 1 and 4.
"""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from tenterhook_hook_points._lens_scope import here, untraced
from tenterhook_hook_points.conversion import TensorConversion
from tenterhook_hook_points.gradient import ScaledGradient, plain
from tenterhook_hook_points.handles import LensHandle


class PointLike(Protocol):
    """A hook point, as far as a hook that runs needs it."""

    name: str | None
    hook_conversion: TensorConversion | None
    backward_scale: float

    def _standing_for(self, name: str) -> "PointLike":
        """Return an object that stands for the point under another name."""


def forward_runner(handle: LensHandle, conversion: TensorConversion | None) -> Callable[..., Any]:
    """Return the torch hook of one forward hook; it is told of a conversion rather than looks."""
    hook = handle.user_hook
    assert hook is not None
    simple = conversion is None and handle._aliases is None

    def reshape(conversion: TensorConversion | None) -> None:
        nonlocal simple
        simple = conversion is None and handle._aliases is None

    def run(module: PointLike, args: Any, output: Any) -> Any:
        try:
            new = hook(output, hook=module) if simple else through(handle, module, output)
            if new is None or type(new) is Tensor:
                return new
            return _checked(new, output)
        except Exception as error:
            blame(error, handle, module)
            raise

    handle._reshape = reshape
    return run


def scoped_runner(handle: LensHandle) -> Callable[..., Any]:
    """Return the torch hook of a forward hook that runs for one thread or task alone."""
    assert handle._scope is not None
    scope = handle._scope

    def run(module: PointLike, args: Any, output: Any) -> Any:
        # Asked at each call: both are others when a later scope uses the handle again.
        hook = handle.user_hook
        if hook is None or here() is not scope.owner:
            return None
        try:
            if handle._aliases is None and module.hook_conversion is None:
                new = hook(output, hook=module)
            else:
                new = through(handle, module, output)
            if new is None or type(new) is Tensor:
                return new
            return _checked(new, output)
        except Exception as error:
            blame(error, handle, module)
            raise

    return untraced(run) if scope.compiling else run


def backward_runner(handle: LensHandle) -> Callable[..., Any]:
    """Return the hook of one backward hook, as `register_full_backward_hook` takes it."""

    def run(module: PointLike, grad_input: Any, grad_output: tuple[Tensor]) -> Any:
        (grad,) = grad_output
        try:
            new = through(handle, module, grad, module.backward_scale)
            if new is not None:
                new = _checked(new, grad)
                if new.shape != grad.shape:
                    raise ValueError(
                        f"It returned {tuple(new.shape)} for a gradient of {tuple(grad.shape)}; "
                        "a gradient keeps its shape."
                    )
        except Exception as error:
            blame(error, handle, module)
            raise
        return None if new is None else (new,)

    return run


def through(handle: LensHandle, point: PointLike, tensor: Any, scale: float | None = None) -> Any:
    """Run a hook under each of its names, through the point's conversion; return what is new.

    `scale` is that of a gradient's sum; `None` for what is no gradient.
    """
    hook, conversion, new = handle.user_hook, point.hook_conversion, None
    assert hook is not None
    names = handle._aliases
    for stand in [point] if names is None else [point._standing_for(name) for name in names]:
        seen = tensor if new is None else new
        if conversion is not None:
            seen = conversion.convert(seen)
        if scale is not None and scale != 1.0:
            seen = ScaledGradient.of(seen, scale)
        returned = hook(seen, hook=stand)
        if scale is not None and isinstance(returned, tuple) and len(returned) == 1:
            (returned,) = returned  # as torch has it for backward hooks
        if returned is not None:
            returned = plain(_checked(returned, tensor))
            new = returned if conversion is None else conversion.revert(returned)
    return new


def _checked(new: Any, old: Any) -> Any:
    """Return what a hook returned; `TypeError` where it is no tensor and takes a tensor's place."""
    if isinstance(old, Tensor) and not isinstance(new, Tensor):
        raise TypeError(
            f"It returned a {type(new).__name__}; return a tensor, or None to keep the one there."
        )
    return new


def blame(error: Exception, handle: LensHandle, point: PointLike) -> None:
    """Note on an exception of a hook's where it came from."""
    hook = getattr(handle.user_hook, "__qualname__", type(handle.user_hook).__name__)
    error.add_note(f"Raised by hook {hook} at hook point {point.name or '(unnamed)'!r}.")
