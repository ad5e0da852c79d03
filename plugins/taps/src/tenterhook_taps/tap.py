"""One tap: a hook on a layer that captures and changes what the layer returns.

It is registered like any hook, once, before the model is compiled, and stays. What is switched on
and off later is a value that it looks at in each call: under the compiler from inside an operator,
see `tenterhook_taps.operator`.
"""

import threading
from types import TracebackType
from typing import Any, NoReturn

import attrs
import torch
from torch import Tensor, nn

from tenterhook.errors import HookError
from tenterhook.hooks import Controller
from tenterhook_taps import operator
from tenterhook_taps.changes import Setting
from tenterhook_taps.errors import TapsRemoved
from tenterhook_taps.recording import Recorder


class Tap(Controller):
    """A tap at one layer, for everyone who runs the model. Made by `model.taps`.

    It makes of the layer's activation `activation * factors + coefficient * vector`. Captures see
    the activation as the layer returned it.
    """

    def __init__(self, layer: str) -> None:
        super().__init__(layer_signature=layer)
        self._number = operator.number_for(self)
        self._setting = Setting()
        self._recorders: tuple[Recorder, ...] = ()
        self._changing = threading.Lock()
        self._removed = False

    def add(self, vector: Tensor, coefficient: Tensor | float = 1.0) -> "Until":
        """Add `coefficient * vector` to the activation from the next call on.

        `vector` is `(features,)`, or `(rows, features)` with one for each row of the batch, and
        `coefficient` a number, or `(rows,)`. Another vector takes the place of this one. Both are
        copied: what is written to them later does not count. The sum is made in float32 or better.

        It stands until it is changed; `with tap.add(vector):` takes it back at the end.
        A width or number of rows that does not fit is a `HookError` when the model runs.
        """
        vector = _copied("vector", vector, (1, 2))
        number = _copied("coefficient", coefficient, (0, 1))
        return self._set(vector=vector, coefficient=number)

    def scale(self, factors: Tensor | float) -> "Until":
        """Multiply the activation by `factors`: a number, or `(rows,)` for the rows of the batch.

        As `add`: it is copied, and stands until it is changed or the `with` block ends. A vector
        that is added is not multiplied.
        """
        return self._set(factor=_copied("factors", factors, (0, 1)))

    def clear(self) -> "Until":
        """Leave the activation alone from the next call on."""
        return self._set(factor=None, vector=None, coefficient=None)

    @property
    def changes(self) -> bool:
        """Whether the tap changes the activation now."""
        return self._setting.factor is not None or self._setting.vector is not None

    def describe_change(self) -> dict[str, Tensor | None]:
        """Return what it does to an activation now, for the identity of a run."""
        setting = self._setting
        names = ("factor", "vector", "coefficient")
        return {name: getattr(setting, name) for name in names}

    def _set(self, **what: Tensor | None) -> "Until":
        with self._changing:
            if self._removed:
                raise TapsRemoved(str(self.layer_signature))
            before = self._setting
            self._setting = attrs.evolve(before, **what)
        return Until(self, before)

    def record(self, recorder: Recorder) -> None:
        """Have what the layer returns recorded, too, from the next call on."""
        with self._changing:
            if self._removed:
                raise TapsRemoved(str(self.layer_signature))
            self._recorders = (*self._recorders, recorder)

    def stop_recording(self, recorder: Recorder) -> None:
        """Record no more."""
        with self._changing:
            self._recorders = tuple(each for each in self._recorders if each is not recorder)

    def take_out(self) -> None:
        """Do nothing any more, in code that was compiled with the tap, too."""
        with self._changing:
            self._removed = True
            self._setting, self._recorders = Setting(), ()
        operator.forget(self._number)

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Return the changed activation; `None` where it is left alone."""
        if output is None:
            return None
        if not torch.compiler.is_compiling():
            change = self._seen(output)
            return None if change is None else operator.changed(output, change)
        change = operator.tap(output.detach(), self._number)
        # Of ids and other integers nothing is changed, and float32 would not hold them.
        if not output.is_floating_point() or not output.ndim:
            return None
        return operator.changed(output, change)

    def called(self, activation: Tensor) -> Tensor | None:
        """Do in a compiled model what is done in one that is not; see `operator.Standing`."""
        try:
            return self._seen(activation)
        except Exception as error:
            layer, kind = self.layer_signature, type(self).__name__
            raise HookError(self.id, self.hook_type, layer, error, kind) from error

    def _seen(self, activation: Tensor) -> Tensor | None:
        if activation.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "A CUDA graph is being recorded, and would replay what the tap does now for ever. "
                "Compile without mode='reduce-overhead', or call taps.remove() first."
            )
        for recorder in self._recorders:
            recorder.record(activation)
        return self._setting.change_for(activation)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"The tap at {self.layer_signature!r} belongs to its model and cannot be copied. A "
            "copy of a model starts without taps: place them by model.taps(...) there."
        )


class Until:
    """A change of a tap that stands; as a context manager it is taken back at the end."""

    def __init__(self, tap: Tap, before: Setting) -> None:
        self._tap, self._before = tap, before

    def __enter__(self) -> Tap:
        return self._tap

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Have the tap do what it did before the change."""
        with self._tap._changing:
            if not self._tap._removed:
                self._tap._setting = self._before


def _copied(name: str, value: Any, axes: tuple[int, int]) -> Tensor:
    """Return a tensor of its own for what the user gave.

    Raises `TypeError` and `ValueError` for what is no real number or tensor of so many axes.
    """
    if isinstance(value, int | float) and axes[0] == 0:
        value = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype is torch.bool:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        number = "a number or " if axes[0] == 0 else ""
        raise TypeError(f"{name} is {number}a tensor of real numbers, not {what}.")
    if value.requires_grad:
        raise TypeError(
            f"{name} requires a gradient, and a tap copies it, so none would come. Give "
            f"{name}.detach(); to train one, register AddVector of tenterhook-edits."
        )
    if value.ndim not in axes:
        wanted = "(features,) or (rows, features)" if axes[0] else "a number or (rows,)"
        raise ValueError(f"{name} is {wanted}, not of shape {tuple(value.shape)}.")
    with torch.inference_mode(False):
        return value.clone()
