"""Captures and steers the requests of an engine that batches continuously, as vLLM does.

What follows a request through an engine's steps (`Serving`) knows no vLLM and needs none. Importing
this imports no torch; each name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_vllm.points import ServedPoints
    from tenterhook_vllm.request_specs import RequestSpec, read_request, request_args
    from tenterhook_vllm.steps import Rows, Step

__all__ = [
    "RequestSpec",
    "Rows",
    "ServedPoints",
    "Step",
    "read_request",
    "request_args",
]

_HOMES = {
    "RequestSpec": "request_specs",
    "Rows": "steps",
    "ServedPoints": "points",
    "Step": "steps",
    "read_request": "request_specs",
    "request_args": "request_specs",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
