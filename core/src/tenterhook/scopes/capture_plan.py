"""How a capture is set up: which layers, at which sites, and what stands there.

Opening a capture is to cost next to nothing, because people open one around each call. So what can
be worked out once is kept from one scope to the next:

- A `CapturePlan` is the layers of one set of names and their sites. The model's index keeps it as
  long as it finds the same layers for the names, which it looks at anew for each scope.
- A `Recording` is the steps of one open scope: a `Recorder` a layer, and the lists that they fill.
  When its scope has ended in good order, the plan keeps it for the next (`take`, `give_back`). It
  goes back with new lists, so that what a scope captured stays its own.
- A `PlainRecorder` makes a plain copy, which is nearly always what is asked for. While its scope
  is the only one there, it stands in the module's own hooks itself (`alone`): it checks
  that its scope is the innermost one of the thread that calls, and appends. In any other case it
  hands over to the site, which asks what runs.

Opening and closing a scope of 48 layers would take 2.7 times as long with a recording made anew, 4
times with a plan made anew, 27 times with the names looked up anew (`benchmarks/bench_tricks.py`).
`test_scopes_property.py` and `test_scopes_threads.py` hold all this to what a capture without
any of it would give.
"""

from asyncio import _get_running_loop
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import Place, Steps, of_thread
from tenterhook._dispatch.sites import Installs, Side, Site, installs_of, site_of
from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook.layers import Layer, LayerChoice, LayerIndex, LayerSpec
from tenterhook.scopes.scope import Scope, Step, add_steps
from tenterhook.scopes.selecting import Selecting, Selector, steps_of


class Stop:
    """Ends the forward, by an exception that names its scope."""

    __slots__ = ("scope",)
    scope: Scope | None

    def __call__(self) -> None:
        """End it."""
        raise StopForward(self.scope)


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

    def of(self, tensor: Tensor) -> Tensor:
        """Return a finished copy in memory of its own or, undetached, the tensor in the graph."""
        if not self.detach:
            return tensor.to(device=self.device, dtype=self.dtype)
        device, dtype = self.device or tensor.device, self.dtype or tensor.dtype
        return tensor.detach().to(device, dtype, copy=True)


_PLAIN = Form()


class Recorder(Step):
    """Keeps what one layer returned, or was given, in memory of its own."""

    __slots__ = ("calls", "form", "layer", "recording")
    records = True
    recording: "Recording"
    calls: list[Tensor]

    def __init__(self, layer: str, form: Form) -> None:
        self.layer = layer
        self.form = form

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what the layer returned."""
        tensor = output if type(output) is Tensor else activation_of(output)
        if tensor is None:
            self.recording.without[self.layer] = f"returned {type(output).__name__}"
        else:
            self.calls.append(self.form.of(tensor))

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep what the layer is given."""
        tensor = first_input(inputs_of(module, args, kwargs))
        if tensor is None:
            self.recording.without[self.layer] = "was called without a tensor"
        else:
            self.calls.append(self.form.of(tensor))


class PlainRecorder(Recorder):
    """Keeps a copy as it is of each tensor: the capture that is nearly always asked for."""

    __slots__ = ("site",)
    site: Site

    def __reduce__(self) -> Any:
        """Return, for a copy of a module in the open scope, one that is of no scope."""
        return type(self), (self.layer, self.form)

    def after_alone(self, site: Site) -> Callable[..., None]:
        """Return what stands at `site` as the torch hook while no other scope is open there."""
        self.site = site
        return self.alone

    def alone(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Add a copy where its scope is the innermost here; else ask the site what runs."""
        # Another thread may call the model while our scope is open, and a task in this thread: what
        # stands on the module stands there for all, so each call asks whose it is. Standing here
        # rather than in `Site.after_scoped` saves 4 % of a call in a capture.
        # test_scopes_threads.py, `test_capture_under_one_that_stays`.
        if (
            _get_running_loop() is None
            and of_thread.frame is self.recording.frame
            and type(output) is Tensor
        ):
            self.calls.append(output.detach().clone())
            return None
        return self.site.after_scoped(module, args, kwargs, output)


class SelectedRecorder(Recorder):
    """Keeps the selected part of what one layer returned, or was given."""

    __slots__ = ("count", "selecting", "where")

    def __init__(self, layer: str, form: Form, selecting: Selecting) -> None:
        super().__init__(layer, form)
        self.selecting, self.count = selecting, 0
        self.where: list[Tensor] = []

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep the part of what the layer returned."""
        given = first_input(inputs_of(module, args, kwargs))
        self._record(module, activation_of(output), given, f"returned {type(output).__name__}")

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep the part of what the layer is given."""
        given = first_input(inputs_of(module, args, kwargs))
        self._record(module, given, given, "was called without a tensor")

    def _record(
        self, module: nn.Module, tensor: Tensor | None, given: Tensor | None, otherwise: str
    ) -> None:
        call, self.count = self.count, self.count + 1
        if tensor is None:
            self.recording.without[self.layer] = otherwise
        elif call % self.selecting.every == 0:
            try:
                values, places = self.selecting.pick(module, tensor, given)
            except (ValueError, IndexError) as error:
                raise type(error)(f"Layer {self.layer!r}: {error}") from None
            if places is not None:
                self.where.append(places)
            self.calls.append(self.form.of(values))
            self.selecting.kept(self.calls, self.where)


class CapturePlan:
    """Which layers a capture looks at, and where they are: found once for each set of names."""

    def __init__(
        self,
        layers: Sequence[Layer],
        form: Form,
        inputs: bool,
        stop: Layer | None,
    ) -> None:
        self.form = form
        self.layers = tuple(layers)
        self.before = tuple(inputs or layer.name == "input" for layer in layers)
        self.stop = stop
        sides: list[Side] = ["before" if before else "after" for before in self.before]
        self._sites = [site_of(la.module, side) for la, side in zip(layers, sides, strict=True)]
        self._stop_site = None if stop is None else site_of(stop.module, "after")
        self._idle: list[Recording] = []

    def take(self) -> "Recording":
        """Return a recording that no open scope uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def give_back(self, recording: "Recording") -> None:
        """Let a later scope use the recording; what it kept is its scope's alone."""
        # Nobody may be in it: `CaptureScope.close` lets go of one that another thread could still
        # reach, or that was closed from elsewhere, and the next scope gets a new one.
        # test_scopes_threads.py, `test_capture_closed_meanwhile`.
        for recorder in recording.recorders:
            recorder.calls = _NOBODYS
        if recording.without:
            recording.without = {}
        if recording.stop is not None:
            recording.stop.scope = None
        self._idle.append(recording)

    def _make(self) -> "Recording":
        kind = PlainRecorder if self.form == _PLAIN and not any(self.before) else Recorder
        recording = self._recording([kind(layer.name, self.form) for layer in self.layers], {})
        if not any(self.before):
            recording.installs = installs_of(recording.steps)
        return recording

    def selecting(self, selector: Selector, whole: nn.Module) -> "Recording":
        """Return a recording, for one scope, of a part of the activations of the model `whole`."""
        selecting = selector.begin(whole)
        recorders = [SelectedRecorder(la.name, self.form, selecting) for la in self.layers]
        return self._recording(recorders, steps_of(selecting))

    def _recording(self, recorders: "Sequence[Recorder]", steps: dict[Place, Steps]) -> "Recording":
        for recorder, site in zip(recorders, self._sites, strict=True):
            only = recorder if isinstance(recorder, PlainRecorder) else None
            add_steps(steps, site, Steps((recorder,), recorder=only))
        stop = None
        if self._stop_site is not None:
            stop = Stop()
            add_steps(steps, self._stop_site, Steps(stop=stop))
        recording = Recording(recorders, steps, stop)
        for recorder in recorders:
            recorder.recording = recording
        return recording


class Recording:
    """The steps of one open capture."""

    __slots__ = ("frame", "installs", "recorders", "steps", "stop", "without")

    def __init__(
        self, recorders: "Sequence[Recorder]", steps: dict[Place, Steps], stop: "Stop | None"
    ) -> None:
        self.recorders, self.steps, self.stop = recorders, steps, stop
        self.installs: Installs | None = None
        self.frame: Any = CLOSED
        """The frame of the capture that uses it."""
        self.without: dict[str, str] = {}
        """What the layers did that gave no tensor."""

    def fill(self) -> dict[str, list[Tensor]]:
        """Return the lists, by layer, that are filled from now on."""
        calls: dict[str, list[Tensor]] = {}
        for recorder in self.recorders:
            calls[recorder.layer] = recorder.calls = []
        return calls


CLOSED = object()
_NOBODYS: list[Tensor] = []
"""Where the calls of a layer are while no scope keeps them: nothing is added to it."""


_functorch: Any = torch._C._functorch  # private to torch, with no types


def make_own(recorders: "Sequence[Recorder]") -> None:
    """Make plain tensors of copies made in inference mode or in a transform that is over."""
    _replace_where(recorders, Tensor.is_inference, _for_autograd)
    if _functorch.maybe_current_level() is None:
        _replace_where(recorders, _functorch.is_functorch_wrapped_tensor, _unwrapped)


def _replace_where(
    recorders: "Sequence[Recorder]", of_kind: Callable[[Tensor], bool], new: Callable[..., Tensor]
) -> None:
    if any(map(of_kind, chain.from_iterable([recorder.calls for recorder in recorders]))):
        for recorder in recorders:
            recorder.calls[:] = [new(t) if of_kind(t) else t for t in recorder.calls]


@torch.inference_mode(False)
def _for_autograd(tensor: Tensor) -> Tensor:
    return tensor.clone()


def _unwrapped(tensor: Tensor) -> Tensor:
    """Return what `torch.func.grad` wrapped, or of `vmap` the whole batch, its axis the first."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        axis = _functorch.maybe_get_bdim(tensor)
        tensor = _functorch.get_unwrapped(tensor)
        if axis > 0:
            tensor = tensor.movedim(axis, 0)
    return tensor


_Form = tuple[torch.device | str | None, torch.dtype | str | None, bool]
Asked = tuple[tuple[LayerChoice, ...], _Form, bool, LayerSpec | None]
"""What a capture was asked for: layers, how tensors are kept, whether inputs, where to stop."""


def plan_for(index: LayerIndex, asked: Asked) -> CapturePlan:
    """Return the plan for these layers, the one of last time where they mean the same modules."""
    choices, form, inputs, stop = asked
    found = index.find(choices)
    stop_at = None if stop is None else index.resolve(stop)
    key = (found, form, inputs, None if stop_at is None else (stop_at.name, id(stop_at.module)))
    plan: CapturePlan | None = index.plans.get(key)
    if plan is None:
        plan = CapturePlan(found.layers, Form(*form), inputs, stop_at)
        if len(index.plans) >= _MOST_PLANS:
            index.plans.clear()
        index.plans[key] = plan
    return plan


_MOST_PLANS = 64
