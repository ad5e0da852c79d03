"""The engine of a Ray cluster: actors, each with a model of its own.

What happens:

1. The factory of workers is pickled once, which loads model, data and store by name elsewhere.
2. Ray is asked for as many actors as were asked for, each with so many CPUs and GPUs. Where they
   fit is Ray's to say: several on a node, or one that waits until there is room.
3. An actor makes its worker. Only when it is ready is it given a unit, and the next one when it has
   told how that went. So no unit waits behind an actor that never comes.
4. Ray itself repeats nothing: it restarts no actor and retries no call, so that a unit is begun
   once at most in a `run`. An actor that dies loses the unit that it had, and another takes its
   place while units are left.
5. At the end, and when the reader stops or an error is on its way, all actors are killed, and a
   cluster that was started for this is ended.

Rows go from the actor to the store. The process that reads the events is sent times and counts.
"""

import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import attrs

from tenterhook.plugins import MissingDependency
from tenterhook_capture.engine import UnitDone, UnitEvent, UnitFailed, UnitLost, Worker
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.option_fields import about, option
from tenterhook_capture.units_left import UnitsLeft
from tenterhook_ray.actor import Surroundings, UnitActor
from tenterhook_ray.cluster import connected
from tenterhook_ray.errors import ActorsDied, NoRoom
from tenterhook_store import Unit

__all__ = ["RayEngine"]

STARTS = 3
"""How many actors may die in a row before they are ready."""

LOOK = 5.0
"""Seconds without news after which the nodes are looked at, while no actor is ready."""


def _amount(number: Any) -> Any:
    """Return a number that may have been written as text."""
    try:
        return float(number)
    except (TypeError, ValueError):
        return number


def _check_amount(_: object, attribute: "attrs.Attribute[Any]", number: Any) -> None:
    is_amount = isinstance(number, float) and math.isfinite(number) and number >= 0
    if not is_amount or (number > 1 and not number.is_integer()):
        raise BadArgument(attribute.name, number, "a whole number, or a part of 1 as 0.5")


def _amount_option(default: float, help: str) -> Any:
    return attrs.field(
        default=default,
        converter=_amount,
        validator=_check_amount,
        metadata=about(help, "Run"),
    )


@attrs.frozen
class RayEngine:
    """Has actors of a Ray cluster do the units, each with a model of its own.

    Raises `MissingDependency` where Ray is not installed.
    """

    has_processes: ClassVar[bool] = True
    """For `EngineContract`: its workers can be lost."""

    workers: int = option(2, help="How many workers.", group="Run", least=1)
    address: str | None = option(
        None,
        help="Where the cluster is, as host:port or auto; RAY_ADDRESS, or one is started here.",
        group="Run",
    )
    cpus: float = _amount_option(1.0, "CPUs of each worker, a part of one too.")
    gpus: float = _amount_option(
        0.0, "GPUs of each worker; with a part of one, as 0.5, several share it."
    )
    _crews: "set[_Crew]" = attrs.field(factory=set, init=False, eq=False, repr=False)
    """Those of the runs that are going on."""

    def __attrs_post_init__(self) -> None:
        # Looked for and not imported, which takes a second; a mere folder has no origin.
        found = find_spec("ray")
        if found is None or found.origin is None:
            raise MissingDependency("The engine 'ray'", "ray", "tenterhook-ray[ray]")

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units, in any order; see `Engine.run`.

        Raises `NoCluster`, `NoRoom`, `ActorsDied`, and what making a worker raises.
        """
        if not units:
            return
        factory, count = pickle.dumps(make_worker), min(self.workers, len(units))
        with connected(self.address, cpus=count * self.cpus) as ray:
            crew = _Crew(ray, factory, count, {"CPU": self.cpus, "GPU": self.gpus})
            self._crews.add(crew)
            try:
                yield from crew.do(units)
            finally:
                self._crews.discard(crew)
                crew.stop()

    def workers_alive(self) -> int:
        """Return how many actors are ready; see `Engine`."""
        return sum(crew.ready for crew in self._crews)


@attrs.define(eq=False)
class _Member:
    """One actor, and the unit that it has."""

    actor: Any
    unit: Unit | None = None
    name: str | None = None
    """What it is called once it is ready."""


class _Crew:
    """The actors of one `run`."""

    def __init__(self, ray: Any, factory: bytes, count: int, wanted: dict[str, float]) -> None:
        self._ray, self._factory, self._count, self._wanted = ray, factory, count, wanted
        self._members: list[_Member] = []
        self._pending: dict[Any, _Member] = {}
        """Calls that have not returned, and whose they are."""
        self._died_early = 0
        self._actor_class = ray.remote(UnitActor).options(
            num_cpus=wanted["CPU"],
            num_gpus=wanted["GPU"],
            max_restarts=0,
            max_task_retries=0,
            # Over the nodes first, so that no node's memory is full while another's is empty.
            scheduling_strategy="SPREAD",
        )

    @property
    def ready(self) -> int:
        """How many actors are there and have a worker."""
        return sum(member.name is not None for member in self._members)

    def do(self, units: Sequence[Unit]) -> Iterator[UnitEvent]:
        """Hand out the units, and yield what becomes of them."""
        left = UnitsLeft(units)
        self._check_room()
        for _ in range(self._count):
            self._start()
        while left or any(member.unit is not None for member in self._members):
            done, _ = self._ray.wait([*self._pending], num_returns=1, timeout=LOOK)
            if not done and not self.ready:
                self._check_room()
            for call in done:
                event = self._take(call, left)
                if event is not None:
                    yield event

    def _start(self) -> None:
        member = _Member(self._actor_class.remote())
        self._members.append(member)
        surroundings = Surroundings(os.getcwd(), tuple(sys.path))
        self._pending[member.actor.prepare.remote(surroundings, self._factory)] = member

    def _take(self, call: Any, left: UnitsLeft) -> UnitEvent | None:
        """Take in what an actor says, or that it is gone; hand it its next unit."""
        member = self._pending.pop(call)
        try:
            kind, what = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return self._lost(member, error, left)
        if kind == "broken":
            raise what
        if kind == "ready":
            member.name, self._died_early = what, 0
        unit, member.unit = member.unit, None
        if left:
            member.unit = left.take()
            self._pending[member.actor.do.remote(member.unit)] = member
        if unit is None:
            return None
        return UnitDone(unit, what) if kind == "done" else UnitFailed(unit, what)

    def _lost(self, member: _Member, error: Exception, left: UnitsLeft) -> UnitEvent | None:
        """Put another actor in the place of one that is gone, while there is something to do."""
        self._members.remove(member)
        # It may live and be out of reach: then it must do nothing more of ours.
        self._kill(member)
        how = " ".join(str(error).split())
        if member.name is None:
            self._died_early += 1
            if self._died_early == STARTS:
                raise ActorsDied(STARTS, how)
        if len(left) > sum(each.unit is None for each in self._members):
            self._start()
        if member.unit is None:
            return None
        return UnitLost(member.unit, f"{member.name} is gone: {how}")

    def _check_room(self) -> None:
        """Raise `NoRoom` where no node could ever hold an actor."""
        wanted = {name: amount for name, amount in self._wanted.items() if amount}
        nodes = [
            {name: float(node["Resources"].get(name, 0.0)) for name in wanted}
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        if not any(all(each[name] >= wanted[name] for name in wanted) for each in nodes):
            raise NoRoom(wanted, nodes)

    def _kill(self, member: _Member) -> None:
        self._ray.kill(member.actor, no_restart=True)

    def stop(self) -> None:
        """End all actors; returns when none of them does anything."""
        for member in self._members:
            self._kill(member)
        if self._pending:
            self._ray.wait([*self._pending], num_returns=len(self._pending), timeout=LOOK)
