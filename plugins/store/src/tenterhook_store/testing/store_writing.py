"""How the units of a run are written."""

import copy

import pytest
import torch

from tenterhook_store import CannotKeep, IncompleteRun, NotKept, RowBlock, Store, WrongRows
from tenterhook_store.testing.small_runs import a_plan, rows_of, same_bits, write


class WritingTests:
    """Units are committed whole, in any order, by any number of writers."""

    def test_only_committed_rows_are_seen(self, store: Store) -> None:
        """What is appended and not committed is seen by nobody, and gone after an error."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        first, second, _ = plan.units()
        write(writer, [first])

        def fail() -> None:
            with writer.open_unit(second) as writing:
                writing.append(rows_of(plan, second.start, second.stop))
                assert len(store.run("one")) == 8
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            fail()
        run = store.run("one")
        assert not run.is_complete
        assert writer.committed() == {0}
        assert run["h.0"].shape == (8, 3)
        assert len(run.tokens) == 8
        with pytest.raises(IncompleteRun, match="lacks 2 units"):
            writer.finish()

    def test_resuming(self, store: Store) -> None:
        """A run of the same plan is gone on with; what is committed stays."""
        plan = a_plan()
        write(store.write_run("one", plan), plan.units()[:1])
        again = store.write_run("one", copy.deepcopy(plan))
        assert again.committed() == {0}
        write(again, plan.units()[1:])
        again.finish()
        assert store.run("one").is_complete

    def test_committing_twice(self, store: Store) -> None:
        """A unit that was committed by another writer is left as it is."""
        plan = a_plan()
        one, other = store.write_run("one", plan), store.write_run("one", plan)
        write(one, plan.units())
        write(other, plan.units()[1:2], step=5)
        one.finish()
        other.finish()
        assert same_bits(store.run("one")["h.0"][:], rows_of(plan, 0, 20).layers["h.0"])

    def test_committing_other_values_twice(self, store: Store) -> None:
        """Rows that are committed stay as they are, whatever another writer has for them."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        expected = rows_of(plan, 0, 8)
        late = store.write_run("one", plan).open_unit(plan.unit(0))
        layers = {name: rows + 1 for name, rows in expected.layers.items()}
        late.append(
            RowBlock(
                tokens=expected.tokens,
                documents=expected.documents,
                positions=expected.positions,
                layers=layers,
            )
        )
        write(writer, plan.units()[:1])
        with late:
            late.commit({})
        assert same_bits(store.run("one")["h.0"][:], expected.layers["h.0"])
        assert store.verify_run("one") == []

    def test_rows_that_do_not_fit(self, store: Store) -> None:
        """Rows of another width, dtype, layer or number are refused, and nothing is committed."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        unit = plan.unit(0)
        for wrong in (
            a_plan(layers=[("h.0", 4, "float32"), ("h.1", 5, "bfloat16")]),
            a_plan(layers=[("h.0", 3, "float16"), ("h.1", 5, "bfloat16")]),
            a_plan(layers=[("h.0", 3, "float32")]),
        ):
            with writer.open_unit(unit) as writing, pytest.raises(WrongRows):
                writing.append(rows_of(wrong, 0, 8))
        with writer.open_unit(unit) as writing:
            writing.append(rows_of(plan, 0, 7))
            with pytest.raises(WrongRows, match="8 rows and given 7"):
                writing.commit({})
        assert writer.committed() == frozenset()

    def test_memory_of_a_block_is_used_again(self, store: Store) -> None:
        """What becomes of a block's tensors after `append` does not change what was written."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        for unit in plan.units():
            with writer.open_unit(unit) as writing:
                for start in range(unit.start, unit.stop):
                    block = rows_of(plan, start, start + 1)
                    writing.append(block)
                    for used in (block.tokens, block.documents, *block.layers.values()):
                        used.fill_(77)
                writing.commit({})
        run, expected = store.run("one"), rows_of(plan, 0, plan.rows)
        assert run.tokens[:].tolist() == expected.tokens.tolist()
        for layer, rows in expected.layers.items():
            assert same_bits(run[layer][:], rows)

    def test_too_many_rows(self, store: Store) -> None:
        """A unit takes its own rows and no more."""
        plan = a_plan()
        writer = store.write_run("one", plan)

        def write_nine() -> None:
            with writer.open_unit(plan.unit(0)) as writing:
                writing.append(rows_of(plan, 0, 9))
                writing.commit({})

        with pytest.raises(WrongRows):
            write_nine()
        assert writer.committed() == frozenset()

    def test_kept_tensors(self, store: Store) -> None:
        """A unit's small tensors come back bit for bit, by any name, once it is committed."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        kept = {
            "h.0/mean": torch.arange(3.0),
            "../odd name ü": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
            "count": torch.tensor(8),
            "none": torch.empty(0, 2),
            "covariance": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        }
        with writer.open_unit(plan.unit(0)) as writing:
            writing.append(rows_of(plan, 0, 8))
            writing.keep("count", torch.tensor(0))
            for name, tensor in kept.items():
                writing.keep(name, tensor)
            kept["h.0/mean"].add_(0)  # the store has a copy
            assert store.run("one").unit_tensors(0) == []
            writing.commit({})
        run = store.run("one")
        assert run.unit_tensors(0) == sorted(kept)
        for name, tensor in kept.items():
            assert same_bits(run.unit_tensor(0, name), tensor)
        run.unit_tensor(0, "count").fill_(3)
        assert run.unit_tensor(0, "count") == 8
        with pytest.raises(NotKept, match=r"Unit 0 of run 'one' has no tensor .*Did you mean"):
            run.unit_tensor(0, "h.0/maen")
        with pytest.raises(NotKept, match="It has none"):
            run.unit_tensor(1, "count")
        with pytest.raises(IndexError, match="Unit 3 is not among the 3"):
            run.unit_tensors(3)

    def test_kept_tensors_of_an_abandoned_unit(self, store: Store) -> None:
        """They are gone with it."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        with writer.open_unit(plan.unit(0)) as writing:
            writing.keep("x", torch.ones(1))
        write(writer, plan.units())
        assert store.run("one").unit_tensors(0) == []

    def test_keeping_what_is_no_tensor(self, store: Store) -> None:
        """It is refused, by its type."""
        plan = a_plan()
        with (
            store.write_run("one", plan).open_unit(plan.unit(0)) as writing,
            pytest.raises(CannotKeep, match="list objects, only tensors"),
        ):
            writing.keep("x", [1.0])  # type: ignore[arg-type]
