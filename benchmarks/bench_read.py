"""How fast are training batches read from a store, against Hugging Face `datasets` and zarr-python?

One run of fp32 rows of 768 (0.4 GB), kept by the zarr store and twice by `datasets`: a row an
element, which is what `to_datasets` writes and the fastest there is to read, and as SAELens keeps
activations, an element a context of 128 rows (`Array2D`). Batches of 4,096 rows, all in this
process, rounds interleaved, files in the page cache, where each is at its best.

Shuffled: blocks of rows in random order, mixed in a buffer of 32,768 rows.
- `run.loader`: blocks of 256 rows, checksums checked.
- zarr-python, and `datasets` with a row an element: the same blocks, one after the other, mixed
  by a plain copy of what we do.
- `datasets` as SAELens does: contexts; the buffer is filled, shuffled whole, half of it is given,
  and it is filled again.
- `datasets` with its own `to_iterable_dataset().shuffle(buffer_size=...)`, over half the rows.

Exact: batches of 4,096 rows at random from anywhere: `run.loader(mixing="exact")`, `dataset[rows]`
in the numpy format, the same where contexts have to be read for their rows (over fewer rows), and
zarr's `oindex`.

Wall-clock time, and beside it the time of all processor cores, which is steadier where others work
on the machine. Where a copy of the rows through a buffer is all that is done, memory sets the pace
for everyone: the last line of the first table is that copy alone, from memory, with no disk.
"""

import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import torch
import zarr
from _rounds import print_machine

from tenterhook_store import LayerArray, LocalStore, RowBlock, Run, RunPlan, Store, to_datasets

FEATURES = 768
BATCH = 4096
BLOCK = 256
CONTEXT = 128
UNIT = 32_768


def fill(store: Store, rows: int) -> Run:
    """Write a run of random rows."""
    plan = RunPlan(
        rows=rows,
        rows_per_unit=UNIT,
        documents=rows,
        layers=(LayerArray("h", FEATURES, "float32"),),
    )
    writer = store.write_run("run", plan)
    values = torch.randn(BATCH, FEATURES)
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, BATCH):
                numbers = torch.arange(start, min(start + BATCH, unit.stop))
                writing.append(
                    RowBlock(
                        tokens=numbers,
                        documents=numbers,
                        positions=numbers * 0,
                        layers={"h": values[: len(numbers)] + start},
                    )
                )
            writing.commit({})
    writer.finish()
    return store.run("run")


def blocks_of(rows: int, seed: int) -> list[int]:
    starts = list(range(0, rows, BLOCK))
    random.Random(seed).shuffle(starts)
    return starts


def mixed(read: Callable[[int, int], torch.Tensor], rows: int, buffer: int, seed: int) -> int:
    """Read shuffled blocks into a buffer and give shuffled batches of it, as the loader does."""
    room = torch.empty(buffer, FEATURES)
    filled = given = 0
    for start in blocks_of(rows, seed):
        room[filled : filled + BLOCK] = read(start, start + BLOCK)
        filled += BLOCK
        if filled == buffer:
            order = torch.randperm(buffer)
            for first in range(0, buffer, BATCH):
                given += len(room.index_select(0, order[first : first + BATCH]))
            filled = 0
    return given


def mixed_by_halves(arrow: "datasets.Dataset", rows: int, buffer: int, seed: int) -> int:
    """Give batches of contexts in random order as SAELens does."""
    contexts = list(range(0, rows // CONTEXT, 2))
    random.Random(seed).shuffle(contexts)
    kept = torch.empty(0, FEATURES)
    step = buffer // 2 // CONTEXT // 2
    given = 0
    for at in range(0, len(contexts), step):
        read = [arrow[c : c + 2]["h"] for c in contexts[at : at + step]]
        kept = torch.cat([kept, torch.cat(read).reshape(-1, FEATURES)])
        kept = kept[torch.randperm(len(kept))]
        if len(kept) >= buffer:
            for first in range(0, buffer // 2, BATCH):
                given += len(kept[first : first + BATCH])
            kept = kept[buffer // 2 :]
    return given


def batches(rows: int, count: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randint(0, rows, (BATCH,), generator=generator)


def rounds_of(
    variants: dict[str, Callable[[int], int]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return seconds a row of each variant, on the wall and of all cores, a pair a round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    order = list(variants)
    warm_up = rounds > 1
    for round_ in range(rounds + warm_up):
        random.Random(round_).shuffle(order)
        for name in order:
            began = time.perf_counter(), time.process_time()
            rows = variants[name](round_)
            took = (time.perf_counter() - began[0]) / rows, (time.process_time() - began[1]) / rows
            if round_ >= warm_up:
                seconds[name].append(took)
    return seconds


def show(title: str, variants: dict[str, Callable[[int], int]], rounds: int) -> None:
    seconds = rounds_of(variants, rounds)
    ours = next(iter(seconds))
    print(f"\n{title}")
    print(f"{'reader':<40}{'MB/s':>6}  {'ratio':<22}{'MB per core s':>14}  ratio")
    for name, times in seconds.items():
        line = f"{name:<40}"
        for clock in (0, 1):
            rate = FEATURES * 4 / 1e6 / statistics.median(each[clock] for each in times)
            ratio = [b[clock] / a[clock] for a, b in zip(seconds[ours], times, strict=True)]
            shown = f"{statistics.median(ratio):.1f} ({min(ratio):.1f} to {max(ratio):.1f})"
            line += f"{rate:>6.0f}  {shown:<22}" if not clock else f"{rate:>14.0f}  {shown}"
        print(line)


def main(rounds: int, rows: int, buffer: int, counts: dict[str, int]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        run = fill(LocalStore(folder / "store"), rows)
        arrow = to_datasets(run, folder / "arrow", layers="h").select_columns("h")
        contexts = save_contexts(run, folder / "contexts")
        array: Any = zarr.open_array(
            folder / "store/runs/run/arrays/layers/h", mode="r", zarr_format=3
        )
        measure(run, arrow, contexts, array, rounds, rows, buffer, counts)
    finally:
        shutil.rmtree(folder)


def save_contexts(run: Run, folder: Path) -> "datasets.Dataset":
    """Keep the rows as SAELens does, in elements of `CONTEXT` rows."""
    shape = (CONTEXT, FEATURES)
    features = datasets.Features({"h": datasets.Array2D(shape, "float32")})
    parts = []
    for start in range(0, len(run), UNIT // 8):
        rows = run["h"].numpy(slice(start, start + UNIT // 8))
        parts.append(datasets.Dataset.from_dict({"h": rows.reshape(-1, *shape)}, features=features))
    datasets.disable_progress_bars()
    datasets.concatenate_datasets(parts).save_to_disk(folder)
    return datasets.load_from_disk(folder)


def measure(
    run: Run,
    arrow: "datasets.Dataset",
    contexts: "datasets.Dataset",
    array: Any,
    rounds: int,
    rows: int,
    buffer: int,
    counts: dict[str, int],
) -> None:
    in_numpy = arrow.with_format("numpy")
    in_torch = arrow.with_format("torch")
    one_block = torch.randn(BLOCK, FEATURES)

    def loader(seed: int) -> int:
        return sum(map(len, run.loader("h", BATCH, seed=seed, buffer_rows=buffer)))

    def by_datasets(seed: int) -> int:
        def read(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(in_numpy[start:stop]["h"])

        return mixed(read, rows, buffer, seed)

    def as_saelens(seed: int) -> int:
        return mixed_by_halves(contexts.with_format("torch"), rows, buffer, seed)

    def by_copies(seed: int) -> int:
        return mixed(lambda start, stop: one_block, rows, buffer, seed)

    def by_zarr(seed: int) -> int:
        def read(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(array[start:stop])

        return mixed(read, rows, buffer, seed)

    def iterable(seed: int) -> int:
        stream = in_torch.to_iterable_dataset(num_shards=rows // UNIT)
        stream = stream.shuffle(seed=seed, buffer_size=buffer)
        given = 0
        for batch in stream.iter(batch_size=BATCH):
            given += len(batch["h"])
            if given >= counts["shuffle"]:
                break
        return given

    def exact(seed: int) -> int:
        return sum(map(len, run.loader("h", BATCH, seed=seed, mixing="exact")))

    def exact_datasets(seed: int) -> int:
        count = counts["others"]
        return sum(len(in_numpy[some.numpy()]["h"]) for some in batches(rows, count, seed))

    def exact_contexts(seed: int) -> int:
        elements = contexts.with_format("numpy")
        given = 0
        for some in batches(rows, 1, seed):
            for part in torch.split(some[: BATCH // 16], 64):  # 64 contexts at a time, 25 MB
                read = elements[(part // CONTEXT).numpy()]["h"]
                given += len(read[range(len(part)), (part % CONTEXT).numpy()])
        return given

    def exact_zarr(seed: int) -> int:
        count = counts["others"]
        return sum(len(array.oindex[some.numpy()]) for some in batches(rows, count, seed))

    print_machine()
    print("ratio: how many times faster run.loader is, in the median of rounds (least to most)")
    show(
        f"Shuffled batches of {BATCH}: blocks of {BLOCK} rows mixed in a buffer of {buffer}",
        {
            "run.loader": loader,
            "zarr-python, same blocks and buffer": by_zarr,
            "datasets, same blocks and buffer": by_datasets,
            "datasets, as SAELens does": as_saelens,
            "datasets, its own shuffle buffer": iterable,
            "copies through the buffer alone": by_copies,
        },
        rounds,
    )
    show(
        f"Batches of {BATCH} rows, each from anywhere",
        {
            'run.loader, mixing="exact"': exact,
            "datasets, a row an element": exact_datasets,
            "datasets, contexts as SAELens keeps them": exact_contexts,
            "zarr-python, oindex": exact_zarr,
        },
        rounds,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(1, UNIT, 8192, {"shuffle": BATCH, "others": 1})
    else:
        main(4, 4 * UNIT, UNIT, {"shuffle": 2 * UNIT, "others": 4})
