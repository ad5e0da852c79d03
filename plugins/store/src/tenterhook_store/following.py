"""Runs with a limit, and who follows them.

A run that was begun with a limit holds the rows of so many bytes at most, and is read while it is
written. Whoever reads it so is a follower: a name that is noted on the run, with the first unit
that it may still read. Units before those of all followers may be dropped, which `limited_writer`
does. A follower notes a unit only once all that it made of those before is durable; so one that was
killed finds every row that it needs when it comes back.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs
from attrs import validators

from tenterhook_store.errors import BadSetting, DamagedStore
from tenterhook_store.names import check_attribute
from tenterhook_store.structuring import structured

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store
    from tenterhook_store.run import Run

ATTRIBUTE = "follower-"
"""What the attribute of a run begins with that notes a follower; its name comes after."""


@runtime_checkable
class DropsUnits(Protocol):
    """A store that can drop the rows of units, which runs with a limit need."""

    def drop_unit(self, run_id: str, number: int) -> None:
        """Remove the rows of a committed unit of a run with a limit, for good.

        `Run.dropped` says so from then on; the unit stays committed, and what it keeps beside its
        rows stays. It is noted durably before anything goes, so that a process which is killed in
        the middle leaves no unit that looks damaged. More than once does no harm. Raises
        `BadSetting` for a run without a limit and a unit that is not committed, and `UnknownRun`.
        """


@attrs.frozen
class Follower:
    """Who reads a run while it is written."""

    unit: int = attrs.field(validator=[validators.instance_of(int), validators.ge(0)])
    """The first unit that it may still read; the number of units once it needs none."""

    reads: dict[str, Any] = attrs.field(factory=dict)
    """What it reads, and in which order: by this it is known to be the same one."""


def followers(run: "Run") -> dict[str, Follower]:
    """Return who follows a run now, by name, and from which unit on.

    Raises `DamagedStore` where what is noted is not that of a follower: nothing is dropped then.
    """
    found = {}
    for name, value in run.attributes.items():
        if not name.startswith(ATTRIBUTE):
            continue
        try:
            found[name.removeprefix(ATTRIBUTE)] = structured(Follower, value)
        except ValueError as error:
            where = f"attribute {name!r} of run {run.id}"
            raise DamagedStore(where, f"it does not note a follower ({error})") from error
    return dict(sorted(found.items()))


def first_read(found: Mapping[str, Follower]) -> int:
    """Return the first unit that somebody may still read; 0 where nobody follows yet."""
    return min((each.unit for each in found.values()), default=0)


def note_follower(store: "Store", run_id: str, name: str, follower: Follower) -> None:
    """Note durably from where a follower still reads."""
    store.set_attribute(run_id, ATTRIBUTE + name, attrs.asdict(follower))


def check_follower_name(name: Any) -> str:
    """Return the name that a follower may have, one safe part; `BadName` for another."""
    check_attribute(name, None)
    check_attribute(ATTRIBUTE + name, None)
    return str(name)


def unfollow(store: "Store", run_id: str, name: str) -> None:
    """Have a run wait no longer for a follower, which cannot go on afterwards.

    Raises `BadSetting` (a `ValueError`) where the run has no follower of that name.
    """
    known = followers(store.run(run_id))
    if name not in known:
        there = f"one of {', '.join(known)}" if known else "a follower's, and the run has none"
        raise BadSetting("name", name, there)
    store.set_attribute(run_id, ATTRIBUTE + name, None)
