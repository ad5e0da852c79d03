"""Runs with a limit: how much they hold, and which rows are there.

A run that was begun with a limit holds the rows of so many bytes at once. `following` says who
reads it meanwhile, and `limited_writer` what is dropped, and when.
"""

from collections.abc import Collection

from tenterhook_store.errors import BadSetting
from tenterhook_store.plan import ROW_ARRAYS, RunPlan
from tenterhook_store.row_ranges import RowRanges

KEEP = "keep"
"""Where a plan has its limit in bytes, under `about`: no part of what identifies the run."""


def unit_bytes(plan: RunPlan) -> int:
    """Return how many bytes the rows of a full unit are, and their numbers; nothing compressed."""
    from tenterhook_store.tensors import item_bytes

    return plan.rows_per_unit * (plan.row_bytes + sum(map(item_bytes, ROW_ARRAYS.values())))


def units_held(plan: RunPlan) -> int | None:
    """Return how many units a run with a limit holds at once; `None` for a run without one."""
    keep = plan.about.get(KEEP)
    if not isinstance(keep, int) or isinstance(keep, bool):
        return None
    return keep // unit_bytes(plan)


def check_droppable(plan: RunPlan, run_id: str, number: int, is_committed: bool) -> None:
    """Raise `BadSetting` unless a unit may be dropped; `IndexError` where there is none such."""
    plan.unit(number)
    if units_held(plan) is None:
        what = "one that was begun with a limit (keep): of others no unit is dropped"
        raise BadSetting("run_id", run_id, what)
    if not is_committed:
        raise BadSetting("number", number, "a unit that is committed")


def held_now(
    run_id: str, plan: RunPlan, committed: Collection[int], dropped: Collection[int]
) -> RowRanges:
    """Return the rows that are there now, for who reads rows that were there before."""
    return RowRanges.of_units(
        frozenset(committed),
        plan,
        run_id,
        dropped=frozenset(dropped),
        keep=plan.about.get(KEEP) or 0,
    )
