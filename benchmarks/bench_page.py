"""What does a page of 10,000 tokens and 8 layers cost, and does it matter how large its run is?

Runs of 8 layers of 768 in the zarr store, files in the page cache: one of 10,000 rows, and one of
many more, of which the page shows the first 10,000. CPU time of all cores, against a loop that
reads the same rows and takes their norms, and writes nothing. Beside it the bytes of the page, at
most 2 MB, and by how much memory grows at its highest, at most 300 MB.
"""

import resource
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from _rounds import measure, print_machine, print_table

from tenterhook_store import LayerArray, LocalStore, RowBlock, Run, RunPlan
from tenterhook_view import page

LAYERS = [f"blocks.{number}" for number in range(8)]
FEATURES = 768
SHOWN = 10_000
EACH = 500
"""Tokens of a document."""


class Words:
    """Gives each id a word of five letters."""

    def decode(self, ids: list[int]) -> str:
        """Return the words."""
        return "".join(f" w{number % 1000:03}" for number in ids)


def fill(folder: Path, rows: int) -> Run:
    """Write a run of random rows, the same thousand again and again."""
    store = LocalStore(folder)
    plan = RunPlan(
        rows=rows,
        rows_per_unit=10_000,
        documents=-(-rows // EACH),
        layers=tuple(LayerArray(name, FEATURES, "bfloat16") for name in LAYERS),
    )
    writer = store.write_run("run", plan)
    values = torch.randn(1000, FEATURES, generator=torch.Generator().manual_seed(0)).bfloat16()
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, len(values)):
                numbers = torch.arange(start, min(start + len(values), unit.stop))
                writing.append(
                    RowBlock(
                        tokens=numbers,
                        documents=numbers // EACH,
                        positions=numbers % EACH,
                        layers=dict.fromkeys(LAYERS, values[: len(numbers)]),
                    )
                )
            writing.commit({})
    writer.finish()
    return store.run("run")


def norms(run: Run) -> None:
    """Read what the page shows, in blocks."""
    for name in LAYERS:
        for start in range(0, SHOWN, 1000):
            torch.linalg.vector_norm(run[name][start : start + 1000].float(), dim=1)


def highest() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main(rounds: int, rows: int) -> None:
    print_machine()
    folder = Path(tempfile.mkdtemp())
    try:
        small, large = fill(folder / "small", SHOWN), fill(folder / "large", rows)
        norms(small)
        before = highest()
        made = str(page(large, tokenizer=Words()))
        size = rows * len(LAYERS) * FEATURES * 2 / 1e9
        print(f"of a run of {size:.2f} GB: a page of {len(made.encode()) / 1e6:.2f} MB")
        print(f"memory at its highest: {highest() - before:.0f} MB more than before")
        variants = {
            "its rows read, their norms": lambda: norms(small),
            "page of the run of 10,000 rows": lambda: str(page(small, tokenizer=Words())),
            "page of the large run": lambda: str(page(large, tokenizer=Words())),
        }
        times = measure(variants, rounds=rounds, calls=1)
        title = f"A page of {SHOWN:,} tokens and {len(LAYERS)} layers"
        base = "its rows read, their norms"
        print_table(title, times, dict.fromkeys(variants, base), unit="s", scale=1)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if "--quick" in sys.argv:
        main(1, 2 * SHOWN)
    else:
        main(8, 16 * SHOWN)
