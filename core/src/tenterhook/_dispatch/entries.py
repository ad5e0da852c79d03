"""What runs when a hook runs: a detector watches, a controller's result takes its place.

An entry is one hook as the dispatcher runs it. It returns what takes the place of a value, `None`
to leave it, and writes to nobody's tensors. What a hook raises surfaces as `HookError`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling as tracing
from torch.utils import checkpoint

from tenterhook.activations import (
    activation_of,
    first_input,
    inputs_of,
    replace,
    replace_input,
    with_item,
)
from tenterhook.errors import HookError, HookWarning
from tenterhook.hooks._types import Controller, Detector, Hook

# Private to torch, so not there in each of its versions: then checkpointed layers do as they can.
_RECOMPUTED: Any = getattr(checkpoint, "_StopRecomputationError", ())
_saving_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class StopForward(BaseException):
    """Ends a forward after the last layer that anybody needs.

    No error: `except Exception` in a model's own code must not keep it.
    """


_STOPPED = (
    "It ran the model, and the stop_after of a scope around it ended that forward. Call what "
    "attach() gave instead of its module: it returns None then."
)


class ErrorPolicy(Protocol):
    """Who says what happens when a hook raises: `"raise"`, `"warn"` or `"disable"`."""

    @property
    def on_error(self) -> str:
        """The policy."""


class Entry:
    """One hook as a site runs it. Subclasses say what it does on each side."""

    __slots__ = ("fired", "hook", "layer", "live", "modify", "observe", "policy")

    def __init__(self, hook: Hook, layer: Any, policy: ErrorPolicy | None = None) -> None:
        self.hook = hook
        self.layer = layer
        self.policy = policy
        self.live = True
        self.fired = False
        """Whether a forward ever came by."""
        self.observe: Callable[..., Any] = getattr(hook, "process_activations", _nothing)
        self.modify: Callable[..., Any] = getattr(hook, "modify_activations", _nothing)

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run on what the module returned; return the new output, or `None` to keep it."""
        raise AssertionError("abstract")

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Run on the inputs; return new ones, or `None` to keep them."""
        raise AssertionError("abstract")

    def gradient(self, module: nn.Module, grad: Tensor) -> Tensor | None:
        """Run on the gradient; return a new one, or `None` to keep it."""
        raise AssertionError("abstract")

    def quiet(self) -> "Entry | None":
        """Return what is left of this entry while controllers are off."""
        return self

    def __deepcopy__(self, memo: Any) -> "Entry":
        return without_hook(type(self))

    def __reduce__(self) -> Any:
        return without_hook, (type(self),)

    def fail(self, error: BaseException) -> None:
        """Surface `error` as the model's policy says: raise it, or warn and go on."""
        if isinstance(error, StopForward):
            error = RuntimeError(_STOPPED)
        policy = "raise" if self.policy is None else self.policy.on_error
        if isinstance(error, WroteInPlace):  # the numbers are wrong already: nothing to skip
            policy = "raise"
        as_it_is = isinstance(error, _RECOMPUTED) or (  # checkpointing has what it needs
            policy == "raise"
            and isinstance(error, HookError)  # a hook ran a model whose hook failed
        )
        try:
            if as_it_is:
                raise error
            if policy == "raise":
                raise self._wrapped(error) from error
            if policy == "disable":
                self.hook.disable()
            then = "It is disabled now." if policy == "disable" else "Its result is skipped."
            said = str(self._wrapped(error)).rstrip(".")
            warnings.warn(f"{said}. {then}", HookWarning, stacklevel=3)
        finally:  # what is raised holds this frame; a cycle would keep all its callers' tensors
            del error

    def _wrapped(self, error: BaseException) -> HookError:
        hook = self.hook
        return HookError(hook.id, hook.hook_type, self.layer, error, type(hook).__name__)


class Detect(Entry):
    """A detector. Its return value is ignored, and a write to the activation is found."""

    __slots__ = ()

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        self.fired = True
        try:
            inputs = inputs_of(module, args, kwargs) if kwargs else args
            if tracing():
                self.observe(module, inputs, output)
                return
            tensor = output if type(output) is Tensor else activation_of(output)
            given = first_input(inputs)
            try:
                version = tensor._version  # type: ignore[union-attr]
            except (AttributeError, RuntimeError):  # no tensor; inference tensors have no version
                version = tensor = None
            before = None if version is None or given is None else given._version
            self.observe(module, inputs, output)
            if before is not None and given is not None and given._version != before:
                raise wrote("The detector")
            if tensor is not None and (
                tensor._version != version
                or (tensor is not output and activation_of(output) is not tensor)
            ):
                raise wrote("The detector")
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.fired = True
        try:
            inputs = inputs_of(module, args, kwargs) if kwargs else args
            tensor = None if tracing() else first_input(inputs)
            try:
                version = tensor._version  # type: ignore[union-attr]
            except (AttributeError, RuntimeError):
                version = tensor = None
            self.observe(module, inputs, None)
            if tensor is not None and tensor._version != version:
                raise wrote("The detector")
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)

    def gradient(self, module: nn.Module, grad: Tensor) -> None:
        try:
            version = grad._version
            self.observe(module, (grad,), grad)
            if grad._version != version:
                raise wrote("The detector")
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)


class DetectOnly(Detect):
    """A detector that promises to write to nothing; see `Detector.reads_only`."""

    __slots__ = ()

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        self.fired = True
        try:
            self.observe(module, inputs_of(module, args, kwargs) if kwargs else args, output)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)


class Control(Entry):
    """A controller. What it returns takes the activation's place."""

    __slots__ = ()

    def quiet(self) -> None:
        return None

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        self.fired = True
        # The call that nearly every call is, spelled out: what it costs is what a hook costs.
        if (
            type(output) is not Tensor
            or kwargs
            or not args
            or type(args[0]) is not Tensor
            or tracing()
        ):
            return self._after(module, args, kwargs, output)
        try:
            version = output._version
        except RuntimeError:  # inference tensors have no version
            return self._after(module, args, kwargs, output)
        try:
            new = self.modify(module, args[0], output)
            if output._version != version:
                raise wrote("The controller")
            if type(new) is Tensor or new is None:
                return new
            if not isinstance(new, Tensor):
                raise not_a_tensor(new, _WANTED)
            return replace(output, new)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        try:
            tensor = activation_of(output)
            if tensor is None:
                if self.live:
                    self.no_tensor(f"returned {type(output).__name__}, which holds no tensor")
                return None
            given = first_input(inputs_of(module, args, kwargs))
            try:
                version = None if tracing() else tensor._version
            except RuntimeError:
                version = None
            new = self.modify(module, given, tensor)
            if version is not None and tensor._version != version:
                raise wrote("The controller")
            if new is None:
                return None
            if not isinstance(new, Tensor):
                raise not_a_tensor(new, _WANTED)
            return replace(output, new)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        self.fired = True
        try:
            inputs = inputs_of(module, args, kwargs)
            tensor = first_input(inputs)
            try:
                version = None if tracing() else tensor._version  # type: ignore[union-attr]
            except (AttributeError, RuntimeError):
                version = None
            new = self.modify(module, tensor, None)
            if version is not None and tensor._version != version:  # type: ignore[union-attr]
                raise wrote("The controller")
            if new is None:
                if tensor is None and self.live and not tracing():
                    self.no_tensor("was called without a tensor")
                return None
            if not isinstance(new, Tensor | tuple):
                raise not_a_tensor(new, "a tensor, a tuple of inputs, or None to leave them alone")
            return replace_input(inputs, new)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def gradient(self, module: nn.Module, grad: Tensor) -> Tensor | None:
        try:
            version = grad._version
            new = self.modify(module, grad, grad)
            if grad._version != version:
                raise wrote("The controller")
            if new is None:
                return None
            if not isinstance(new, Tensor):
                raise not_a_tensor(new, "a gradient, or None to leave it alone")
            if _kind(new) != _kind(grad):
                raise ValueError(
                    "It returned a gradient of shape {}, {}, on {}, where autograd needs "
                    "{}, {}, on {}.".format(*_kind(new), *_kind(grad))
                )
            return new
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def no_tensor(self, what: str) -> None:
        """Say, once per place in the code, that there was nothing to change."""
        warnings.warn(
            f"{type(self.hook).__name__} {self.hook.id!r} changed nothing: layer {self.layer!r} "
            f"{what}.",
            HookWarning,
            stacklevel=3,
        )


_WANTED = "a tensor, or None to leave the activation alone"


class ControlEvery(Control):
    """A controller of every tensor of a tuple or list, see `Controller.every_tensor`."""

    __slots__ = ()

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        if not isinstance(output, tuple | list):
            return super().after(module, args, kwargs, output)
        self.fired = True
        for at, item in enumerate(output):
            if isinstance(item, Tensor) and self.hook._enabled:  # a failure may have disabled it
                new = super().after(module, args, kwargs, item)
                output = output if new is None else with_item(output, at, new)
        return output


class Both(Entry):
    """A hook of both kinds: it detects on the unmodified activation, then controls."""

    __slots__ = ("control", "detect")

    def __init__(self, hook: Hook, layer: Any, policy: ErrorPolicy | None = None) -> None:
        self.detect: Entry = Detect(hook, layer, policy)
        every = getattr(hook, "every_tensor", False)
        self.control: Entry = (ControlEvery if every else Control)(hook, layer, policy)
        super().__init__(hook, layer, policy)

    @property
    def live(self) -> bool:
        return self.detect.live

    @live.setter
    def live(self, live: bool) -> None:
        self.detect.live = self.control.live = live

    def quiet(self) -> Entry:
        return self.detect

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        self.fired = True
        self.detect.after(module, args, kwargs, output)
        return self.control.after(module, args, kwargs, output)

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        self.fired = True
        self.detect.before(module, args, kwargs)
        return self.control.before(module, args, kwargs)

    def gradient(self, module: nn.Module, grad: Tensor) -> Tensor | None:
        self.detect.gradient(module, grad)
        return self.control.gradient(module, grad)


def without_hook(kind: type[Entry]) -> Entry:
    """Return an entry that does nothing: what a copy or pickle of a hooked module has in our place.

    Hooks belong to the module that they were registered on, so a copy starts without any.
    """
    entry = kind.__new__(kind)
    if isinstance(entry, Both):
        entry.detect, entry.control = without_hook(Detect), without_hook(Control)
    entry.policy, entry.layer, entry.live = None, None, False
    entry.observe = entry.modify = _nothing
    return entry


class Scoped(Entry):
    """A hook's entry in a scope: runs while the hook is enabled."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        super().__init__(entry.hook, entry.layer, entry.policy)

    @property
    def live(self) -> bool:
        return self.entry.live

    @live.setter
    def live(self, live: bool) -> None:
        self.entry.live = live

    def quiet(self) -> "Scoped | None":
        entry = self.entry.quiet()
        if entry is None:
            return None
        return self if entry is self.entry else _Part(self, entry)

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        if not self.hook._enabled:
            return None
        self.fired = True
        new = self.entry.after(module, args, kwargs, output)
        if new is not None:
            _mark_checkpoint()
        return new

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        if not self.hook._enabled:
            return None
        self.fired = True
        new = self.entry.before(module, args, kwargs)
        if new is not None:
            _mark_checkpoint()
        return new

    def gradient(self, module: nn.Module, grad: Tensor) -> Tensor | None:
        self.fired = True
        return self.entry.gradient(module, grad)


def _mark_checkpoint() -> None:
    """Have `torch.utils.checkpoint` find a run without this change, if it runs the layer again.

    It compares number and shapes of the tensors that the two runs save for backward, and raises
    where they differ. So each change saves one more, of a shape of its own; its second run, if
    that comes after the scope has ended, does not.
    """
    hooks = _saving_hooks(True)
    if hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint":
        save, load = hooks
        kept = vars(load).setdefault("_tenterhook", [])  # `load` lives while backward can come
        kept.append(save(torch.empty(0, 7919)))


class _Part(Scoped):
    """What is left of a scoped hook while controllers are off; what it does, the whole has done."""

    __slots__ = ("whole",)

    def __init__(self, whole: Scoped, entry: Entry) -> None:
        self.whole = whole
        super().__init__(entry)

    @property
    def fired(self) -> bool:
        return self.whole.fired

    @fired.setter
    def fired(self, fired: bool) -> None:
        self.whole.fired = self.whole.fired or fired


def entry_for(hook: Hook, layer: Any, policy: ErrorPolicy | None = None) -> Entry:
    """Return the entry that runs `hook`; `TypeError` for a hook of neither kind."""
    return entry_class(hook)(hook, layer, policy)


def entry_class(hook: Hook) -> type[Entry]:
    """Return the class of the entries that run `hook`; `TypeError` for a hook of neither kind."""
    kinds = (isinstance(hook, Detector), isinstance(hook, Controller))
    match kinds:
        case (True, True):
            return Both
        case (True, False):
            reads_only = isinstance(hook, Detector) and hook.reads_only
            return DetectOnly if reads_only else Detect
        case (False, True):
            every = isinstance(hook, Controller) and hook.every_tensor
            return ControlEvery if every else Control
    raise TypeError(
        f"{hook!r} is neither a Detector nor a Controller. Subclass one of them, or both."
    )


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


class WroteInPlace(RuntimeError):
    """A hook wrote to a tensor of the model's; raised whatever the policy for errors."""


def wrote(who: str) -> WroteInPlace:
    """Return the error for a hook that wrote to a tensor of the model's."""
    return WroteInPlace(
        f"{who} wrote to the activation in place, which other parts of the model may share. "
        "Return a new tensor from a Controller instead, or work on activation.clone()."
    )


def not_a_tensor(value: Any, wanted: str) -> TypeError:
    """Return the error for a controller that returned something else than it may."""
    return TypeError(f"It returned {type(value).__name__}; return {wanted}.")


def _nothing(*_: Any) -> None:
    return None


def watch_gradient(
    entries: Sequence[Entry], module: nn.Module, args: Args, kwargs: Kwargs, output: Any
) -> Any:
    """Have `entries` run, in order, when the gradient of the output's activation is known.

    Returns a new output where the activation had to be given a node of its own in the graph, else
    `None`. An output that is an input, a leaf or a view shares its node, or loses it to a later
    in-place module, so its hook would see the gradient of more, or of nothing. The new output is
    the same memory, but for a leaf, which nobody may write to.
    """
    tensor = activation_of(output)
    if tensor is None or not tensor.requires_grad or not torch.is_grad_enabled():
        return None
    own = tensor
    if tensor.is_leaf or tracing():  # what shares its node cannot be told in a trace
        own = tensor.clone()
    elif tensor._is_view() or _is_input(tensor, args, kwargs):
        own = _OwnNode.apply(tensor)  # type: ignore[no-untyped-call]

    def run(grad: Tensor) -> Tensor | None:
        new = grad
        for entry in entries:
            if entry.live and entry.hook._enabled:
                changed = entry.gradient(module, new)
                new = new if changed is None else changed
        return None if new is grad else new

    own.register_hook(run)  # type: ignore[no-untyped-call]
    return None if own is tensor else replace(output, own)


class _OwnNode(torch.autograd.Function):
    """The same tensor with a node of its own, no view of it: in-place modules leave hooks alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


def _is_input(tensor: Tensor, args: Args, kwargs: Kwargs) -> bool:
    for value in (*args, *kwargs.values()):
        if value is tensor:
            return True
        if isinstance(value, tuple | list) and any(item is tensor for item in value):
            return True
    return False
