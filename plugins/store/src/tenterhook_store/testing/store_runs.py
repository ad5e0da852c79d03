"""What a store does with runs as a whole: names, plans, notes, deletion."""

import pickle

import pytest
import torch

from tenterhook_store import BadName, CannotKeep, DeletedRun, NameTaken, OtherRun, Store, UnknownRun
from tenterhook_store.testing.bad_names import BAD_NAMES
from tenterhook_store.testing.small_runs import a_plan, rows_of, write


class RunTests:
    """Runs are named, described, noted on, verified and deleted."""

    def test_shards_are_counted_beforehand(self, store: Store) -> None:
        """Of a plan it is known how many files of rows it makes; counting makes nothing."""
        plan = a_plan()
        assert store.count_shards(plan) >= 1
        assert store.runs() == []

    def test_another_plan_is_refused(self, store: Store) -> None:
        """A run id belongs to one plan; what `about` says does not matter."""
        store.write_run("one", a_plan())
        store.write_run("one", a_plan(about={"other": 1}))
        with pytest.raises(OtherRun, match=r"batch_size is 2 there and 3 here"):
            store.write_run("one", a_plan(spec={"batch_size": 3}))
        with pytest.raises(OtherRun, match=r"rows is 20 there and 21 here"):
            store.write_run("one", a_plan(rows=21))

    @pytest.mark.parametrize("name", [*BAD_NAMES, "a/b"], ids=ascii)
    def test_bad_run_id(self, store: Store, name: str) -> None:
        """An id that could leave the store, or fit no file system, is refused."""
        with pytest.raises(BadName, match="cannot name a run"):
            store.write_run(name, a_plan())
        with pytest.raises(BadName):
            store.run(name)
        assert store.runs() == []

    def test_run_ids_that_some_systems_confuse(self, store: Store) -> None:
        """Run ids that differ in case alone do not stand side by side."""
        store.write_run("one", a_plan())
        with pytest.raises(NameTaken):
            store.write_run("ONE", a_plan())

    def test_deleting_a_run(self, store: Store) -> None:
        """It is gone as a whole, the others stay, and its id can be used for another."""
        for run_id in ("one", "two"):
            writer = store.write_run(run_id, a_plan())
            write(writer, a_plan().units())
        store.set_attribute("one", "note", "x")
        store.delete_run("one")
        assert store.runs() == ["two"]
        for look in (store.run, store.delete_run, store.verify_run):
            with pytest.raises(UnknownRun):
                look("one")
        with pytest.raises(BadName):
            store.delete_run("..")
        other = a_plan(rows=21)
        assert store.write_run("One", other).committed() == frozenset()
        assert store.run("One").attributes == {}
        assert len(store.run("two")) == 20

    def test_deleting_a_run_under_its_writer(self, store: Store) -> None:
        """The writer is told, and nothing of it comes back, not into a new run of that id."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        writing = writer.open_unit(plan.unit(0))
        writing.append(rows_of(plan, 0, 8))
        store.delete_run("one")
        with pytest.raises(DeletedRun, match="'one' is gone"), writing:
            writing.commit({})
        assert store.runs() == []
        store.write_run("one", plan)
        assert store.run("one").committed == frozenset()

    def test_verifying(self, store: Store) -> None:
        """Nothing is wrong with a run that is whole, nor with one that is not finished."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        assert store.verify_run("one") == []
        with writer.open_unit(plan.unit(1)) as writing:
            writing.append(rows_of(plan, 8, 16))
            writing.keep("x", torch.ones(2))
            writing.commit({})
        store.set_attribute("one", "tags", ["a"])
        assert store.verify_run("one") == []
        write(writer, plan.units())
        assert store.verify_run("one") == []

    def test_attributes(self, store: Store) -> None:
        """Plain JSON values are noted on a run, replaced, and removed; they are no part of it."""
        store.write_run("one", a_plan())
        assert store.run("one").attributes == {}
        values = {"note": "good, ü", "tags": ["a", {"b": [1, 2.5, True, None]}], "A b": 0}
        for name, value in values.items():
            store.set_attribute("one", name, "before")
            store.set_attribute("one", name, value)
        run = store.run("one")
        assert run.attributes == values
        assert run.metadata["attributes"] == values
        run.attributes["tags"].append("c")
        store.set_attribute("one", "note", None)
        store.set_attribute("one", "note", None)
        assert run.attributes == {"tags": values["tags"], "A b": 0}
        store.write_run("one", a_plan())

    def test_attributes_that_cannot_be(self, store: Store) -> None:
        """What would not come back as it was is refused, and so are names that are not safe."""
        store.write_run("one", a_plan())
        for value in (float("nan"), (1, 2), {1: 2}, {"x": torch.ones(1)}, {1, 2}, "\ud800"):
            with pytest.raises(CannotKeep, match="only plain JSON"):
                store.set_attribute("one", "x", value)
        for name in ("", "../x", "a/b", "con", 3):
            with pytest.raises(BadName, match="cannot name an attribute"):
                store.set_attribute("one", name, 1)  # type: ignore[arg-type]
        with pytest.raises(UnknownRun):
            store.set_attribute("two", "x", 1)
        store.set_attribute("one", "x", 1)
        with pytest.raises(NameTaken):
            store.set_attribute("one", "X", 1)
        assert store.run("one").attributes == {"x": 1}

    def test_metadata(self, store: Store) -> None:
        """What is known of a run: the plan, sessions in order, and units that are committed."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        writer.note_session("b", {"start": "2026-01-02", "end": None})
        writer.note_session("b", {"start": "2026-01-02", "end": "2026-01-03"})
        writer.note_session("a", {"start": "2026-01-01", "end": None})
        write(writer, plan.units()[:2])
        found = store.run("one").metadata
        assert found["run"] == "one"
        assert found["spec"] == {"batch_size": 2}
        assert found["model"] == {"name": "none"}
        assert found["layers"]["h.1"] == {"features": 5, "dtype": "bfloat16"}
        assert (found["rows"], found["rows_committed"], found["complete"]) == (20, 16, False)
        assert (found["start"], found["end"]) == ("2026-01-01", None)
        assert [unit["unit"] for unit in found["units"]] == [0, 1]
        assert found["units"][0]["seconds"] == 1.5
        write(writer, plan.units()[2:])
        assert store.run("one").metadata["end"] == "2026-01-03"

    def test_errors_pickle(self, store: Store) -> None:
        """The errors survive a trip between processes."""
        with pytest.raises(UnknownRun) as caught:
            store.run("none")
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)

    def test_check_writable(self, store: Store) -> None:
        """Asking whether a store can be written leaves nothing behind."""
        store.check_writable()
        assert store.runs() == []
