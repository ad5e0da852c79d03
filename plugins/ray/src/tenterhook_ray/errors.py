"""What the engine raises that is no unit's own trouble."""

from collections.abc import Mapping, Sequence

import attrs

from tenterhook.errors import TenterhookError


@attrs.define(slots=False)
class NoCluster(TenterhookError, ConnectionError):
    """No Ray cluster answers at an address."""

    address: str
    why: str

    def __str__(self) -> str:
        return (
            f"No Ray cluster answers at {self.address!r} ({self.why}). `ray status` says whether "
            "one runs there; without --ray-address and RAY_ADDRESS one is started on this machine "
            "for as long as the run takes."
        )


@attrs.define(slots=False)
class NoRoom(TenterhookError, ValueError):
    """No node of the cluster has what one worker asks for."""

    wanted: Mapping[str, float]
    nodes: Sequence[Mapping[str, float]]
    """What each node has of that."""

    def __str__(self) -> str:
        there = "; ".join(_amounts(each) for each in self.nodes[:5])
        more = f"; and {len(self.nodes) - 5} more" if len(self.nodes) > 5 else ""
        has = f"its nodes have {there}{more}" if self.nodes else "it has no node"
        return (
            f"A worker asks for {_amounts(self.wanted)}, and no node of the cluster has so much: "
            f"{has}. Ask for less with --ray-cpus and --ray-gpus."
        )


@attrs.define(slots=False)
class ActorsDied(TenterhookError, RuntimeError):
    """Actors die before they can do anything, as where memory does not hold their models."""

    count: int
    last: str

    def __str__(self) -> str:
        return (
            f"{self.count} actors died one after the other before they were ready, the last so: "
            f"{self.last}. If a node's memory does not hold a model for each, ask for more CPUs "
            "or GPUs a worker, so that fewer share a node."
        )


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
