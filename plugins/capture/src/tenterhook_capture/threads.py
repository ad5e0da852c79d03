"""How many threads an operation of torch has: a run's own number, for it changes the last bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tenterhook_store import RunPlan

THREADS = "threads"
"""Where a plan says it, under `about`. Runs of earlier versions do not."""


def set_threads(plan: RunPlan) -> int:
    """Have operations of torch use as many threads as the run was begun with; return how many.

    It stays as it is where the run does not say.
    """
    threads = plan.about.get(THREADS)
    if isinstance(threads, int) and threads > 0 and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def threads_of(plan: RunPlan) -> Iterator[int]:
    """Do as `set_threads` does, and take it back afterwards."""
    before = torch.get_num_threads()
    try:
        yield set_threads(plan)
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
