"""Captures: what the layers of a model return over many documents, kept in a store.

A capture is planned, cut into units, and done unit by unit; any that are missing are done by the
same call again, or by any process that can reach the store.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_capture.beginning import as_begun, begin_run
    from tenterhook_capture.errors import (
        BadArgument,
        BadSlice,
        ChangedSince,
        MaskIgnored,
        NoPattern,
        NothingChosen,
        NothingToCapture,
        NotPerToken,
        NotRebuildable,
        SeveralCalls,
        UnitsFailed,
        WrongMask,
    )
    from tenterhook_capture.estimating import Estimate, estimate
    from tenterhook_capture.hook_metrics import HookMetric, HookMetrics
    from tenterhook_capture.identity import CaptureSpec
    from tenterhook_capture.loggers import Logger, TensorBoard
    from tenterhook_capture.lost_values import ValuesLost
    from tenterhook_capture.options import ROWS_PER_UNIT, CaptureOptions, LongDocuments
    from tenterhook_capture.points import Point, points_of
    from tenterhook_capture.prepare import Capture, prepare_capture
    from tenterhook_capture.progress import Progress, ProgressCallback
    from tenterhook_capture.recipe import CaptureRecipe
    from tenterhook_capture.reproducing import Reproduction, reproduce
    from tenterhook_capture.save import resume_run, save_activations
    from tenterhook_capture.scaling import WorkersEstimate
    from tenterhook_capture.slices import Slice, slice_of_launcher
    from tenterhook_capture.special_tokens import DoubledSpecialToken, SpecialTokens
    from tenterhook_capture.status import OpenSession, RunStatus, run_status
    from tenterhook_capture.token_rows import TokenCounts
    from tenterhook_capture.unit_rows import UnitsRounded
    from tenterhook_capture.units import TRIES
    from tenterhook_capture.workers import WorkerFactory

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
    "DoubledSpecialToken",
    "Estimate",
    "HookMetric",
    "HookMetrics",
    "Logger",
    "LongDocuments",
    "MaskIgnored",
    "NoPattern",
    "NotPerToken",
    "NotRebuildable",
    "NothingChosen",
    "NothingToCapture",
    "OpenSession",
    "Point",
    "Progress",
    "ProgressCallback",
    "Reproduction",
    "RunStatus",
    "SeveralCalls",
    "Slice",
    "SpecialTokens",
    "TensorBoard",
    "TokenCounts",
    "UnitsFailed",
    "UnitsRounded",
    "ValuesLost",
    "WorkerFactory",
    "WorkersEstimate",
    "WrongMask",
    "as_begun",
    "begin_run",
    "estimate",
    "points_of",
    "prepare_capture",
    "reproduce",
    "resume_run",
    "run_status",
    "save_activations",
    "slice_of_launcher",
]

_HOMES = {
    "ROWS_PER_UNIT": "options",
    "TRIES": "units",
    "BadArgument": "errors",
    "BadSlice": "errors",
    "Capture": "prepare",
    "CaptureOptions": "options",
    "CaptureRecipe": "recipe",
    "CaptureSpec": "identity",
    "ChangedSince": "errors",
    "DoubledSpecialToken": "special_tokens",
    "Estimate": "estimating",
    "HookMetric": "hook_metrics",
    "HookMetrics": "hook_metrics",
    "Logger": "loggers",
    "LongDocuments": "options",
    "MaskIgnored": "errors",
    "NoPattern": "errors",
    "NotPerToken": "errors",
    "NotRebuildable": "errors",
    "NothingChosen": "errors",
    "NothingToCapture": "errors",
    "OpenSession": "status",
    "Point": "points",
    "Progress": "progress",
    "ProgressCallback": "progress",
    "Reproduction": "reproducing",
    "RunStatus": "status",
    "SeveralCalls": "errors",
    "Slice": "slices",
    "SpecialTokens": "special_tokens",
    "TensorBoard": "loggers",
    "TokenCounts": "token_rows",
    "UnitsFailed": "errors",
    "UnitsRounded": "unit_rows",
    "ValuesLost": "lost_values",
    "WorkerFactory": "workers",
    "WorkersEstimate": "scaling",
    "WrongMask": "errors",
    "as_begun": "beginning",
    "begin_run": "beginning",
    "estimate": "estimating",
    "points_of": "points",
    "prepare_capture": "prepare",
    "reproduce": "reproducing",
    "resume_run": "save",
    "run_status": "status",
    "save_activations": "save",
    "slice_of_launcher": "slices",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
