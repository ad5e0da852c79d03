"""Captures: what the layers of a model return over many documents, kept in a store.

A capture is planned, cut into units, and done unit by unit; any that are missing are done by the
same call again.
"""

from tenterhook.capture._errors import BadArgument, NothingToCapture, NotPerToken, WrongMask
from tenterhook.capture._progress import Progress, ProgressCallback
from tenterhook.capture._save import ROWS_PER_UNIT, save_activations
from tenterhook.capture._spec import CaptureSpec
from tenterhook.capture._tokens import LongDocuments, TokenCounts

__all__ = [
    "ROWS_PER_UNIT",
    "BadArgument",
    "CaptureSpec",
    "LongDocuments",
    "NotPerToken",
    "NothingToCapture",
    "Progress",
    "ProgressCallback",
    "TokenCounts",
    "WrongMask",
    "save_activations",
]
