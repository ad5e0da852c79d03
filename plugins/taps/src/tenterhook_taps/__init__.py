"""Taps: places in a model that capture and steer it under `torch.compile`, compiled once.

`model.taps(layers)` before `torch.compile(..., fullgraph=True)` puts them there; see `Taps`.
"""

from tenterhook_taps.errors import RoomFull, RowsMismatch, TapsRemoved, WidthMismatch
from tenterhook_taps.recording import TapCapture
from tenterhook_taps.tap import Tap, Until
from tenterhook_taps.taps import Taps

__all__ = [
    "RoomFull",
    "RowsMismatch",
    "Tap",
    "TapCapture",
    "Taps",
    "TapsRemoved",
    "Until",
    "WidthMismatch",
]
