"""What every store does: a contract to inherit.

class TestMyStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path / "store")
"""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_store import (
    BadName,
    CannotKeep,
    DeletedRun,
    IncompleteRun,
    LayerArray,
    MissingRows,
    NameTaken,
    NotCaptured,
    NotKept,
    OtherRun,
    RowBlock,
    RowOutOfRange,
    RunPlan,
    RunWriter,
    Store,
    Unit,
    UnknownRun,
    UnknownTensor,
    WrongIndex,
    WrongRows,
    flat_bytes,
    plain_tensor,
)

BAD_NAMES = [
    "",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "/absolute",
    "a//b",
    "a/",
    ".",
    ".hidden",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\u202eb",
    "C:",
    "con",
    "NUL.txt",
    "com1",
    "a ",
    "a.",
    "x" * 300,
    "ü" * 101,
    "\ud800",
    "a*",
]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors have one shape and dtype, and the same bits, NaNs included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(flat_bytes(plain_tensor(each)) for each in (one, other)))


def a_plan(
    rows: int = 20,
    rows_per_unit: int = 8,
    layers: Sequence[tuple[str, int, str]] = (("h.0", 3, "float32"), ("h.1", 5, "bfloat16")),
    **others: Any,
) -> RunPlan:
    """Return a small plan; row `r` comes from document `r // 4`."""
    return RunPlan(
        rows=rows,
        rows_per_unit=rows_per_unit,
        documents=-(-rows // 4),
        layers=tuple(LayerArray(*layer) for layer in layers),
        **{"spec": {"batch_size": 2}, "about": {"model": {"name": "none"}}, **others},
    )


def rows_of(plan: RunPlan, start: int, stop: int) -> RowBlock:
    """Return what belongs in those rows: the same whenever it is asked."""
    rows = torch.arange(start, stop)
    layers = {}
    for number, layer in enumerate(plan.layers):
        values = rows[:, None] * 100.0 + torch.arange(layer.features) + number / 8
        layers[layer.name] = values.to(getattr(torch, layer.dtype))
    return RowBlock(tokens=rows * 7, documents=rows // 4, positions=rows % 4, layers=layers)


def write(writer: RunWriter, units: Sequence[Unit], *, step: int = 3) -> None:
    """Write units a few rows at a time."""
    for unit in units:
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, step):
                block = rows_of(writer.plan, start, min(start + step, unit.stop))
                writing.append(block)
            writing.commit({"seconds": 1.5})


class StoreContract:
    """Inherit and give the fixture `store`: a store of yours, empty."""

    @pytest.fixture
    def store(self) -> Store:
        """Return a store that holds nothing."""
        raise NotImplementedError("Give the fixture `store`.")

    def test_it_is_a_store(self, store: Store) -> None:
        """It has the methods of the protocol and says where it is."""
        assert isinstance(store, Store)
        assert store.location

    def test_new_store_is_empty(self, store: Store) -> None:
        """Nothing is in a store that nothing was put in."""
        assert store.list_tensors() == []
        assert store.runs() == []

    # --- tensors

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.float32,
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.int8,
            torch.int64,
            torch.uint8,
            torch.uint16,
            torch.bool,
            torch.complex64,
        ],
        ids=lambda dtype: str(dtype).removeprefix("torch."),
    )
    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 4)], ids=str)
    def test_tensor_comes_back_bit_for_bit(
        self, store: Store, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        """Every dtype and shape comes back as it was."""
        size = torch.Size(shape).numel() * dtype.itemsize
        generator = torch.Generator().manual_seed(0)
        top = 2 if dtype is torch.bool else 256
        noise = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
        tensor = noise.view(dtype).reshape(shape)
        store.save_tensor("t", tensor)
        assert same_bits(store.load_tensor("t"), tensor)

    def test_tensor_that_is_a_view(self, store: Store) -> None:
        """Transposed, expanded and conjugated tensors are saved by their values."""
        tensor = torch.arange(6.0).reshape(2, 3).to(torch.complex64).mul(1j).conj().T
        store.save_tensor("t", tensor)
        assert torch.equal(store.load_tensor("t"), tensor)

    def test_tensor_that_needs_gradients(self, store: Store) -> None:
        """A parameter is saved by its values."""
        store.save_tensor("t", torch.nn.Parameter(torch.ones(2)))
        assert not store.load_tensor("t").requires_grad

    def test_tensor_is_a_copy(self, store: Store) -> None:
        """Neither what was saved nor what was loaded is tied to the store."""
        tensor = torch.ones(2)
        store.save_tensor("t", tensor)
        tensor.zero_()
        store.load_tensor("t").zero_()
        assert store.load_tensor("t").tolist() == [1, 1]

    def test_tensor_is_replaced(self, store: Store) -> None:
        """Saving under a name again replaces what was there, whatever its shape and dtype."""
        store.save_tensor("a/b", torch.ones(2))
        store.save_tensor("a/b", torch.zeros(3, 1, dtype=torch.int8))
        assert same_bits(store.load_tensor("a/b"), torch.zeros(3, 1, dtype=torch.int8))
        assert store.list_tensors() == ["a/b"]

    def test_names_have_parts(self, store: Store) -> None:
        """A name may begin with another; names are listed sorted, as they were given."""
        names = ["a/b", "a", "ü 100%/ß", "a/b/c", "a%2Fb", "Layer.0"]
        for number, name in enumerate(names):
            store.save_tensor(name, torch.tensor(number))
        assert store.list_tensors() == sorted(names)
        assert [store.load_tensor(name).item() for name in names] == list(range(len(names)))

    def test_longest_name(self, store: Store) -> None:
        """A name of 200 bytes is kept, whatever it is made of."""
        for name in ("x" * 200, "%" * 200, "ü" * 100):
            store.save_tensor(name, torch.tensor(1))
        assert len(store.list_tensors()) == 3

    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_bad_tensor_name(self, store: Store, name: str) -> None:
        """A name that could leave the store, or fit no file system, is refused."""
        with pytest.raises(BadName, match="cannot name a tensor"):
            store.save_tensor(name, torch.ones(1))
        with pytest.raises(BadName):
            store.load_tensor(name)
        assert store.list_tensors() == []

    def test_name_that_is_no_string(self, store: Store) -> None:
        """A name must be a string."""
        with pytest.raises(BadName, match="int"):
            store.save_tensor(3, torch.ones(1))  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["LAYER/ü", "layer/u\u0308"])
    def test_name_that_some_systems_confuse(self, store: Store, name: str) -> None:
        """Names that differ in case or composition alone do not stand side by side."""
        store.save_tensor("layer/ü", torch.ones(1))
        with pytest.raises(NameTaken, match="file systems"):
            store.save_tensor(name, torch.ones(1))

    def test_unknown_tensor(self, store: Store) -> None:
        """A tensor that is not there is a `LookupError` with the nearest names."""
        store.save_tensor("direction", torch.ones(1))
        with pytest.raises(UnknownTensor, match="Did you mean 'direction'") as caught:
            store.load_tensor("directoin")
        assert isinstance(caught.value, LookupError)

    @pytest.mark.parametrize("value", [[1.0], 3, None], ids=str)
    def test_what_is_no_tensor(self, store: Store, value: Any) -> None:
        """It is refused, by its type."""
        with pytest.raises(CannotKeep, match=f"{type(value).__name__} objects, only tensors"):
            store.save_tensor("x", value)
        with pytest.raises(TypeError, match=r"sparse_coo tensors\. Make it dense"):
            store.save_tensor("x", torch.ones(1).to_sparse())
        assert store.list_tensors() == []

    def test_deleting_a_tensor(self, store: Store) -> None:
        """It is gone, the others stay, and its name can be used again."""
        store.save_tensor("a", torch.ones(1))
        store.save_tensor("a/b", torch.zeros(1))
        store.delete_tensor("a")
        assert store.list_tensors() == ["a/b"]
        for look in (store.load_tensor, store.delete_tensor):
            with pytest.raises(UnknownTensor):
                look("a")
        store.save_tensor("A", torch.ones(2))
        assert store.load_tensor("A").tolist() == [1, 1]

    # --- runs

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

    def test_shards_are_counted_beforehand(self, store: Store) -> None:
        """Of a plan it is known how many files of rows it makes; counting makes nothing."""
        plan = a_plan()
        assert store.count_shards(plan) >= plan.unit_count * len(plan.layers)
        assert store.runs() == []

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
