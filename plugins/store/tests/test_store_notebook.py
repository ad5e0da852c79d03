"""What a notebook shows of stores, runs and what is in them: bounded, escaped, and nothing read."""

from typing import Any

import pytest
import torch

from tenterhook_store import LayerArray, MemoryStore, RowBlock, Run, RunPlan

HOSTILE = "<script>alert(1)</script>\u202e"


def plan_of(layers: int = 1, *, rows: int = 4, spec: dict[str, Any] | None = None) -> RunPlan:
    """Return a plan of layers whose names are hostile."""
    arrays = [LayerArray(f"{HOSTILE}{at}", 2, "float32") for at in range(layers)]
    about = {"model": {"name": HOSTILE}}
    return RunPlan(
        rows=rows, rows_per_unit=2, documents=2, layers=arrays, spec=spec or {}, about=about
    )


def unread(name: str, start: int, stop: int) -> torch.Tensor:
    """Fail: nothing is to be read."""
    raise AssertionError(f"{name} was read, rows {start} to {stop}")


class Nothing:
    """The small tensors of units, which are not to be read either."""

    def names(self, number: int) -> list[str]:
        """Return no name."""
        return []

    def load(self, number: int, name: str) -> torch.Tensor:
        """Fail."""
        raise AssertionError(name)


def unread_run(plan: RunPlan) -> Run:
    """Return a run of which nothing can be read."""
    return Run(
        HOSTILE,
        plan,
        [0],
        read_layer=unread,
        read_number=unread,
        load_records=dict,
        load_attributes=dict,
        kept=Nothing(),
    )


def check(markup: str) -> None:
    """Whatever is shown is escaped, has nothing hidden in it, and is bounded."""
    assert "<script" not in markup
    assert "\u202e" not in markup
    assert len(markup.encode()) <= 64_000


@pytest.mark.parametrize("layers", [1, 5000], ids=["few", "many"])
def test_a_run_and_its_parts(layers: int) -> None:
    """Of whatever size: from the plan, with no row read."""
    run = unread_run(plan_of(layers, rows=10**9, spec={"settings": "x" * 100_000}))
    shown = [each._repr_html_() for each in (run, run.plan, run.documents, run[run.layers[0]])]

    for markup in shown:
        check(markup)
    assert "1,000,000,000 rows of 2 documents" in shown[0]
    assert "2 of them committed" in shown[0]
    assert "float32" in shown[0]
    assert "500,000,000 units" in shown[1]
    assert repr(run.documents) == "DocumentMap(2 documents, 2 rows)"
    assert "1,000,000,000" not in shown[3]
    assert "2 x 2" in shown[3]


def test_a_store_shows_its_runs() -> None:
    """Of the first 20 what they hold, of the others the name, as many as there is room for."""
    store = MemoryStore()
    assert repr(store) == "MemoryStore()"
    plan = plan_of(6)
    for at in range(3000):
        writer = store.write_run(f"run-{at:04}", plan)
        if at == 0:
            with writer.open_unit(plan.unit(0)) as unit:
                numbers = torch.arange(2)
                unit.append(
                    RowBlock(
                        tokens=numbers.int(),
                        documents=numbers,
                        positions=numbers.int(),
                        layers={each.name: torch.zeros(2, 2) for each in plan.layers},
                    )
                )
                unit.commit({})

    markup = store._repr_html_()
    check(markup)
    assert "3,000 runs" in markup
    assert "<td>run-0000</td><td>2</td><td>4</td>" in markup
    assert "and 2 more" in markup
    assert markup.count("<td>4</td>") == 20
    assert repr(store) == "MemoryStore(3000 runs)"


def test_a_run_that_cannot_be_opened_is_named() -> None:
    """And the others are shown."""

    class Damaged(MemoryStore):
        def run(self, run_id: str) -> Run:
            if run_id == "bad":
                raise OSError("the disk failed")
            return super().run(run_id)

    store = Damaged()
    for name in ("bad", "good"):
        store.write_run(name, plan_of())
    markup = store._repr_html_()

    assert "OSError: the disk failed" in markup
    assert "<td>good</td><td>0</td><td>4</td>" in markup
