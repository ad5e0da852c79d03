"""What taps capture: while a scope is open a copy of each call, or room that is made once."""

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from tenterhook import Captured, LayerIndex, NeverFired
from tenterhook.errors import HookWarning
from tenterhook.reports import Report
from tenterhook_taps.errors import RoomFull


class Recorder:
    """The calls of one layer in one capture."""

    def __init__(
        self,
        max_tokens: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.calls: list[Tensor] = []
        """A tensor for each call, in order; with `max_tokens` views of the room."""
        self._max_tokens = max_tokens
        self._device, self._dtype = device, dtype
        self._room: Tensor | None = None
        self._used = 0

    def record(self, activation: Tensor) -> None:
        """Keep a copy of what a call of the layer returned.

        Raises `RoomFull`, and `ValueError` where a call does not have the width of the first.
        """
        # Not inference tensors, which nobody could use for training later.
        with torch.inference_mode(False), torch.no_grad():
            device, dtype = self._device or activation.device, self._dtype or activation.dtype
            if self._max_tokens is None:
                self.calls.append(activation.detach().to(device, dtype, copy=True))
                return
            width = activation.shape[-1] if activation.ndim else 1
            if self._room is None:
                self._room = torch.empty(self._max_tokens, width, dtype=dtype, device=device)
            room = self._room
            if width != room.shape[1]:
                raise ValueError(
                    f"The room of the capture has {room.shape[1]} features, and the activation of "
                    f"this call has {width}. Leave max_tokens out for calls that differ."
                )
            end = self._used + (activation.numel() // width if width else 0)
            if end > self._max_tokens:
                raise RoomFull(self._max_tokens, end)
            kept = room[self._used : end].view(activation.shape)
            kept.copy_(activation)
            self._used = end
            self.calls.append(kept)


class Recorded(Protocol):
    """What a capture knows of a tap."""

    def record(self, recorder: Recorder) -> None:
        """Have what the layer returns recorded, too, from the next call on."""

    def stop_recording(self, recorder: Recorder) -> None:
        """Record no more; nothing, where it does not."""


class TapCapture:
    """A capture by taps: `with taps.capture() as captured:`. One is open once at a time."""

    def __init__(
        self,
        taps: Mapping[str, Recorded],
        index: LayerIndex,
        recorder: Callable[[], Recorder],
        missing: Report,
    ) -> None:
        self._taps, self._index, self._recorder, self._missing = taps, index, recorder, missing
        self._recorders: dict[str, Recorder] = {}

    def __enter__(self) -> Captured:
        """Begin to record; raises `TapsRemoved`, and `RuntimeError` where it is open already."""
        if self._recorders:
            raise RuntimeError("This capture is open already. Call taps.capture() for another.")
        self._recorders = {name: self._recorder() for name in self._taps}
        try:
            for name, tap in self._taps.items():
                tap.record(self._recorders[name])
        except BaseException:
            self._close()
            raise
        return Captured(self._index, {name: each.calls for name, each in self._recorders.items()})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop recording and report layers that no call came by, unless an error ends the scope."""
        silent = [name for name, recorder in self._recorders.items() if not recorder.calls]
        self._close()
        if error is not None or not silent or self._missing == "ignore":
            return
        names = ", ".join(map(repr, silent))
        report = (
            f"taps.capture() saw no call at {names}. Not every input needs every module, and code "
            "that takes a module's weights, or calls its forward, goes past its taps."
        )
        if self._missing == "raise":
            raise NeverFired([report])
        warnings.warn(report, HookWarning, stacklevel=2)

    def _close(self) -> None:
        for name, recorder in self._recorders.items():
            self._taps[name].stop_recording(recorder)
        self._recorders = {}
