"""Alignments in files: opened by a place, in other stores and processes; damaged."""

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tenterhook_store import (
    SPANS,
    AlignedRuns,
    DamagedStore,
    LayerArray,
    LocalStore,
    MemoryStore,
    RowBlock,
    Run,
    RunPlan,
    UnknownAlignment,
    find_alignment,
    open_alignment,
)


def run_of(store: Any, name: str, spans: list[tuple[int, int]]) -> Run:
    """Return a run of one document; the row `n` of its layer is `n`."""
    plan = RunPlan(
        rows=len(spans),
        rows_per_unit=8,
        documents=1,
        layers=[LayerArray("x", 1, "float32")],
        about={SPANS: True},
    )
    writer = store.write_run(name, plan)
    for unit in plan.units():
        rows = torch.arange(unit.start, unit.stop)
        with writer.open_unit(unit) as writing:
            layers = {"x": rows[:, None].float()}
            writing.append(RowBlock(tokens=rows, documents=rows * 0, positions=rows, layers=layers))
            some = spans[unit.start : unit.stop]
            writing.keep(SPANS, torch.tensor(some, dtype=torch.int32))
            writing.commit({})
    made: Run = store.run(name)
    return made


@pytest.fixture
def pair(tmp_path: Any) -> tuple[Run, Run]:
    """Return two runs of one store, of 40 tokens and of 14 of the same characters."""
    store = LocalStore(tmp_path / "store")
    one = run_of(store, "a", [(at, at + 1) for at in range(40)])
    return one, run_of(store, "b", [(at, at + 1) for at in range(0, 48, 3)])


def test_it_is_opened_elsewhere(pair: tuple[Run, Run], tmp_path: Any) -> None:
    """In a store of its own it finds its runs where they are; in memory they are given."""
    aligned = pair[0].align(pair[1])
    aligned.save(LocalStore(tmp_path / "other"), "mine")
    assert open_alignment(LocalStore(tmp_path / "other"), "mine").run_a.id == "a"
    memory = MemoryStore()
    assert aligned.save(memory).verify() == []
    assert len(open_alignment(memory, "a--b", pair)) == len(aligned)


def test_workers_read_what_is_kept(pair: tuple[Run, Run]) -> None:
    """An alignment goes to other processes by its name; one that is not kept says what to do."""
    aligned = pair[0].align(pair[1])
    with pytest.raises(TypeError, match=r"Keep it in a store for others: aligned = run\.align"):
        pickle.dumps(aligned)
    kept = aligned.save()
    copied = pickle.loads(pickle.dumps(kept))
    assert isinstance(copied, AlignedRuns)
    assert torch.equal(copied.pairs[:], kept.pairs[:])
    loader = kept.loader("x", 4)
    rows = [row for batch in DataLoader(loader, None, num_workers=2) for row in batch[0][:, 0]]
    assert sorted(map(int, rows)) == kept.pairs[:, 0].tolist()


def test_what_is_no_alignment(pair: tuple[Run, Run]) -> None:
    """Errors say which there are, and what is damaged."""
    store: Any = pair[0].store
    with pytest.raises(UnknownAlignment, match=r"It holds none\. `tenterhook runs align` makes"):
        open_alignment(store, "a--b")
    kept = pair[0].align(pair[1]).save()
    with pytest.raises(UnknownAlignment, match="Did you mean 'a--b'"):
        find_alignment(f"{store.location}/alignments/a-b")
    assert find_alignment(f"{store.location}/runs/a") is None
    store.save_tensor("alignments/a--b/pairs/000000", torch.zeros(14, 2, dtype=torch.int64))
    with pytest.raises(DamagedStore, match="piece 0 of its pairs is not what was written"):
        _ = open_alignment(store, "a--b").pairs[0]
    store.delete_tensor("alignments/a--b/pairs/000000")
    with pytest.raises(DamagedStore, match="piece 0 of its pairs is gone"):
        _ = open_alignment(store, "a--b").pairs[0]
    store.save_tensor("alignments/a--b/facts", torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(DamagedStore, match="its facts cannot be read"):
        open_alignment(store, "a--b")
    assert len(kept) == 14
