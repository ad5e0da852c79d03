"""What becomes of units of a run with a limit, where a store can drop them: see `DropsUnits`."""

import pytest

from tenterhook_store import BadSetting, DroppedRows, DropsUnits, RunPlan, Store, UnknownRun
from tenterhook_store.limits import KEEP
from tenterhook_store.testing.small_runs import a_plan, rows_of, same_bits, write

LIMIT = 1000
"""In bytes; a plan of `a_plan` holds three units."""


def limited_plan() -> RunPlan:
    """Return the plan of a run with a limit."""
    return a_plan(about={KEEP: LIMIT})


def dropping(store: Store) -> DropsUnits:
    """Return the store; skip where it drops no units."""
    if not isinstance(store, DropsUnits):
        pytest.skip("this store drops no units")
    return store


class DroppingTests:
    """A unit that was dropped stays committed, and its rows are gone, which is no damage."""

    def test_rows_of_a_dropped_unit_are_gone(self, store: Store) -> None:
        """Reading them names the limit, also by a run that was opened before; others are there."""
        drops, plan = dropping(store), limited_plan()
        writer = store.write_run("one", plan)
        write(writer, plan.units())
        before = store.run("one")
        assert before.dropped == frozenset()
        drops.drop_unit("one", 0)
        drops.drop_unit("one", 0)
        run = store.run("one")
        assert run.is_complete
        assert (sorted(run.dropped), sorted(run.committed)) == ([0], [0, 1, 2])
        assert (len(run), run.rows_committed, list(run.missing)) == (0, 12, [])
        assert run.metadata["dropped"] == [[0, 0]]
        expected = rows_of(plan, 0, 20).layers
        for layer in run.layers:
            assert same_bits(run[layer][8:20], expected[layer][8:20])
            for opened in (run, before):
                with pytest.raises(DroppedRows, match=f"which was dropped: .* keep={LIMIT}"):
                    opened[layer][2:10]
        with pytest.raises(DroppedRows, match="Row 3 is of unit 0"):
            run.tokens[3]
        assert store.verify_run("one") == []
        assert writer.committed() == {0, 1, 2}
        writer.finish()

    def test_a_unit_done_again_stays_dropped(self, store: Store) -> None:
        """As by a second process that did the same unit."""
        drops, plan = dropping(store), limited_plan()
        write(store.write_run("one", plan), plan.units())
        drops.drop_unit("one", 1)
        write(store.write_run("one", plan), [plan.unit(1)])
        run = store.run("one")
        assert run.dropped == {1}
        assert len(run) == 8
        with pytest.raises(DroppedRows, match="unit 1 of run 'one'"):
            run["h.0"][[0, 9]]
        assert store.verify_run("one") == []

    def test_no_other_unit_is_dropped(self, store: Store) -> None:
        """Of a run without a limit none is, and none that is not committed, or not there."""
        drops, plan = dropping(store), limited_plan()
        write(store.write_run("all", a_plan()), a_plan().units())
        with pytest.raises(BadSetting, match="run_id='all' must be one that was begun with a lim"):
            drops.drop_unit("all", 0)
        assert len(store.run("all")) == 20
        write(store.write_run("one", plan), plan.units()[:1])
        with pytest.raises(BadSetting, match="number=1 must be a unit that is committed"):
            drops.drop_unit("one", 1)
        with pytest.raises(IndexError, match="Unit 3 is not among the 3"):
            drops.drop_unit("one", 3)
        with pytest.raises(UnknownRun, match="'other'"):
            drops.drop_unit("other", 0)
        assert len(store.run("one")) == 8
