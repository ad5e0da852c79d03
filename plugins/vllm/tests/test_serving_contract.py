"""Requests on the engine of `tenterhook_vllm.testing`, under random schedules."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from torch import Tensor

import tenterhook
from tenterhook import HookedModel
from tenterhook_vllm import read_request
from tenterhook_vllm.testing import (
    Asked,
    BatchingEngine,
    Got,
    Schedule,
    ServingContract,
    Settings,
    TinyModel,
    check_turns,
    random_requests,
    tiny_points,
)
from tenterhook_vllm.testing.model import VOCABULARY

MODEL = TinyModel()
PLAIN = tenterhook.attach(MODEL)


class Tiny:
    """The engine of the kit, driven by a schedule."""

    points = tiny_points()
    vocabulary = VOCABULARY
    bound = 1e-9

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.engine = BatchingEngine(MODEL, self._schedule.settings)
        self._asked = 0

    def run(self, asked: Sequence[Asked]) -> list[Got | None]:
        """Run all, submitted one by one while others run."""
        engine = self.engine
        first, self._asked = self._asked, self._asked + len(asked)
        names = [
            f"{'abort' if each.aborts else 'stay'} {at}" for at, each in enumerate(asked, first)
        ]
        of = dict(zip(names, asked, strict=True))

        def submit(name: str) -> None:
            one = of[name]
            spec = None if one.table is None else read_request(dict(one.table), self.points)
            engine.submit(name, one.prompt, one.most, spec)

        aborted = self._schedule.drive(engine, names, submit)
        assert not len(engine.serving)
        return [
            None
            if name in aborted
            else Got(text=engine.texts[name], answer=engine.answers.get(name))
            for name in names
        ]

    def plain(self) -> tuple[HookedModel, Callable[[Tensor], Tensor]]:
        """Return the same model, attached, and its forward."""
        return PLAIN, PLAIN


class TestBatchingEngine(ServingContract):
    """The engine of the kit keeps its own contract."""

    @pytest.fixture
    def driven(self) -> Tiny:
        """Return an engine with room for all, and blocks so small that much is shared."""
        return Tiny(Schedule(seed=0, settings=Settings(blocks=400, block_size=2)))


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("part", range(200))
def test_random_schedules(part: int) -> None:
    """Chunks, shared prefixes, preemption, drafts, aborts: each request is served as if alone."""
    for seed in range(part, 600, 200):
        requests = random_requests(Random(seed), Tiny.points, vocabulary=VOCABULARY)
        check_turns(Tiny(Schedule.of(seed)), requests)
