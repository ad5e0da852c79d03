"""Captures: what the layers of a model return over many documents, kept in a store.

A capture is planned, cut into units, and done unit by unit; any that are missing are done by the
same call again, or by any process that can reach the store.
"""

from tenterhook.capture._errors import (
    BadArgument,
    BadSlice,
    ChangedSince,
    NoPattern,
    NothingChosen,
    NothingToCapture,
    NotPerToken,
    NotRebuildable,
    UnitsFailed,
    WrongMask,
)
from tenterhook.capture._estimate import Estimate, estimate
from tenterhook.capture._options import ROWS_PER_UNIT, CaptureOptions
from tenterhook.capture._points import Point, points_of
from tenterhook.capture._prepare import Capture, prepare_capture
from tenterhook.capture._progress import Progress, ProgressCallback
from tenterhook.capture._recipe import CaptureRecipe
from tenterhook.capture._save import begin_run, resume_run, save_activations
from tenterhook.capture._slices import Slice, slice_of_launcher
from tenterhook.capture._spec import CaptureSpec
from tenterhook.capture._status import OpenSession, RunStatus, run_status
from tenterhook.capture._tokens import LongDocuments, TokenCounts
from tenterhook.capture._units import TRIES
from tenterhook.capture._workers import WorkerFactory

__all__ = [
    "ROWS_PER_UNIT",
    "TRIES",
    "BadArgument",
    "BadSlice",
    "Capture",
    "CaptureOptions",
    "CaptureRecipe",
    "CaptureSpec",
    "ChangedSince",
    "Estimate",
    "LongDocuments",
    "NoPattern",
    "NotPerToken",
    "NotRebuildable",
    "NothingChosen",
    "NothingToCapture",
    "OpenSession",
    "Point",
    "Progress",
    "ProgressCallback",
    "RunStatus",
    "Slice",
    "TokenCounts",
    "UnitsFailed",
    "WorkerFactory",
    "WrongMask",
    "begin_run",
    "estimate",
    "points_of",
    "prepare_capture",
    "resume_run",
    "run_status",
    "save_activations",
    "slice_of_launcher",
]
