"""The engine of a Ray cluster: the contract of engines, and a node that dies."""

import functools
import os
from typing import Any

import pytest

from tenterhook_capture.progress import Progress
from tenterhook_capture.testing.engine_workers import RUN, SmallCapture, make_worker, same_rows
from tenterhook_capture.testing.engines import EngineContract
from tenterhook_ray import ActorsDied, NoRoom, RayEngine
from tenterhook_store import LocalStore, Run, RunPlan

pytestmark = pytest.mark.timeout(1200)


class TestRay(EngineContract):
    """Two actors on a cluster of two nodes, with room for two such runs at once."""

    has_processes = RayEngine.has_processes
    kills = int(os.environ.get("TENTERHOOK_KILLS", "1"))

    @pytest.fixture
    def engine(self, connection: None, cluster: Any) -> RayEngine:
        """Return the engine."""
        return RayEngine(workers=2, address=cluster.address, cpus=0.5)

    def test_a_node_dies(
        self, cluster: Any, engine: RayEngine, capture: SmallCapture, whole: Run
    ) -> None:
        """The other one does the rest; the actor that waits for room is not waited for."""
        slow = SmallCapture(capture.place, capture.notes, rest=0.2)
        seen: list[Progress] = []

        def kill(progress: Progress) -> None:
            seen.append(progress)
            if progress.rows_new and cluster.second is not None:
                cluster.kill_second()
                cluster.second = None

        try:
            assert same_rows(slow.save(engine, kill), whole)
        finally:
            cluster.second = cluster.add()
        assert LocalStore(slow.place).verify_run(RUN) == []
        assert max(each.workers for each in seen) <= 2
        assert slow.left() == set()

    def test_no_node_has_room(
        self, engine: RayEngine, cluster: Any, plan: RunPlan, place: str
    ) -> None:
        """It is said at once, and not waited for."""
        large = RayEngine(address=cluster.address, cpus=64, gpus=0.5)
        make = functools.partial(make_worker, place, plan.to_json())
        wanted = r"asks for 64 CPU and 0\.5 GPU, .* its nodes have 1 CPU and 0 GPU; 1 CPU and 0 GPU"
        with pytest.raises(NoRoom, match=wanted):
            list(large.run(plan.units(), make))

    def test_actors_that_never_get_ready(self, engine: RayEngine, plan: RunPlan) -> None:
        """They are not started for ever."""
        with pytest.raises(ActorsDied, match="3 actors died one after the other"):
            list(engine.run(plan.units(), functools.partial(os._exit, 3)))
