"""Amounts as people say them."""

from typing import TYPE_CHECKING

from tenterhook_store.progress import how_long as how_long

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


def progress_of(run: "Run") -> str:
    """Say how much of a run there is."""
    if run.is_complete:
        return f"the run is complete, {run.plan.rows:,} rows"
    missing = run.plan.unit_count - len(run.committed)
    are = "is" if missing == 1 else "are"
    return f"{missing:,} of its {run.plan.unit_count:,} units {are} missing"
