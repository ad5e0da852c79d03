"""What does `run.search` cost, against reading every row and multiplying it in float32?

A run of rows of 768 in the zarr store, files in the page cache; the 100 highest rows along a random
direction. CPU time of all cores. The plain loop reads as large pieces, keeps the highest so far,
and is wrong where float32 is: it is what one would write, and proves nothing.

- alike: rows of one length, of which no chunk can be passed over.
- a few long: rows of one chunk in fifty are thirty times as long, as the first tokens of texts are.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from _rounds import measure, print_machine, print_table

from tenterhook_store import (
    NORM_CHUNK,
    NORM_ROWS,
    LayerArray,
    LocalStore,
    NormMeter,
    RowBlock,
    Run,
    RunPlan,
)

FEATURES = 768
UNIT = 16_384
PIECE = 2**22 // (4 * FEATURES)
K = 100


def fill(folder: Path, rows: int, dtype: torch.dtype, *, long: bool) -> Run:
    """Write a run of random rows."""
    store = LocalStore(folder)
    layer = LayerArray("h", FEATURES, str(dtype).removeprefix("torch."))
    plan = RunPlan(
        rows=rows,
        rows_per_unit=UNIT,
        documents=rows,
        layers=(layer,),
        about={NORM_ROWS: NORM_CHUNK},
    )
    writer = store.write_run("run", plan)
    generator = torch.Generator().manual_seed(0)
    for unit in plan.units():
        norms = NormMeter(plan, unit.rows)
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, 512):
                numbers = torch.arange(start, min(start + 512, unit.stop))
                values = torch.randn(len(numbers), FEATURES, generator=generator)
                if long and start // 512 % 50 == 0:
                    values *= 30
                found = {"h": values.to(dtype)}
                writing.append(
                    RowBlock(tokens=numbers, documents=numbers, positions=numbers * 0, layers=found)
                )
                norms.add(found)
            for name, bounds in norms.tensors().items():
                writing.keep(name, bounds)
            writing.commit({})
    writer.finish()
    return store.run("run")


def plain(run: Run, direction: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the highest rows, by products in float32."""
    rows, best, scores = run["h"], torch.empty(0, dtype=torch.long), torch.empty(0)
    for start in range(0, len(run), PIECE):
        products = rows[start : start + PIECE].float() @ direction
        scores = torch.cat([scores, products])
        best = torch.cat([best, torch.arange(start, start + len(products))])
        scores, kept = scores.topk(min(K, len(scores)))
        best = best[kept]
    return best


def main(rounds: int, rows: int) -> None:
    torch.manual_seed(1)
    direction = torch.randn(FEATURES)
    print_machine()
    for dtype in (torch.float32, torch.bfloat16):
        folder = Path(tempfile.mkdtemp())
        try:
            alike = fill(folder / "alike", rows, dtype, long=False)
            few = fill(folder / "few", rows, dtype, long=True)
            variants = {
                "every row, a plain loop": lambda run=alike: plain(run, direction),
                "search, rows alike": lambda run=alike: run.search(direction, K, layer="h"),
                "search by cosine": lambda run=alike: run.search(direction, K, by="cosine"),
                "search, a few long rows": lambda run=few: run.search(direction, K),
            }
            times = measure(variants, rounds=rounds, calls=1)
            base = "every row, a plain loop"
            size = rows * FEATURES * dtype.itemsize / 1e9
            print_table(
                f"The {K} highest of {rows:,} rows of {dtype}, {size:.2f} GB",
                times,
                dict.fromkeys(variants, base),
                unit="s a GB",
                scale=1 / size,
            )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(1, UNIT)
    else:
        main(8, 8 * UNIT)
