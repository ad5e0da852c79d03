"""How far a run is, from what its store says of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from tenterhook_capture.documents import ranges
from tenterhook_capture.session import SILENT, is_gone
from tenterhook_store import Follower, RowRanges, Run, followers
from tenterhook_store.following import first_read
from tenterhook_store.limits import KEEP, units_held

RECENT = 600.0
"""Seconds before the last activity whose units give the rate."""

UNITS = 200
"""How many units are looked at, those that were committed last: a run may have very many."""


@attrs.frozen(kw_only=True)
class OpenSession:
    """A process that has not said how it ended, and is not known to be gone."""

    host: str
    process: int | None
    seen: str
    """When it said that it lives, which it does every minute; UTC, ISO 8601."""
    seconds: float
    """Since then."""

    @property
    def is_silent(self) -> bool:
        """Whether that is so long ago that it is gone, or cannot reach the store."""
        return self.seconds > SILENT


@attrs.frozen(kw_only=True)
class RunStatus:
    """A run's units, done and missing, and what became of them."""

    run: str
    state: str
    """`complete`, `planned` (nobody has begun), `running` (a process said lately that it lives),
    `silent` (none did for ten minutes, and one has not said how it ended), `incomplete` (units
    failed and were left out) or `stopped`."""
    rows: int
    rows_done: int
    """Rows of the units that are done: all of them can be read, but for those dropped."""
    units: int
    units_done: int
    missing: list[list[int]]
    """The first and last of each stretch of units that are missing."""
    bytes_done: int
    """Of layers' rows, before any compression."""
    rows_per_second: float | None
    """Of all processes together, lately; `None` before a unit is done."""
    failed: dict[int, str]
    """Units that failed at every try and are missing still, with what they raised last."""
    last_activity: str | None
    """When a unit was committed, or a process began, lived or ended; UTC, ISO 8601."""
    open_sessions: list[OpenSession]
    """The processes that are at work, or silent; none of a run that is complete."""
    workers: int
    """How many of them are at work."""
    seconds_left: float | None
    """How long the rest takes at that rate; `None` where nobody is at work, or there is no rate."""
    keep: int | None = None
    """How many bytes of rows a run with a limit holds at once; `None` for a run without one."""
    units_dropped: int = 0
    """How many of the units that are done were dropped."""
    followers: dict[str, int] = attrs.field(factory=dict)
    """Who follows the run, and the first unit that each may still read."""
    waits_for: list[str] = attrs.field(factory=list)
    """The followers that the units which are missing wait for, as there is no room before."""


def run_status(run: Run) -> RunStatus:
    """Return how far a run was when it was opened."""
    plan, found = run.plan, run.recent(UNITS)
    done = RowRanges.of_units(run.committed, plan, run.id).rows
    following = followers(run) if units_held(plan) is not None else {}
    failed = {
        int(number): what["error"]
        for session in found["sessions"]
        for number, what in session.get("failed", {}).items()
        if int(number) not in run.committed
    }
    times = [
        each[key]
        for each in [*found["sessions"], *found["units"]]
        for key in ("start", "seen", "end")
        if each.get(key)
    ]
    unended = [] if run.is_complete else open_sessions(found["sessions"])
    workers = sum(not each.is_silent for each in unended)
    rate = _rate(found["units"])
    return RunStatus(
        run=run.id,
        state=_state(run, found["sessions"], unended, failed),
        rows=plan.rows,
        rows_done=done,
        units=plan.unit_count,
        units_done=len(run.committed),
        missing=ranges(run.missing, None),
        bytes_done=done * plan.row_bytes,
        rows_per_second=rate,
        failed=dict(sorted(failed.items())),
        last_activity=max(times, default=None),
        open_sessions=unended,
        workers=workers,
        seconds_left=(plan.rows - done) / rate if rate and workers else None,
        keep=plan.about.get(KEEP) if units_held(plan) is not None else None,
        units_dropped=len(run.dropped),
        followers={name: each.unit for name, each in following.items()},
        waits_for=_waits_for(run, following),
    )


def _waits_for(run: Run, following: Mapping[str, Follower]) -> list[str]:
    """Return the followers that are in the way of the first unit that is missing."""
    held, first = units_held(run.plan), first_read(following)
    if held is None or run.is_complete or run.missing[0] < first + held:
        return []
    return [name for name, each in following.items() if each.unit == first]


def open_sessions(sessions: list[dict[str, Any]]) -> list[OpenSession]:
    """Return the processes of these sessions that have not said how they ended, or are not gone."""
    # Workers do not say how they end; the process that sent for them does.
    unended = [
        each
        for each in sessions
        if each.get("end") is None and not each.get("is_worker") and _seen(each)
    ]
    return [_open_session(each) for each in unended if not is_gone(each)]


def _seen(session: dict[str, Any]) -> str:
    return str(session.get("seen") or session.get("start") or "")


def _open_session(session: dict[str, Any]) -> OpenSession:
    seen = _seen(session)
    return OpenSession(
        host=session.get("host") or "?",
        process=session.get("process"),
        seen=seen,
        seconds=max((datetime.now(UTC) - _time(seen)).total_seconds(), 0),
    )


def _state(
    run: Run,
    sessions: list[dict[str, Any]],
    unended: list[OpenSession],
    failed: dict[int, str],
) -> str:
    if run.is_complete:
        return "complete"
    if not sessions:
        return "planned"
    if unended:
        return "silent" if all(each.is_silent for each in unended) else "running"
    return "incomplete" if failed else "stopped"


def _time(text: str) -> datetime:
    """Return a time; one without a zone is UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _rate(units: list[dict[str, Any]]) -> float | None:
    timed = [
        (_time(each["start"]), _time(each["end"]), each["rows"])
        for each in units
        if each.get("start") and each.get("end") and each.get("rows")
    ]
    if not timed:
        return None
    last = max(end for _, end, _ in timed)
    lately = [each for each in timed if (last - each[1]).total_seconds() <= RECENT]
    span = (last - min(start for start, _, _ in lately)).total_seconds()
    return float(sum(rows for _, _, rows in lately) / max(span, 0.001))
