"""What runs when a hook runs: a detector watches, a controller's result takes its place.

An *entry* is what one hook does as a site runs it; a hook that detects and controls has two. A site
calls one of three methods, by where it stands: `before` with the inputs, `after` with what the
module returned, `gradient` with the gradient. What the method returns takes the place of the value;
`None` leaves it. The order of events in one call:

1. The entry notes that a forward came by (`fired`), for the report of hooks that never ran.
2. It finds the activation in inputs or output, which may be nested (`tenterhook.activations`).
3. It notes the version counter of the activation. Autograd counts writes in place there, so that
   the next but one step can tell.
4. It calls the user's method.
5. A counter that has moved means that the hook wrote to the model's own tensor: an error, whatever
   the policy for errors, for the numbers are wrong already.
6. A controller's tensor goes into a new structure of the output's type.
7. Whatever the hook raised surfaces as `HookError`, or as the model's policy says (`fail`).

Nothing here writes to anybody's tensors. Entries are shared by all threads that run the model and
hold no state of a call; `fired` only ever turns true.

`Detect.after` and `Control.after` are most of what a hooked call costs, so the call that nearly
every call is stands in them spelled out: a tensor out, no keywords. What is rarer goes through
`watched`, and takes 1.9 times as long (`benchmarks/bench_tricks.py`). `test_dispatch_forward.py`
holds both ways to bare torch hooks: outputs of every structure, and stacks of hooks at random.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import Tensor, distributed, nn, strided
from torch.compiler import is_dynamo_compiling as tracing
from torch.utils import checkpoint

from tenterhook.activations import (
    Inputs,
    Path,
    activation_of,
    first_input,
    inputs_of,
    items_in,
    part_of,
    path_to,
    replace,
    replace_input,
    shape_of,
    spread_as,
    tensors_in,
    whole,
    with_item,
    with_part,
)
from tenterhook.errors import HookError, HookWarning
from tenterhook.hook_type import HookType

# Private to torch, so not there in each of its versions: then checkpointed layers do as they can.
_RECOMPUTED: Any = getattr(checkpoint, "_StopRecomputationError", ())

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class RunnableHook(Protocol):
    """What an entry knows of a hook. It has `process_activations` if it detects and
    `modify_activations` if it controls; see `tenterhook.hooks`."""

    id: str
    hook_type: HookType
    layer_signature: Any
    """In a call that of this call, whichever thread's it is."""
    detects: bool
    controls: bool
    every_tensor: bool
    _enabled: bool

    def disable(self) -> None:
        """Keep the hook from running."""


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

    __slots__ = ("fired", "hook", "live", "modify", "observe", "policy", "reads_only")
    path: Path = ()
    """The way to the part that it is for, where that is not the activation."""
    writer = "The detector"
    """Who wrote, in the error for a write in place."""

    def __init__(self, hook: Any, policy: ErrorPolicy | None = None) -> None:
        self.hook: RunnableHook = hook
        self.policy = policy
        self.live = True
        """Whether its scope is open, or its registration stands; `backward()` may come later."""
        self.fired = False
        """Whether a forward ever came by."""
        self.reads_only: bool = getattr(hook, "reads_only", False)
        """Whether the hook promises to write to nothing it is given."""
        self.observe: Callable[..., Any] = getattr(hook, "process_activations", _nothing)
        self.modify: Callable[..., Any] = getattr(hook, "modify_activations", _nothing)
        if distributed.is_available() and distributed.is_initialized():
            self.observe, self.modify = (
                partial(_of_whole, call) for call in (self.observe, self.modify)
            )

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run on what the module returned; return the new output, or `None` to keep it."""
        raise AssertionError("abstract")

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Run on the inputs; return new ones, or `None` to keep them."""
        self.fired = True
        return self._surfacing(self._before, module, args, kwargs)

    def noted(self, module: nn.Module, args: Args, kwargs: Kwargs, tensor: Tensor) -> Any:
        """Return what `gradient` has to know of the forward that made `tensor`, while it runs."""
        return None

    def gradient(self, module: nn.Module, grad: Tensor, noted: Any = None) -> Tensor | None:
        """Run on the gradient; return a new one, or `None` to keep it."""
        return self._surfacing(self._gradient, module, grad)

    _before: Callable[..., Any]
    _gradient: Callable[..., Any]

    def _surfacing(self, run: Callable[..., T | None], *given: Any) -> T | None:
        """Return `run(*given)`; what that raises surfaces as the policy says."""
        try:
            return run(*given)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def detecting(self) -> "Entry | None":
        """Return what is left of this entry while controllers are off."""
        return self

    def watched(self, values: Sequence[Any], call: Callable[..., Any], *given: Any) -> Any:
        """Return `call(*given)`; raise `WroteInPlace` if it changes what the values hold.

        Tensors count writes. Inference tensors have no version, so writes to them are not found;
        nor are any while the compiler traces, which cannot read versions.
        """
        if tracing():
            return call(*given)
        held = [value for value in values if isinstance(value, list | dict)]
        items, tensors = items_in(*held), tensors_in(*values)
        versions = [*map(version_of, tensors)]
        result = call(*given)
        if [*map(version_of, tensors)] != versions:
            raise wrote(self.writer)
        if held and [*map(id, items_in(*held))] != [*map(id, items)]:
            raise wrote(self.writer)
        return result

    def __reduce__(self) -> Any:
        return without_hook, ()

    def fail(self, error: BaseException) -> None:
        """Surface `error` as the model's policy says: raise it, or warn and go on."""
        if isinstance(error, StopForward):
            error = RuntimeError(_STOPPED)
        # Read now rather than kept: the model's policy may have changed since the hook came.
        policy = "raise" if self.policy is None else self.policy.on_error
        if isinstance(error, WroteInPlace):  # the numbers are wrong already: nothing to skip
            policy = "raise"
        as_it_is = isinstance(error, _RECOMPUTED)  # checkpointing has what it needs
        if isinstance(error, HookError):  # of a hook in a model that this hook ran, or of a part
            as_it_is = policy == "raise" or isinstance(error.original_error, WroteInPlace)
        try:
            if as_it_is:
                raise error
            if policy == "raise":
                raise self._wrapped(error) from error
            if policy == "disable":
                self.hook.disable()
            then = "It is disabled now." if policy == "disable" else "Its result is skipped."
            text = str(self._wrapped(error)).rstrip(".")
            warnings.warn(f"{text}. {then}", HookWarning, stacklevel=3)
        finally:  # what is raised holds this frame; a cycle would keep all its callers' tensors
            del error

    def _wrapped(self, error: BaseException) -> HookError:
        hook = self.hook
        return HookError(hook.id, hook.hook_type, hook.layer_signature, error, type(hook).__name__)


class Detect(Entry):
    """A detector. Its return value is ignored, and a write to what it is given is found."""

    __slots__ = ()

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        self.fired = True
        try:
            inputs = inputs_of(module, args, kwargs) if kwargs else args
            if self.reads_only:  # no look at versions, which is 14 % of an empty one's call
                self.observe(module, inputs, output)
                return
            if type(output) is Tensor and not tracing():
                try:
                    (given,) = inputs
                    version, before = output._version, given._version
                except (ValueError, AttributeError, RuntimeError):
                    pass  # not one tensor, or inference tensors
                else:
                    self.observe(module, inputs, output)
                    if output._version != version or given._version != before:
                        raise wrote(self.writer)
                    return
            tensor = activation_of(output)
            self.watched((tensor, output, *inputs), self.observe, module, inputs, output)
            if tensor is not output and activation_of(output) is not tensor:  # put another there
                raise wrote(self.writer)
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)

    def _before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        inputs = inputs_of(module, args, kwargs) if kwargs else args
        self.watched(inputs, self.observe, module, inputs, None)

    def _gradient(self, module: nn.Module, grad: Tensor) -> None:
        self.watched((grad,), self.observe, module, (grad,), grad)


class Control(Entry):
    """A controller. What it returns takes the activation's place."""

    __slots__ = ("edit",)
    writer = "The controller"

    def __init__(self, hook: Any, policy: ErrorPolicy | None = None) -> None:
        super().__init__(hook, policy)
        alone = hook.edits and "modify_activations" not in vars(hook)
        self.edit, self.reads_only = hook if alone else None, alone and self.reads_only

    def detecting(self) -> Entry | None:
        return None

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        self.fired = True
        # The short way is for one tensor out and one in, by position, or for an `Edit`, which is
        # given no input: then there is one call less and one tensor less to watch. All else, and
        # what is traced, takes 3.5 times the time of an empty controller's call.
        edit = self.edit
        if type(output) is not Tensor or (kwargs and edit is None) or tracing():
            return self._surfacing(self._after, module, args, kwargs, output)
        try:
            version = None if self.reads_only else output._version
            if edit is None:
                (given,) = args
                before = given._version
        except (ValueError, AttributeError, RuntimeError):  # not one tensor, or inference tensors
            return self._surfacing(self._after, module, args, kwargs, output)
        try:
            if edit is None:
                new = self.modify(module, given, output)
                if given._version != before:
                    raise wrote(self.writer)
            else:
                new = edit.function(output)
            if version is not None and output._version != version:
                raise wrote(self.writer)
            if type(new) is Tensor:
                return new
            new = new if edit is None else edit.checked(new)
            return None if new is None else replace(output, a_tensor(new))
        except (Exception, StopForward) as error:  # noqa: BLE001 - a hook may raise anything
            self.fail(error)
            return None

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Do what `after` does, of any output and inputs."""
        tensor = activation_of(output)
        if tensor is None:
            if self.live:
                self._changed_nothing(f"returned {type(output).__name__}, which holds no tensor")
            return None
        given = first_input(inputs_of(module, args, kwargs))
        watched = (tensor, *args, *kwargs.values())
        new = self.watched(watched, self.modify, module, given, tensor)
        return None if new is None else replace(output, a_tensor(new))

    def _before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        inputs = inputs_of(module, args, kwargs)
        tensor = first_input(inputs)
        new = self.watched(inputs, self.modify, module, tensor, None)
        if new is not None:
            new = new if isinstance(new, tuple) else a_tensor(new, _WANTED_BEFORE)
            return replace_input(inputs, new)
        if tensor is None and self.live and not tracing():
            self._changed_nothing("was called without a tensor")
        return None

    def _gradient(self, module: nn.Module, grad: Tensor) -> Tensor | None:
        new = self.watched((grad,), self.modify, module, grad, grad)
        if new is None:
            return None
        if grad.is_nested and grad.layout is strided:
            raise TypeError(
                "torch takes no other gradient of strided nested tensors, but of jagged."
            )
        if _form(a_tensor(new, "a gradient, or None to leave it alone")) != _form(grad):
            raise ValueError(
                "It returned a gradient of shape {}, {}, on {}, where autograd needs "
                "{}, {}, on {}.".format(*_form(new), *_form(grad))
            )
        found: Tensor = new
        return found

    def _changed_nothing(self, why: str) -> None:
        """Say, once per place in the code, that there was nothing to change."""
        what = f"Layer {self.hook.layer_signature!r}: {type(self.hook).__name__} {self.hook.id!r}"
        text = f"{what} changed nothing, for the layer {why}."
        warnings.warn(text, HookWarning, stacklevel=3)


_WANTED = "a tensor, or None to leave the activation alone"
_WANTED_BEFORE = "a tensor, a tuple of inputs, or None to leave them alone"


class ControlPart(Control):
    """A controller of another part than the activation.

    See `Controller.field`, `item` and `every_tensor`.
    """

    __slots__ = ("path",)

    def __init__(self, hook: Any, policy: ErrorPolicy | None = None) -> None:
        super().__init__(hook, policy)
        self.path = path_to(hook.field, hook.item)
        if self.path and hook.hook_type is not HookType.FORWARD:
            text = f"field={hook.field!r} and item={hook.item!r} are of an output"
            raise ValueError(f"{text}, and a {hook.hook_type} hook sees none. Leave them out.")

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        self.fired = True
        return self._surfacing(self._part, module, args, kwargs, output)

    def _part(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        part, new = part_of(output, self.path), None
        if not self.hook.every_tensor or not isinstance(part, tuple | list):
            new = super().after(module, args, kwargs, part)
        else:
            for at, item in enumerate(part):
                if isinstance(item, Tensor) and self.hook._enabled:  # a failure may disable it
                    changed = super().after(module, args, kwargs, item)
                    new = new if changed is None else with_item(new or part, at, changed)
        return None if new is None else with_part(output, self.path, new)


def _of_whole(call: Callable[..., Any], module: nn.Module, given: Any, value: Any) -> Any:
    """Call a hook with what several processes have parts of whole; spread what it returns so."""
    old = given if value is None else value
    if isinstance(given, Inputs) and (tensor := first_input(given)) is not None:
        given = inputs_of(module, *replace_input(given, whole(tensor)))
    return spread_as(call(module, whole(given), whole(value)), old)


def without_hook(*_: Any) -> Entry:
    """Return an entry that does nothing: what a copy or pickle of a hooked module has in our place.

    Hooks belong to the module that they were registered on, so a copy starts without any.
    """
    entry = Detect.__new__(Detect)
    entry.policy, entry.live, entry.observe, entry.reads_only = None, False, _nothing, True
    return entry


def entries_for(hook: Any, policy: ErrorPolicy | None = None) -> tuple[Entry, ...]:
    """Return the entries that run `hook`, in order; `TypeError` for a hook of neither kind."""
    return tuple(kind(hook, policy) for kind in entry_classes(hook))


def entry_classes(hook: Any) -> list[type[Entry]]:
    """Return the classes of the entries that run `hook`; `TypeError` for a hook of neither kind.

    A hook of both kinds has two: it detects on the unmodified activation, then controls.
    """
    found: list[type[Entry]] = []
    if hook.detects:
        found.append(Detect)
    if hook.controls:
        part = hook.every_tensor or hook.field is not None or hook.item is not None
        found.append(ControlPart if part else Control)
    if not found:
        raise TypeError(
            f"{hook!r} is neither a Detector nor a Controller. Subclass one of them, or both."
        )
    return found


def version_of(tensor: Any) -> int | None:
    """Return how often a tensor was written to in place; `None` of what does not count that."""
    try:
        version: int = tensor._version
    except (AttributeError, RuntimeError):  # no tensor, or an inference tensor
        return None
    return version


def a_tensor(value: Any, wanted: str = _WANTED) -> Tensor:
    """Return what a hook returned; `TypeError` for anything but a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"It returned {type(value).__name__}; return {wanted}.")
    return value


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return shape_of(tensor), tensor.dtype, tensor.device


class WroteInPlace(RuntimeError):
    """A hook wrote to a tensor of the model's; raised whatever the policy for errors."""


def wrote(who: str) -> WroteInPlace:
    """Return the error for a hook that wrote to a tensor of the model's."""
    return WroteInPlace(
        f"{who} wrote to the activation in place, which other parts of the model may share. "
        "Return a new tensor from a Controller instead, or work on activation.clone()."
    )


def _nothing(*_: Any) -> None:
    return None
