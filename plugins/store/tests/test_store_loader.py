"""Training batches from a run: each row once, repeatable, resumable, in the memory of a buffer."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tenterhook_store import (
    BadSetting,
    MemoryStore,
    NotCaptured,
    OtherLoader,
    RowLoader,
    RowOutOfRange,
    Run,
    RunPlan,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write

ROWS = 1000
LAYERS = [("h.0", 3, "float32"), ("h.1", 5, "bfloat16")]


def run_of(rows: int = ROWS, **settings: Any) -> Run:
    """Return a run whose row `r` has the token `7 * r`."""
    plan: RunPlan = a_plan(rows, 256, **{"layers": LAYERS, **settings})
    store = MemoryStore()
    write(store.write_run("one", plan), plan.units(), step=256)
    return store.run("one")


RUN = run_of()


def rows_in(batches: Any) -> list[int]:
    """Return the numbers of the rows, in their order."""
    return [row for batch in batches for row in batch["rows"].tolist()]


def small(run: Run = RUN, batch_size: int = 64, **settings: Any) -> RowLoader:
    """Return a loader with a buffer much smaller than the run."""
    small_ones = {"buffer_rows": 256, "block_rows": 16, "also": ["rows"], "threads": 2}
    return run.loader("h.0", batch_size, **{**small_ones, **settings})


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list `[worker, workers]`: loaders take this process for that worker."""
    this = [0, 0]
    monkeypatch.setattr("tenterhook_store.loader._worker", lambda: tuple(this))
    return this  # type: ignore[return-value]


# --- what is given


@pytest.mark.parametrize(
    "settings", [{}, {"mixing": "exact"}, {"shuffle": False}], ids=["blocks", "exact", "in order"]
)
def test_batches_are_the_rows(settings: Any) -> None:
    """Layers, tokens, documents, positions and row numbers belong together."""
    also: Any = ["rows", "positions", "tokens", "documents"]
    loader = RUN.loader(["h.0", "h.1"], 64, also=also, buffer_rows=200, block_rows=16, **settings)
    seen = 0
    for batch in loader:
        rows = batch["rows"]
        assert list(batch) == ["h.0", "h.1", *also]
        expected = rows_of(RUN.plan, 0, ROWS)
        for layer in ("h.0", "h.1"):
            assert same_bits(batch[layer], expected.layers[layer][rows])
        assert torch.equal(batch["tokens"], (rows * 7).int())
        assert torch.equal(batch["documents"], rows // 4)
        assert torch.equal(batch["positions"], (rows % 4).int())
        seen += len(rows)
    assert seen == ROWS


def test_int8_rows_are_floats() -> None:
    """A layer that is kept as int8 with scales gives the floats, in any order."""
    run = run_of(layers=[("h", 5, "int8"), ("h:scale", 1, "float32")])
    mixings: tuple[Any, ...] = ("blocks", "exact")
    for mixing in mixings:
        for batch in run.loader("h", 64, mixing=mixing, also=["rows"]):
            assert batch["h"].dtype is torch.float32
            assert torch.equal(batch["h"], run["h"][batch["rows"]])


def test_one_layer_is_a_tensor() -> None:
    """Where one layer is asked for, batches are tensors of it, of the dtype that was stored."""
    batches = list(RUN.loader("h.1", 300))
    assert [tuple(batch.shape) for batch in batches] == [(300, 5), (300, 5), (300, 5), (100, 5)]
    assert batches[0].dtype is torch.bfloat16
    assert isinstance(next(iter(RUN.loader(["h.1"], 300))), dict)


def test_in_order() -> None:
    """Without shuffling the rows come as they are in the run."""
    assert rows_in(small(shuffle=False)) == list(range(ROWS))


def test_batches_are_the_callers_own() -> None:
    """Writing to a batch changes nothing that comes later."""
    plain = rows_in(small())
    seen = []
    for batch in small():
        seen += batch["rows"].tolist()
        for tensor in batch.values():
            tensor.fill_(-1)
    assert seen == plain


@pytest.mark.parametrize("mixing", ["blocks", "exact"])
@pytest.mark.parametrize("workers", [0, 1, 3])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_each_row_once_over_ranks_and_workers(mixing: Any, workers: int, data: Any) -> None:
    """Whatever the sizes, all ranks and workers together give every row of the part once."""
    start = data.draw(st.integers(0, 90), "start")
    stop = data.draw(st.integers(start, 400), "stop")
    world_size = data.draw(st.integers(1, 3), "world_size")
    shuffle = data.draw(st.booleans(), "shuffle")
    drop_last = data.draw(st.booleans(), "drop_last")
    batch_size = data.draw(st.integers(1, 70), "batch_size")
    sizes = {
        "buffer_rows": data.draw(st.integers(1, 200), "buffer_rows"),
        "block_rows": data.draw(st.integers(1, 60), "block_rows"),
    }
    found: list[int] = []
    counts = []
    assume(not drop_last or start == stop or (stop - start) // batch_size >= world_size)
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world_size):
            count = 0
            for worker in range(max(workers, 1)):
                patch.setattr("tenterhook_store.loader._worker", lambda w=worker: (w, workers))
                loader = small(
                    batch_size=batch_size,
                    rows=slice(start, stop),
                    rank=rank,
                    world_size=world_size,
                    mixing=mixing,
                    shuffle=shuffle,
                    drop_last=drop_last,
                    **sizes,
                )
                batches = list(loader)
                count += len(batches)
                found += rows_in(batches)
                full = [len(batch["rows"]) == batch_size for batch in batches]
                assert all(full if drop_last else full[:-1])
            assert count == len(loader)
            counts.append(count)
    if drop_last:
        assert len(set(counts)) == 1
        assert stop - start - len(found) < world_size * batch_size
        assert len(set(found)) == len(found)
        assert set(found) <= set(range(start, stop))
    else:
        assert sorted(found) == list(range(start, stop))


@pytest.mark.parametrize("mixing", ["exact", None], ids=["exact", "in order"])
def test_workers_do_not_change_the_order(worker: list[int], mixing: Any) -> None:
    """In exact order and without shuffling, the batches of a rank are the same for any workers."""
    kind = {"mixing": mixing} if mixing else {"shuffle": False}
    alone = [batch["rows"].tolist() for batch in small(**kind, rank=1, world_size=2)]
    shared = []
    for number in range(3):
        worker[:] = [number, 3]
        shared.append([batch["rows"].tolist() for batch in small(**kind, rank=1, world_size=2)])
    in_turn = [shared[at % 3][at // 3] for at in range(len(alone))]
    assert in_turn == alone


# --- how well it is shuffled


def test_blocks_are_mixed_within_the_buffer() -> None:
    """A bufferful is whole blocks, shuffled: the rows of a block are spread over it evenly."""
    run = run_of(8192)
    rows = torch.tensor(rows_in(run.loader("h.0", 128, also=["rows"], buffer_rows=2048)))
    spread = torch.zeros(8192, dtype=torch.int64)
    spread[rows] = torch.arange(8192)
    blocks = spread.reshape(-1, 256)
    assert (blocks // 2048).float().std(dim=1).max() == 0  # each block within one bufferful
    reach = blocks.max(dim=1).values - blocks.min(dim=1).values
    assert reach.min() > 2048 * 0.95
    assert reach.max() < 2048
    in_batch = torch.stack([torch.bincount(block // 128, minlength=64) for block in blocks])
    assert in_batch.sum() / (in_batch > 0).sum() < 17.5  # 256 * 128 / 2048 is 16
    assert in_batch.max() < 40


def test_exact_order_is_a_uniform_permutation() -> None:
    """Over many seeds, each row is as often at each place."""
    run = run_of(8)
    seen = torch.zeros(8, 8)
    for seed in range(400):
        rows = rows_in(run.loader("h.0", 8, mixing="exact", seed=seed, also=["rows"], threads=1))
        seen[torch.arange(8), rows] += 1
    assert ((seen - 50) ** 2 / 50).sum() < 100  # 49 degrees of freedom


@pytest.mark.parametrize("mixing", ["blocks", "exact"])
def test_seeds_and_epochs(mixing: Any) -> None:
    """The order follows from seed and epoch; iterating again is the next epoch."""
    loader = small(mixing=mixing, seed=3)
    first, second = rows_in(loader), rows_in(loader)
    assert first != second
    assert sorted(first) == sorted(second)
    assert rows_in(small(mixing=mixing, seed=4)) != first
    again = small(mixing=mixing, seed=3)
    assert rows_in(again) == first
    assert rows_in(again) == second
    again.set_epoch(1)
    assert rows_in(again) == second
    again.set_epoch(0)
    assert rows_in(again) == first


def test_leaving_early_is_an_epoch_too() -> None:
    """An iteration that was not finished counts, and leaves no thread behind."""
    loader = small()
    for _ in loader:
        break
    assert rows_in(loader) == rows_in(small_at(1))


def small_at(epoch: int) -> RowLoader:
    """Return the small loader at an epoch."""
    loader = small()
    loader.set_epoch(epoch)
    return loader


# --- going on


@pytest.mark.parametrize(
    "kind",
    [{}, {"mixing": "exact"}, {"shuffle": False}, {"drop_last": True, "buffer_rows": 64}],
    ids=["blocks", "exact", "in order", "a batch in the buffer"],
)
@pytest.mark.parametrize("at", [0, 1, 3, 4, 15, 16])
def test_resumed_stream_is_the_same(kind: Any, at: int) -> None:
    """From any batch on, the rest of the epoch and the epochs after it are bit-identical."""
    loader = small(**kind, seed=5)
    list(loader)
    whole = [batch["h.0"] for batch in loader]
    again = small(**kind, seed=5)
    again.set_epoch(1)
    batches = iter(again)
    for _ in range(min(at, len(whole))):
        next(batches)
    state = json.loads(json.dumps(again.state_dict()))
    resumed = small(**kind, seed=5)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = [batch["h.0"] for batch in resumed]
    assert len(rest) == max(0, len(whole) - at)
    assert all(same_bits(a, b) for a, b in zip(rest, whole[at:], strict=True))
    assert rows_in(resumed) == rows_in(loader)  # the epoch after


def test_state_between_epochs() -> None:
    """After an epoch the state is the beginning of the next."""
    loader = small()
    list(loader)
    resumed = small()
    resumed.load_state_dict(loader.state_dict())
    assert rows_in(resumed) == rows_in(loader)


def test_state_of_another_loader() -> None:
    """A state that would give other batches is refused, and what differs is named."""
    state = small(seed=1).state_dict()
    with pytest.raises(OtherLoader, match="seed is 1 there and 2 here") as caught:
        small(seed=2).load_state_dict(state)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(OtherLoader, match="batch_size is 64 there and 32 here"):
        small(seed=1, batch_size=32).load_state_dict(state)
    with pytest.raises(OtherLoader, match=r"rows is \[0, 1000\] there and \[0, 10\] here"):
        small(seed=1, rows=slice(10)).load_state_dict(state)
    small(seed=1, threads=7, also=[]).load_state_dict(state)  # these change no batch


def test_state_that_is_none() -> None:
    """A state without its numbers, or with others than there can be, is refused."""
    state = small().state_dict()
    for broken in ({**state, "batches": -3}, {**state, "epoch": None}, {**state, "workers": 0}):
        with pytest.raises(
            BadSetting, match=r"state\['(batches|epoch|workers)'\]=.* must be a whole"
        ):
            small().load_state_dict(broken)
    del state["batches"]
    with pytest.raises(BadSetting, match=r"state\['batches'\]=None"):
        small().load_state_dict(state)


@pytest.mark.parametrize("loader", [small(), small(mixing="exact")], ids=["blocks", "exact"])
def test_any_kind_of_int(loader: RowLoader) -> None:
    """numpy's ints give the orders that Python's give, and a state of plain values."""
    kind: Any = np.int64
    mixing = "exact" if "exact" in repr(loader) else "blocks"
    sizes: dict[str, Any] = {"buffer_rows": kind(256), "block_rows": kind(16), "seed": kind(0)}
    same = small(batch_size=kind(64), mixing=mixing, **sizes)
    loader.set_epoch(2)
    same.set_epoch(kind(2))
    assert json.loads(json.dumps(same.state_dict())) == loader.state_dict()
    assert rows_in(same) == rows_in(loader)


def test_state_is_gone_on_with_once() -> None:
    """A state loaded before the one worker was there is the rest of an epoch, then the next comes.

    The worker is made anew for each epoch, and finds the state in its copy of the loader.
    """
    whole = small()
    batches = iter(whole)
    for _ in range(5):
        next(batches)
    state = whole.state_dict()
    rest, after = rows_in(batches), rows_in(whole)
    resumed = small()
    resumed.load_state_dict(state)
    data = DataLoader(resumed, batch_size=None, num_workers=1)
    assert rows_in(data) == rest
    assert rows_in(data) == after


def test_state_of_other_workers(worker: list[int]) -> None:
    """A state of one of three workers is not gone on with by two."""
    worker[:] = [1, 3]
    loader = small()
    next(iter(loader))
    state = loader.state_dict()
    worker[:] = [1, 2]
    loader.load_state_dict(state)
    with pytest.raises(OtherLoader, match="workers is 3 there and 2 here"):
        next(iter(loader))


# --- DataLoader


@pytest.mark.parametrize("workers", [0, 2])
def test_dataloader(workers: int) -> None:
    """Workers share the rows; each iteration is the next epoch, though they are made anew."""
    loader = small()
    data = DataLoader(loader, batch_size=None, num_workers=workers)
    assert len(data) == 16
    first, second = rows_in(data), rows_in(data)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    loader.set_epoch(0)
    assert rows_in(data) == first


def test_persistent_workers() -> None:
    """Workers that live on go to the next epoch, and hear what the epoch is."""
    loader = small()
    data = DataLoader(loader, batch_size=None, num_workers=2, persistent_workers=True)
    first, second = rows_in(data), rows_in(data)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    loader.set_epoch(0)
    assert rows_in(data) == first


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mixing", ["blocks", "exact"])
def test_stateful_dataloader(workers: int, mixing: Any) -> None:
    """torchdata's loader saves and restores where each worker is."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def data() -> Any:
        return stateful.StatefulDataLoader(
            small(mixing=mixing), batch_size=None, num_workers=workers
        )

    whole = [batch["rows"].tolist() for batch in data()]
    before = data()
    batches = iter(before)
    for _ in range(5):
        next(batches)
    state = before.state_dict()
    after = data()
    after.load_state_dict(state)
    assert [batch["rows"].tolist() for batch in after] == whole[5:]


def test_dataset() -> None:
    """The map-style dataset reads rows by number, one or many."""
    dataset = RUN.dataset(["h.0", "h.1"], also=["rows", "tokens"], rows=slice(100, 900))
    assert len(dataset) == 800
    one: Any = dataset[-1]
    assert (one["rows"].item(), one["tokens"].item(), one["h.1"].shape) == (899, 6293, (5,))
    assert dataset[[3, 0, 3]]["rows"].tolist() == [103, 100, 103]
    assert dataset[5:20:5]["rows"].tolist() == [105, 110, 115]
    alone = RUN.dataset("h.0")
    assert torch.equal(alone[torch.tensor([7, 2])], RUN["h.0"][[7, 2]])
    with pytest.raises(RowOutOfRange, match="Row 800 is not among the 800"):
        dataset[800]
    assert repr(alone) == "RowDataset('one', 'h.0', 1000 rows)"


def test_dataset_in_dataloader() -> None:
    """`DataLoader` reads its batches at once, as lists of rows or as they are."""
    dataset = RUN.dataset(["h.0"], also=["rows"])
    generator = torch.Generator().manual_seed(0)
    listed = DataLoader(dataset, batch_size=64, shuffle=True, generator=generator)
    sampler = BatchSampler(RandomSampler(dataset), 64, drop_last=False)
    whole = DataLoader(dataset, batch_size=None, sampler=sampler)
    for data in (listed, whole):
        batches = list(data)
        assert len(batches) == 16
        assert sorted(rows_in(batches)) == list(range(ROWS))
        for batch in batches:
            assert torch.equal(batch["h.0"], RUN["h.0"][batch["rows"]])
    single: Tensor = next(iter(DataLoader(RUN.dataset("h.1"), batch_size=10)))
    assert same_bits(single, RUN["h.1"][:10])


# --- ranks


def test_rank_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank and world size are those that torchrun sets, unless they are given."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    loader = small()
    assert (loader.rank, loader.world_size, len(loader)) == (2, 3, 5)
    assert len(small(rank=0, world_size=1)) == 16
    monkeypatch.delenv("RANK")
    with pytest.raises(
        BadSetting, match=r"\(None, '3'\) must be both set, or rank= and world_size="
    ):
        small()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert small().rank == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(BadSetting, match=r"RANK, WORLD_SIZE\)=\('two', '3'\) must be whole"):
        small()


def test_rank_of_a_process_group(tmp_path: Any) -> None:
    """Where torch.distributed is at work it says the rank."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no distributed")
    place = (tmp_path / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        assert (small().rank, small().world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


# --- devices


def test_device() -> None:
    """Batches come on the device that was asked for."""
    batch = next(iter(small(device="meta")))
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}


def test_device_and_workers(worker: list[int]) -> None:
    """Workers do not share a device; the error says what to do instead."""
    worker[:] = [0, 2]
    with pytest.raises(BadSetting, match=r"left out where DataLoader has workers.*pin_memory"):
        iter(small(device="meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("mixing", ["blocks", "exact"])
def test_cuda(mixing: Any) -> None:
    """Batches that were copied while others were read are right."""
    on_cpu = [batch["h.0"] for batch in small(mixing=mixing)]
    on_gpu = [batch["h.0"] for batch in small(mixing=mixing, device="cuda")]
    assert all(same_bits(a, b.cpu()) for a, b in zip(on_cpu, on_gpu, strict=True))


# --- mistakes


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number, 1 or more"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number"),
        ({"buffer_rows": -1}, "buffer_rows=-1 must be"),
        ({"block_rows": 0}, "block_rows=0 must be"),
        ({"threads": True}, "threads=True must be"),
        ({"seed": "x"}, "seed='x' must be a whole number"),
        ({"mixing": "good"}, "mixing='good' must be 'blocks' or 'exact'"),
        ({"rows": slice(0, 9, 2)}, "rows=.* must be a slice of rows that follow each other"),
        ({"also": ["colour"]}, "must be a list of some of tokens, spans, documents, positions"),
        ({"also": "tokens"}, "must be a list of some of"),
        ({"also": ["rows", "rows"]}, "each once"),
        ({"rank": 1}, "rank=1 must be given with world_size"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be below world_size, which is 2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_settings_that_make_no_sense(mistake: Any, match: str) -> None:
    """Each is an error that says what would do, before anything is read."""
    with pytest.raises(BadSetting, match=match):
        small(**mistake)


def test_layers_that_are_not_there() -> None:
    """A layer that the run has not, and no layer, are told at once."""
    with pytest.raises(NotCaptured, match=r"Did you mean 'h\.0'"):
        RUN.loader("h.00", 10)
    with pytest.raises(BadSetting, match="the name of a layer, or a list of names"):
        RUN.loader([], 10)
    with pytest.raises(BadSetting, match="each once"):
        RUN.loader(["h.0", "h.0"], 10)
    with pytest.raises(BadSetting, match="epoch=-1 must be a whole number, 0 or more"):
        small().set_epoch(-1)
    with pytest.raises(BadSetting, match="a slice of rows that follow"):
        RUN.dataset("h.0", rows=slice(None, None, -1))


def test_loader_of_a_store_in_memory_is_not_pickled() -> None:
    """It says that the store is in memory."""
    with pytest.raises(TypeError, match="MemoryStore is in the memory of its process"):
        copy.deepcopy(small())


def test_what_it_shows() -> None:
    """A loader says what it gives."""
    assert repr(small()) == "RowLoader('one', 'h.0', 16 batches, mixing='blocks')"
    assert repr(small(shuffle=False)) == "RowLoader('one', 'h.0', 16 batches, in order)"


def test_nothing_to_give() -> None:
    """A run of which nothing is committed, or a part without rows, gives no batch."""
    for kind in ({}, {"mixing": "exact"}, {"shuffle": False}):
        assert list(small(rows=slice(0, 0), **kind)) == []


@pytest.mark.parametrize("rows", [8192 + 70, 8192 + 256, 12_000, 5000])
def test_the_last_bufferful_is_as_well_mixed(rows: int) -> None:
    """However many rows there are, no batch has many more rows of one block than the others."""
    loader = run_of(rows).loader("h.0", 128, also=["rows"], buffer_rows=2048, block_rows=256)
    most = [int(torch.bincount(batch["rows"] // 256).max()) for batch in loader]
    assert max(most) < 60  # 16 to 32 in the mean; a last bufferful of 70 rows had 70


# --- mistakes that cost an epoch


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", [{}, {"batch_size": 8}], ids=["default", "8"])
def test_a_data_loader_that_makes_batches(workers: int, how: dict[str, Any]) -> None:
    """Of batches, it would; that is an error with the way out."""
    data = DataLoader(small(), num_workers=workers, **how)
    with pytest.raises((BadSetting, RuntimeError), match=r"DataLoader\(loader, batch_size=None\)"):
        next(iter(data))


@pytest.mark.parametrize(
    ("world_size", "match"),
    [
        (1, r"drop_last=True must be .* 63 rows are 0 full batches of 64, so an epoch"),
        (2, r"63 rows are 0 full batches of 64, fewer than the 2 ranks"),
    ],
)
def test_no_batch_for_any_rank(world_size: int, match: str) -> None:
    """An epoch of none is an error, where each rank would wait for it or end at once."""
    with pytest.raises(BadSetting, match=match):
        small(rows=slice(0, 63), drop_last=True, rank=0, world_size=world_size)
    with pytest.raises(BadSetting, match="127 rows are 1 full batches of 64, fewer than"):
        small(rows=slice(0, 127), drop_last=True, rank=1, world_size=2)
    assert len(small(rows=slice(0, 128), drop_last=True, rank=1, world_size=2)) == 1
    assert list(small(rows=slice(0, 0), drop_last=True)) == []


def test_blocks_are_read_while_batches_are_taken() -> None:
    """Places that a batch left are filled with the next group, whoever reads them, and in order."""
    again = [list(small(seed=3, threads=threads, buffer_rows=256)) for threads in (1, 7)]
    for one, other in zip(*again, strict=True):
        assert torch.equal(one["rows"], other["rows"])
        assert torch.equal(one["h.0"], other["h.0"])
