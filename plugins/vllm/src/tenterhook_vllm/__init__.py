"""Captures and steers the requests of an engine that batches continuously, as vLLM does.

What follows a request through an engine's steps (`Serving`) knows no vLLM and needs none. Importing
this imports no torch; each name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_vllm.errors import (
        DuplicateRequest,
        NothingChanged,
        NothingSelected,
        NotInStep,
        OtherTokens,
        RowsMissing,
        SelectionFailed,
        UnknownRequest,
        WrongRows,
    )
    from tenterhook_vllm.points import ServedPoints
    from tenterhook_vllm.receipts import HookReceipt, RequestReceipt
    from tenterhook_vllm.request_specs import RequestSpec, read_request, request_args
    from tenterhook_vllm.serving import Answer, Serving
    from tenterhook_vllm.steps import Rows, Step

__all__ = [
    "Answer",
    "DuplicateRequest",
    "HookReceipt",
    "NotInStep",
    "NothingChanged",
    "NothingSelected",
    "OtherTokens",
    "RequestReceipt",
    "RequestSpec",
    "Rows",
    "RowsMissing",
    "SelectionFailed",
    "ServedPoints",
    "Serving",
    "Step",
    "UnknownRequest",
    "WrongRows",
    "read_request",
    "request_args",
]

_HOMES = {
    "Answer": "serving",
    "DuplicateRequest": "errors",
    "HookReceipt": "receipts",
    "NotInStep": "errors",
    "NothingChanged": "errors",
    "NothingSelected": "errors",
    "OtherTokens": "errors",
    "RequestReceipt": "receipts",
    "RequestSpec": "request_specs",
    "Rows": "steps",
    "RowsMissing": "errors",
    "SelectionFailed": "errors",
    "ServedPoints": "points",
    "Serving": "serving",
    "Step": "steps",
    "UnknownRequest": "errors",
    "WrongRows": "errors",
    "read_request": "request_specs",
    "request_args": "request_specs",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
