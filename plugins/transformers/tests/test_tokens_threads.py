"""Threads that generate with one model at once, each with selections of its own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import attrs
import pytest
import tokens_oracle as oracle
import torch
from small_architectures import ARCHITECTURES

import tenterhook

WAYS = ["greedy", "sampling", "beams", "no cache", "chunks", "prompt lookup", "static cache"]
THREADS, ROUNDS = 8, 4


@pytest.mark.filterwarnings("ignore")  # what transformers says of small models
@pytest.mark.parametrize("name", ["Llama", "Mamba"])
def test_each_thread_has_its_own(name: str) -> None:
    """Rows and steered texts of 8 threads are those of each text alone: none is wrong."""
    architecture = ARCHITECTURES[name]
    model = architecture.make()
    ways = WAYS if name == "Llama" else WAYS[:4]

    def case_of(number: int, way: str) -> oracle.Case:
        case = oracle.case_of(architecture, way, "left")
        settings = case.settings
        if way == "sampling":  # threads share torch's seed
            settings = {**settings, "do_sample": False, "num_return_sequences": 1}
        ids = torch.where(case.mask.bool(), (case.ids + 3 * number) % 80 + 10, case.ids)
        return attrs.evolve(case, model=model, settings=settings, ids=ids)

    turns = range(ROUNDS)
    cases = [[case_of(n, ways[(n + turn) % len(ways)]) for turn in turns] for n in range(THREADS)]
    begin = Barrier(THREADS)

    def run(mine: list[oracle.Case]) -> list[oracle.Captured]:
        begin.wait()
        return [oracle.captured(case, steered=bool(at % 2)) for at, case in enumerate(mine)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(run, cases))
    tenterhook.assert_clean(model)
    for mine, each in zip(cases, found, strict=True):  # the oracle's hooks would be seen by all
        for at, case in enumerate(mine):
            assert oracle.difference(case, each[at], steered=bool(at % 2)) is None, case.way
