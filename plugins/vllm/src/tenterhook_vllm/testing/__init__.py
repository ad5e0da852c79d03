"""For tests of what drives an engine: an engine of a few hundred lines, and what must hold of any.

`BatchingEngine` does to the rows of a `Serving` all that an engine does: it cuts prompts into
chunks, shares cached prefixes, preempts and computes again, rejects drafts, aborts. The tests of an
adapter to another engine inherit `ServingContract`.
"""

from tenterhook_vllm.testing.contract import Driven, Got, ServingContract, check, check_turns
from tenterhook_vllm.testing.engine import BatchingEngine, Settings
from tenterhook_vllm.testing.model import TinyModel, tiny_points
from tenterhook_vllm.testing.schedules import Asked, Schedule, random_requests

__all__ = [
    "Asked",
    "BatchingEngine",
    "Driven",
    "Got",
    "Schedule",
    "ServingContract",
    "Settings",
    "TinyModel",
    "check",
    "check_turns",
    "random_requests",
    "tiny_points",
]
