"""How the rows of a run are read."""

import pytest
import torch

from tenterhook_store import MissingRows, NotCaptured, RowOutOfRange, Store, UnknownRun, WrongIndex
from tenterhook_store.testing.small_runs import a_plan, rows_of, same_bits, write


class ReadingTests:
    """Rows are read as they were written, by any index."""

    def test_run_comes_back(self, store: Store) -> None:
        """Rows, tokens, documents and layers are read as they were written."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        write(writer, plan.units())
        writer.finish()
        run = store.run("one")
        expected = rows_of(plan, 0, plan.rows)
        assert store.runs() == ["one"]
        assert run.is_complete
        assert run.layers == ("h.0", "h.1")
        assert list(run) == ["h.0", "h.1"]
        for layer in run.layers:
            assert same_bits(run[layer][:], expected.layers[layer])
            assert run[layer].shape == tuple(expected.layers[layer].shape)
            assert run[layer].dtype == expected.layers[layer].dtype
        assert run.tokens[:].tolist() == expected.tokens.tolist()
        assert run.documents.index[:].tolist() == expected.documents.tolist()
        assert run.documents.position[:].tolist() == expected.positions.tolist()

    @pytest.mark.parametrize(
        "rows",
        [
            slice(None),
            slice(3, 17),
            slice(7, 9),
            slice(-5, None),
            slice(0, 0),
            slice(15, 5),
            slice(None, None, 3),
            slice(1, 18, 7),
            slice(None, None, -1),
            slice(18, 2, -4),
            slice(0, 1000),
        ],
        ids=str,
    )
    def test_slices(self, store: Store, rows: slice) -> None:
        """A slice is what the same slice of a list would be."""
        plan = a_plan()
        write(store.write_run("one", plan), plan.units())
        run = store.run("one")
        numbers = list(range(plan.rows))[rows]
        expected = rows_of(plan, 0, plan.rows).layers["h.1"][numbers]
        assert same_bits(run["h.1"][rows], expected)
        assert run.tokens[rows].tolist() == [7 * number for number in numbers]

    def test_single_rows(self, store: Store) -> None:
        """An index gives one row; one out of range is an `IndexError`."""
        plan = a_plan()
        write(store.write_run("one", plan), plan.units())
        rows = store.run("one")["h.0"]
        assert rows[3].tolist() == [300, 301, 302]
        assert rows[-1].tolist() == [1900, 1901, 1902]
        assert [row[0].item() for row in rows] == [100.0 * row for row in range(20)]
        for row in (20, -21):
            with pytest.raises(RowOutOfRange, match=f"Row {row} is not among the 20"):
                rows[row]
        with pytest.raises(TypeError, match="int or a slice"):
            rows["a"]

    def test_any_rows(self, store: Store) -> None:
        """Masks, lists and arrays give rows in their order, with repeats, checked or not."""
        plan = a_plan()
        write(store.write_run("one", plan), plan.units())
        run = store.run("one")
        some = [19, 0, 7, 7, -1, 8]
        expected = rows_of(plan, 0, plan.rows).layers["h.1"]
        for key in (some, torch.tensor(some)):
            assert same_bits(run["h.1"][key], expected[some])
            assert run.tokens[key].tolist() == [7 * (row % 20) for row in some]
            assert same_bits(run["h.1"].take(key, check=False), expected[some])
        mask = torch.arange(20) % 3 == 1
        assert same_bits(run["h.1"][mask], expected[mask])
        assert same_bits(run["h.1"][mask.tolist(), 1:3], expected[mask][:, 1:3].clone())
        assert run["h.1"][[]].shape == (0, 5)
        with pytest.raises(RowOutOfRange):
            run["h.1"][[3, 20]]
        with pytest.raises(WrongIndex, match="one value for each of its 20 rows"):
            run["h.1"][mask[:5]]

    def test_numpy(self, store: Store) -> None:
        """Rows are numpy arrays on demand, bfloat16 in the type that `ml_dtypes` has for it."""
        np = pytest.importorskip("numpy")
        plan = a_plan()
        write(store.write_run("one", plan), plan.units())
        run = store.run("one")
        assert np.asarray(run["h.0"]).tolist() == run["h.0"][:].tolist()
        assert np.asarray(run["h.0"], dtype="float64").dtype == "float64"
        pytest.importorskip("ml_dtypes")
        found = run["h.1"].numpy(slice(2, 9))
        assert found.dtype.name == "bfloat16"
        assert found.view("uint16").tolist() == run["h.1"][2:9].view(torch.uint16).tolist()

    def test_rows_of_a_document(self, store: Store) -> None:
        """`documents.rows` is where a document's rows are."""
        plan = a_plan(rows=18)
        write(store.write_run("one", plan), plan.units())
        documents = store.run("one").documents
        assert len(documents) == 5
        assert [documents.rows(number) for number in range(5)] == [
            slice(0, 4),
            slice(4, 8),
            slice(8, 12),
            slice(12, 16),
            slice(16, 18),
        ]
        assert documents.rows(-1) == slice(16, 18)
        with pytest.raises(IndexError, match="not among the 5"):
            documents.rows(5)

    def test_rows_after_a_gap(self, store: Store) -> None:
        """Units may be committed in any order; those after a gap are read by their numbers."""
        plan = a_plan()
        writer = store.write_run("one", plan)
        first, second, third = plan.units()
        write(writer, [third, first])
        run, expected = store.run("one"), rows_of(plan, 0, 20)
        assert len(run) == 8
        assert run.committed == {0, 2}
        assert (run.missing, run.rows_committed) == ((1,), 12)
        for layer, rows in expected.layers.items():
            assert same_bits(run[layer][:], rows[:8])
            assert same_bits(run[layer][16:20], rows[16:])
            assert same_bits(run[layer].take([17, 2], check=False), rows[[17, 2]])
        assert run.tokens[[19, 0]].tolist() == expected.tokens[[19, 0]].tolist()
        for key in (slice(0, 20), 8, [16, 15]):
            with pytest.raises(MissingRows, match="unit 1 of run 'one'"):
                run["h.0"][key]
        write(writer, [second])
        assert same_bits(store.run("one")["h.0"][:], rows_of(plan, 0, 20).layers["h.0"])

    def test_unknown_run_and_layer(self, store: Store) -> None:
        """What is not there is a `LookupError` with the nearest names."""
        store.write_run("one", a_plan())
        with pytest.raises(UnknownRun, match="Did you mean 'one'"):
            store.run("ome")
        with pytest.raises(NotCaptured, match=r"Did you mean 'h\.0'"):
            store.run("one")["h.00"]

    def test_odd_layer_names(self, store: Store) -> None:
        """Layers keep apart whatever they are called."""
        names = ["h.0", "H.0", "a/b", "..", "con", "ü" * 200, "x y", "", "input", "h%2E0"]
        plan = a_plan(layers=[(name, 2, "float32") for name in names])
        write(store.write_run("one", plan), plan.units())
        run = store.run("one")
        assert run.layers == tuple(names)
        for name in names:
            assert same_bits(run[name][:], rows_of(plan, 0, 20).layers[name])
