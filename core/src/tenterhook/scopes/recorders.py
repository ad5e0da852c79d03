"""What a capture has at each layer: a recorder, which adds a copy of each tensor to a list.

A `PlainRecorder` makes a plain copy, which is nearly always what is asked for; a `Recorder` one of
another form. A selector has one of its own, which keeps what is selected.
"""

from asyncio import _get_running_loop
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook._dispatch.frames import of_thread
from tenterhook.activations import Path, activation_of, first_input, inputs_of, part_of, whole
from tenterhook.scopes.plan import Part

_functorch: Any = torch._C._functorch  # private to torch, with no types


def _device(device: torch.device | str | None) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r} is not a device: 'cpu', 'cuda:0', ...") from None


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is not a dtype of torch: torch.float16, 'bfloat16', ...")
    return found


@attrs.frozen
class Form:
    """How tensors are kept."""

    device: torch.device | None = attrs.field(default=None, converter=_device)
    dtype: torch.dtype | None = attrs.field(default=None, converter=_dtype)
    detach: bool = True
    path: Path = ()
    """The part of the output that is kept, where it is not the activation."""

    def of(self, tensor: Tensor) -> Tensor:
        """Return a finished copy in memory of its own or, undetached, the tensor in the graph."""
        if not self.detach:
            return tensor.to(device=self.device, dtype=self.dtype)
        device, dtype = self.device or tensor.device, self.dtype or tensor.dtype
        return tensor.detach().to(device, dtype, copy=True)


class Recorder(Part):
    """Keeps what one layer returned, or was given, in memory of its own."""

    __slots__ = ("form",)
    records = True

    def __init__(self, layer: str, at: int, form: Form) -> None:
        super().__init__(layer, at)
        self.form = form

    def after(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what the layer returned."""
        try:
            part = whole(part_of(output, self.form.path))
        except LookupError as error:
            raise LookupError(f"Layer {self.layer!r}: {error}") from None
        self.keep(activation_of(part), module, args, kwargs, f"returned {type(part).__name__}")

    def before(self, module: Any, args: Any, kwargs: Any) -> None:
        """Keep what the layer is given."""
        tensor = whole(first_input(inputs_of(module, args, kwargs)))
        self.keep(tensor, module, args, kwargs, "was called without a tensor")

    def keep(
        self, tensor: Tensor | None, module: Any, args: Any, kwargs: Any, otherwise: str
    ) -> None:
        """Keep a tensor of one call; where there is none, `otherwise` says what there was."""
        if tensor is None:
            self.opening.without[self.layer] = otherwise
        else:
            self.add(self.form.of(tensor))

    def add(self, copy: Tensor) -> None:
        """Add what is kept of one call."""
        self.opening.own[self.at].append(copy)


class PlainRecorder(Recorder):
    """Keeps a copy as it is of each tensor: the capture that is nearly always asked for."""

    __slots__ = ()

    def alone(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """Stand at the site where nothing else does: keep what a call of its scope's gives.

        What stands there stands there for all, so each call asks whose it is: another thread may
        call the model while the scope is open, and a task in this thread. Then the site is asked,
        which takes 1.5 times as long.
        """
        # test_scopes_threads.py, `test_capture_under_one_that_stays`.
        opening = self.opening
        if (
            _get_running_loop() is None
            and of_thread.frame is opening.frame
            and type(output) is Tensor
        ):
            opening.own[self.at].append(output.detach().clone())
            return None
        return self.site.after_scoped(module, args, kwargs, output)


def make_plain(calls: list[Tensor]) -> bool:
    """Make plain tensors of copies made in inference mode or in a transform that is over.

    Return whether no transform runs, so that none is left.
    """
    over = _functorch.maybe_current_level() is None
    for at, tensor in enumerate(list.__iter__(calls)):
        if isinstance(tensor, Tensor):  # what went to a store is plain, and not read for that
            calls[at] = _plain(tensor, over)
    return over


def _plain(tensor: Tensor, over: bool) -> Tensor:
    """Return what `torch.func.grad` wrapped, or of `vmap` the whole batch, its axis the first."""
    while over and _functorch.is_functorch_wrapped_tensor(tensor):
        axis = _functorch.maybe_get_bdim(tensor)
        tensor = _functorch.get_unwrapped(tensor)
        if axis > 0:
            tensor = tensor.movedim(axis, 0)
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):  # fit for autograd
        return tensor.clone()
