"""A run of a few words, in memory, whose rows and tokenizer are known."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tenterhook_store import LayerArray, MemoryStore, RowBlock, Run, RunPlan

WORDS = ["In", " the", " beginning", " God", " created", "\n"]


class Words:
    """A tokenizer that knows a few words, by their numbers."""

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.words = words

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words."""
        return "".join(self.words[number % len(self.words)] for number in ids)


def values(layer: int, rows: int, features: int = 4) -> Tensor:
    """Return rows that differ by layer, row and feature."""
    torch.manual_seed(layer)
    return torch.randn(rows, features)


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run() -> MakeRun:
    """Make a run: so many rows, documents of so many tokens, layers of so many features."""

    def make(
        rows: int = 30,
        *,
        each: int = 10,
        layers: Sequence[str] = ("blocks.0", "blocks.1"),
        features: int = 4,
        units: int = 1,
        committed: int | None = None,
        changed: Tensor | None = None,
    ) -> Run:
        per_unit = -(-rows // units)
        arrays = [LayerArray(name, features, "float32") for name in layers]
        plan = RunPlan(rows=rows, rows_per_unit=per_unit, documents=-(-rows // each), layers=arrays)
        store = MemoryStore()
        writer = store.write_run("first", plan)
        numbers = torch.arange(rows)
        of = {name: values(at, rows, features) for at, name in enumerate(layers)}
        if changed is not None:
            of[layers[0]] = changed
        for unit in [*plan.units()][slice(committed)]:
            part = slice(unit.start, unit.stop)
            with writer.open_unit(unit) as open_unit:
                open_unit.append(
                    RowBlock(
                        tokens=(numbers[part] % len(WORDS)).int(),
                        documents=numbers[part] // each,
                        positions=(numbers[part] % each).int(),
                        layers={name: rows_of[part] for name, rows_of in of.items()},
                    )
                )
                open_unit.commit({})
        return store.run("first")

    return make


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    """A run of 3 documents of 10 tokens, and two layers of 4 features."""
    return make_run()


@pytest.fixture
def words() -> Words:
    """The tokenizer of the run."""
    return Words()
