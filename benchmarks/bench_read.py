"""How fast are training batches read from a store, against Hugging Face `datasets` and zarr-python?

One run of fp32 rows of 768 (0.4 GB), kept once by the zarr store and once by `datasets` as an
arrow file on the same disk; batches of 4,096 rows, all in this process, rounds interleaved.

Shuffled: random blocks of 256 rows, mixed in a buffer of 32,768 rows. `run.loader` does it; for
`datasets` and zarr-python the same blocks are read one after the other, which is all they offer,
and mixed in the same buffer by a plain copy of what we do. Beside them the shuffling that
`datasets` itself has, `to_iterable_dataset().shuffle(buffer_size=...)`, with a buffer of as many
rows; it gives half as many rows, because it is slow.

Exact: batches of 4,096 rows at random from anywhere in the run. `run.loader(mixing="exact")`
against `dataset[rows]` of `datasets` in its numpy format, which is its fastest, and zarr's
`oindex`.

Files are in the page cache, where all three are at their best. Wall-clock time, and beside it the
time of all processor cores, which is steadier where others work on the machine.
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

import datasets
import torch
import zarr
from _rounds import print_machine

from tenterhook.store import LayerArray, LocalStore, RowBlock, Run, RunPlan, Store, to_datasets

FEATURES = 768
BATCH = 4096
BLOCK = 256
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
    for round_ in range(rounds + 1):
        random.Random(round_).shuffle(order)
        for name in order:
            began = time.perf_counter(), time.process_time()
            rows = variants[name](round_)
            took = (time.perf_counter() - began[0]) / rows, (time.process_time() - began[1]) / rows
            if round_:
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
        array: Any = zarr.open_array(
            folder / "store/runs/run/arrays/layers/h", mode="r", zarr_format=3
        )
        measure(run, arrow, array, rounds, rows, buffer, counts)
    finally:
        shutil.rmtree(folder)


def measure(
    run: Run,
    arrow: "datasets.Dataset",
    array: Any,
    rounds: int,
    rows: int,
    buffer: int,
    counts: dict[str, int],
) -> None:
    in_numpy = arrow.with_format("numpy")
    in_torch = arrow.with_format("torch")

    def loader(seed: int) -> int:
        return sum(map(len, run.loader("h", BATCH, seed=seed, buffer_rows=buffer)))

    def by_datasets(seed: int) -> int:
        def read(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(in_numpy[start:stop]["h"])

        return mixed(read, rows, buffer, seed)

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
        given = 0
        for number, batch in enumerate(run.loader("h", BATCH, seed=seed, mixing="exact"), 1):
            given += len(batch)
            if number == counts["exact"]:
                break
        return given

    def exact_datasets(seed: int) -> int:
        count = counts["others"]
        return sum(len(in_numpy[some.numpy()]["h"]) for some in batches(rows, count, seed))

    def exact_zarr(seed: int) -> int:
        count = counts["others"]
        return sum(len(array.oindex[some.numpy()]) for some in batches(rows, count, seed))

    print_machine()
    print("ratio: how many times faster run.loader is, in the median of rounds (least to most)")
    show(
        f"Shuffled batches of {BATCH}: blocks of {BLOCK} rows mixed in a buffer of {buffer}",
        {
            "run.loader": loader,
            "datasets, same blocks and buffer": by_datasets,
            "zarr-python, same blocks and buffer": by_zarr,
            "datasets, its own shuffle buffer": iterable,
        },
        rounds,
    )
    show(
        f"Batches of {BATCH} rows, each from anywhere",
        {
            'run.loader, mixing="exact"': exact,
            "datasets": exact_datasets,
            "zarr-python, oindex": exact_zarr,
        },
        rounds,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(1, 2 * UNIT, 8192, {"shuffle": BATCH, "exact": 4, "others": 1})
    else:
        main(5, 4 * UNIT, UNIT, {"shuffle": 2 * UNIT, "exact": 16, "others": 4})
