"""How fast are rows written into a store, against the same bytes written to one file?

One layer of 768 features, fp32, in batches of 1024 rows (8 documents of 128 tokens) as a model
hands them out, from memory until they are durable: fsync is counted, and so are beginning the run
and the commit of each unit of 32,768 rows. The baseline is a plain sequential write of the same
bytes with one fsync; it stands in the table a second time, which is the noise of the disk. Beside
the zarr store stand: zarr-python handed whole shards; one safetensors file per batch; the same
with garbage collected twice after each, as Mi-Crow does; Hugging Face `datasets`, handed buffers
of batches as SAELens does, and its writer of Arrow files alone. Files are made durable by each.

Wall-clock time, rounds interleaved in random order; each way writes to a folder of its own, which
is removed at once. Ratios are those of one round, and every round counts. CPU time is that of the
process, and steadier than a disk. It needs three times the bytes of a round of free disk
(`--megabytes`, 192 unless said, which is two units), takes less where there is less, and ends
within 90 seconds. `--folder` says on which disk, this folder's unless said.
"""

import argparse
import gc
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _rounds import print_machine

from tenterhook_store import LayerArray, LocalStore, RowBlock, RunPlan

FEATURES, BATCH, PER_UNIT = 768, 1024, 32_768
ROUNDS = 40
SECONDS = 75.0
"""When no new round begins, unless the longest so far says sooner."""

Batches = list[torch.Tensor]


def sync(path: Path) -> None:
    """Make a file that was written durable."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Make all files in a folder durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def plain(folder: Path, batches: Batches) -> None:
    with (folder / "rows").open("wb", buffering=0) as file:
        for batch in batches:
            left = batch.numpy().data.cast("B")
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())


def store(folder: Path, batches: Batches) -> None:
    rows = BATCH * len(batches)
    layers = [LayerArray("h", FEATURES, "float32")]
    plan = RunPlan(rows=rows, rows_per_unit=PER_UNIT, documents=rows // 128, layers=layers)
    writer = LocalStore(folder / "store").write_run("run", plan)
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, BATCH):
                numbers = torch.arange(start, start + BATCH)
                writing.append(
                    RowBlock(
                        tokens=numbers,
                        documents=numbers // 128,
                        positions=numbers % 128,
                        layers={"h": batches[start // BATCH]},
                    )
                )
            writing.commit({})
    writer.finish()


def safetensors_files(folder: Path, batches: Batches, *, collect: bool = False) -> None:
    from safetensors.torch import save_file

    for number, batch in enumerate(batches):
        path = folder / f"batch_{number}.safetensors"
        save_file({"activations": batch}, path)
        sync(path)
        if collect:
            gc.collect()
            gc.collect()


def mi_crow(folder: Path, batches: Batches) -> None:
    safetensors_files(folder, batches, collect=True)


def datasets_arrow(folder: Path, batches: Batches) -> None:
    from datasets import Array2D, Features  # type: ignore[import-untyped]
    from datasets.arrow_writer import ArrowWriter  # type: ignore[import-untyped]

    path = folder / "data.arrow"
    features = Features({"h": Array2D(shape=(128, FEATURES), dtype="float32")})
    writer = ArrowWriter(features=features, path=str(path))
    for batch in batches:
        writer.write_batch({"h": batch.numpy().reshape(-1, 128, FEATURES)})
    writer.finalize()
    sync(path)


def datasets_buffers(folder: Path, batches: Batches) -> None:
    from datasets import Array2D, Dataset, Features, disable_progress_bars

    disable_progress_bars()
    features = Features({"h": Array2D(shape=(128, FEATURES), dtype="float32")})
    for at in range(0, len(batches), 8):
        rows = torch.cat(batches[at : at + 8]).reshape(-1, 128, FEATURES)
        dataset = Dataset.from_dict({"h": rows}, features=features)
        dataset.save_to_disk(folder / f"shard_{at}", num_shards=1)
    sync_all(folder)


def zarr_shards(folder: Path, batches: Batches) -> None:
    import zarr

    rows = BATCH * len(batches)
    array = zarr.create_array(
        store=str(folder / "array"),
        shape=(rows, FEATURES),
        chunks=(256, FEATURES),
        shards=(PER_UNIT, FEATURES),
        dtype="float32",
        compressors=None,
        config={"write_empty_chunks": True},
    )
    held = np.empty((PER_UNIT, FEATURES), dtype="float32")
    per_shard = PER_UNIT // BATCH
    for at in range(0, len(batches), per_shard):
        some = batches[at : at + per_shard]
        for number, batch in enumerate(some):
            held[number * BATCH : (number + 1) * BATCH] = batch.numpy()
        array[at * BATCH : (at + len(some)) * BATCH] = held[: len(some) * BATCH]
    sync_all(folder)


WAYS: dict[str, tuple[Callable[[Path, Batches], None], int]] = {
    "one plain file": (plain, 1),
    "one plain file, again": (plain, 1),
    "tenterhook, zarr store": (store, 1),
    "zarr-python, whole shards": (zarr_shards, 1),
    "safetensors, a file a batch": (safetensors_files, 4),
    "the same, as Mi-Crow does": (mi_crow, 32),
    "datasets, its Arrow writer": (datasets_arrow, 4),
    "datasets, as SAELens does": (datasets_buffers, 8),
}
"""Each way, and how many times fewer batches it is given, because it is slow."""

BASE = next(iter(WAYS))
Costs = dict[str, list[tuple[float, float]]]


def run(root: Path, count: int, rounds: int) -> Costs:
    """Return what every way took, seconds and CPU seconds a byte, by round.

    The ways are in random order in each round; the first round warms up.
    """
    random_ = torch.Generator().manual_seed(0)
    batches = [torch.randn(BATCH, FEATURES, generator=random_) for _ in range(count)]
    costs: Costs = {name: [] for name in WAYS}
    order, shuffle = list(WAYS), random.Random(0)
    began, longest = time.monotonic(), 0.0
    for round_ in range(rounds + 1):
        start = time.monotonic()
        if round_ > 1 and start - began + longest > SECONDS:
            break
        shuffle.shuffle(order)
        for name in order:
            write, fewer = WAYS[name]
            some = batches[: max(1, len(batches) // fewer)]
            taken, worked = timed(root / "here", write, some)
            if round_:
                size = len(some) * BATCH * FEATURES * 4
                costs[name].append((taken / size, worked / size))
        longest = max(longest, time.monotonic() - start)
    return costs


def timed(
    folder: Path, write: Callable[[Path, Batches], None], batches: Batches
) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of writing to a new folder."""
    if hasattr(os, "sync"):
        os.sync()  # what was removed last is not for this one to wait for
    folder.mkdir()
    before, worked = time.perf_counter(), time.process_time()
    write(folder, batches)
    found = time.perf_counter() - before, time.process_time() - worked
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--megabytes", type=int, default=192)
    parser.add_argument("--folder", default=".")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=asked.folder))
    try:
        free = shutil.disk_usage(root).free // 2**20
        megabytes = min(6 if asked.quick else asked.megabytes, free // 3)
        count = megabytes * 2**20 // (BATCH * FEATURES * 4)
        if not count:
            sys.exit(f"The disk has {free} MiB free, which is too little.")
        print_machine()
        costs = run(root, count, 1 if asked.quick else ROUNDS)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    size = count * BATCH * FEATURES * 4 / 1e6
    print(f"\n{size:,.0f} MB a round, {len(costs[BASE])} rounds")
    print(f"{'way':<30}{'MB/s':>8}{'CPU s/GB':>10}  {'ratio':>6}  quartiles")
    for name, found in costs.items():
        ratio = [base[0] / each[0] for base, each in zip(costs[BASE], found, strict=True)]
        low, middle, high = statistics.quantiles(ratio, n=4) if len(ratio) > 1 else ratio * 3
        rate = 1e-6 / statistics.median(taken for taken, _ in found)
        worked = 1e9 * statistics.median(worked for _, worked in found)
        print(f"{name:<30}{rate:>8,.0f}{worked:>10.2f}  {middle:>6.2f}  {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
