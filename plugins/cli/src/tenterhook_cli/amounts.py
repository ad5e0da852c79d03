"""Amounts as people say them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenterhook_store import Run


def many(count: int, what: str) -> str:
    """Return a number of things: `1 row`, `2 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Return a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def how_long(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s" if seconds else "0 s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


def progress_of(run: "Run") -> str:
    """Say how much of a run there is."""
    if run.is_complete:
        return f"the run is complete, {run.plan.rows:,} rows"
    missing = run.plan.unit_count - len(run.committed)
    are = "is" if missing == 1 else "are"
    return f"{missing:,} of its {run.plan.unit_count:,} units {are} missing"
