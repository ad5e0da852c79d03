"""What lasts: in a second store at the same place, in another process, after a kill.

Other processes open a store by unpickling it, so a class of stores can be imported there and
pickles as where it is, not as what it holds.
"""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tenterhook_store import Store
from tenterhook_store.testing.small_runs import a_plan, assert_whole, rows_of, write


class DurabilityTests:
    """What was committed outlasts the store object, the process, and a kill."""

    persistent: bool = True
    """Whether what is put in is there in another process; `False` skips the tests that ask so."""

    def reopen(self, store: Store) -> Store:
        """Return another store at the same place; unpickled by default, as workers do."""
        found: Store = pickle.loads(pickle.dumps(store))
        return found

    @pytest.fixture
    def lasting(self, store: Store) -> Store:
        """Return the store; skip the test where it says that it keeps nothing."""
        if not self.persistent:
            pytest.skip("persistent = False: it keeps nothing beyond its process")
        return store

    def test_reopened_it_has_what_was_put_in(self, lasting: Store) -> None:
        """Tensors, committed units, notes; and what is put into either is seen in both."""
        plan = a_plan()
        lasting.save_tensor("a/b", torch.arange(3))
        writer = lasting.write_run("one", plan)
        write(writer, plan.units()[:2])
        lasting.set_attribute("one", "note", "x")
        writer.note_session("a", {"start": "2026-01-01", "end": None})

        again = self.reopen(lasting)
        assert again is not lasting
        assert again.location == lasting.location
        assert again.list_tensors() == ["a/b"]
        assert again.load_tensor("a/b").tolist() == [0, 1, 2]
        assert again.runs() == ["one"]
        assert again.run("one").committed == {0, 1}
        assert again.run("one").attributes == {"note": "x"}
        assert again.run("one").metadata["start"] == "2026-01-01"
        write(again.write_run("one", plan), plan.units()[2:])
        again.save_tensor("c", torch.ones(1))
        assert_whole(lasting.run("one"))
        assert lasting.list_tensors() == ["a/b", "c"]
        lasting.delete_run("one")
        lasting.delete_tensor("c")
        assert again.runs() == []
        assert again.list_tensors() == ["a/b"]

    def test_reopened_it_lacks_what_was_not_committed(self, lasting: Store) -> None:
        """Rows that are appended alone are in no other store either."""
        plan = a_plan()
        writer = lasting.write_run("one", plan)
        with writer.open_unit(plan.unit(0)) as writing:
            writing.append(rows_of(plan, 0, 8))
            writing.keep("x", torch.ones(1))
            again = self.reopen(lasting)
            assert again.run("one").committed == frozenset()
            assert again.run("one").unit_tensors(0) == []
            writing.commit({})
        assert again.run("one").committed == {0}

    def test_another_process_sees_it_and_adds_to_it(self, lasting: Store, tmp_path: Path) -> None:
        """What was written here is read there, and what is written there is read here."""
        plan = a_plan()
        write(lasting.write_run("one", plan), plan.units()[:1])
        _in_another_process(lasting, tmp_path, "add")
        assert_whole(lasting.run("one"))
        assert lasting.load_tensor("there").tolist() == [1, 1]
        assert lasting.verify_run("one") == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_killed_at_any_step(self, lasting: Store, tmp_path: Path) -> None:
        """Killed while it writes a unit, at several of its steps, it leaves that unit out or whole.

        What was committed before is there, nothing else is seen, `verify_run` finds nothing wrong,
        and the run goes on. Steps are what Python does with files, from the first row of a unit
        to the end of its commit. Those of a store that is not written in Python are not seen: it
        is killed once, before the commit.
        """
        kills = int(_in_another_process(lasting, tmp_path, "kill"))
        assert kills >= 1
        assert len(lasting.runs()) == kills
        for run_id in lasting.runs():
            assert_whole(lasting.run(run_id))
            assert lasting.verify_run(run_id) == []

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_what_was_committed_survives_a_kill(self, lasting: Store, tmp_path: Path) -> None:
        """A process that is killed as soon as `commit` has returned has committed its unit."""
        _in_another_process(lasting, tmp_path, "commit", expected=-signal.SIGKILL)
        run = lasting.run("one")
        assert run.committed == {0}
        assert_whole(run, rows=8)
        assert run.unit_tensor(0, "kept").tolist() == [0, 1, 2]
        assert lasting.verify_run("one") == []


def _in_another_process(store: Store, folder: Path, what: str, expected: int = 0) -> str:
    """Have a fresh process do something with the store; return what it prints."""
    pickled = folder / "store.pickle"
    pickled.write_bytes(pickle.dumps(store))
    path = os.pathsep.join(os.path.abspath(each) for each in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "tenterhook_store.testing.other_process", str(pickled), what],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == expected, done.stderr
    return done.stdout
