"""How long does it take to look at a run of very many units, and at a store of very many runs?

Runs of one small layer; the records of all units but the first are links to its own, which readers
of names alone do not mind. CPU time in this process, the median of a few looks: opening a run, and
saying how far it is, which reads the records that were written last. The time of the command
`tenterhook runs status` is wall-clock time of a process of its own, imports included. Ratios are
the time for each unit, or run, over that of the smallest of the table: above 1 it grows faster
than what is looked at. `--whole` has a store of 10,000 runs too, which takes minutes to make.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _rounds import print_machine

from tenterhook_capture import run_status
from tenterhook_store import LayerArray, LocalStore, RowBlock, RunPlan

LOOKS = 5
STARTED = "2026-01-01T00:00:00+00:00"
COMMAND = "import sys; from tenterhook_cli import main; main(['runs', 'status', sys.argv[1]])"
LINKS = 50_000
"""How many names a file may have is limited, on ext4 to 65,000."""


def begin(folder: Path, units: int) -> None:
    """Make a run of which the first unit is there."""
    plan = RunPlan(
        rows=units, rows_per_unit=1, documents=1, layers=(LayerArray("x", 4, "float32"),)
    )
    writer = LocalStore(folder).write_run("r0", plan)
    one = torch.zeros(1)
    block = RowBlock(
        layers={"x": torch.zeros(1, 4)},
        tokens=one.int(),
        documents=one.long(),
        positions=one.int(),
    )
    with writer.open_unit(plan.unit(0)) as unit:
        unit.append(block)
        unit.commit({"unit": 0, "rows": 1, "start": STARTED, "end": STARTED})


def fill(folder: Path, units: int) -> None:
    """Have the records of all units be there."""
    for kind in ("commits", "log"):
        source = folder / "runs" / "r0" / kind / "000000.json"
        for number in range(1, units):
            target = source.with_name(f"{number:06}.json")
            if number % LINKS:
                os.link(source, target)
            else:
                source = Path(shutil.copy(source, target))


def seconds(look: Callable[[], object]) -> float:
    """Return the median CPU time."""
    times = []
    for _ in range(LOOKS):
        began = time.process_time()
        look()
        times.append(time.process_time() - began)
    return statistics.median(times)


def of_units(sizes: list[int]) -> None:
    """Print what a run of so many units costs."""
    print(f"{'units':>10}{'opened, s':>12}{'status, s':>12}{'ratio':>8}{'command, s (wall)':>20}")
    first = 0.0
    for units in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            begin(folder, units)
            fill(folder, units)
            store = LocalStore(folder)
            opened = seconds(lambda store=store: store.run("r0"))  # type: ignore[misc]
            run = store.run("r0")
            status = seconds(lambda run=run: run_status(run))  # type: ignore[misc]
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", COMMAND, place], check=True, stdout=subprocess.DEVNULL
            )
            command = time.perf_counter() - began
        first = first or (opened + status) / units
        ratio = (opened + status) / units / first
        print(f"{units:>10,}{opened:>12.4f}{status:>12.4f}{ratio:>8.2f}{command:>20.2f}")


def of_runs(sizes: list[int]) -> None:
    """Print what a store of so many runs, and as many tensors, costs."""
    print(f"\n{'runs':>10}{'list, ms each':>16}{'verify, ms each':>18}{'save_tensor, ms':>18}")
    for runs in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            begin(folder, 1)
            store = LocalStore(folder)
            store.save_tensor("t0", torch.zeros(3))
            for number in range(1, runs):
                for kind, name in (("runs", "r"), ("tensors", "t")):
                    first, copy = folder / kind / f"{name}0", folder / kind / f"{name}{number}"
                    shutil.copytree(first, copy, copy_function=os.link)
            each = seconds(lambda store=store: [store.run(name) for name in store.runs()])  # type: ignore[misc]
            some = store.runs()[:50]
            checked = seconds(lambda some=some, store=store: [*map(store.verify_run, some)])  # type: ignore[misc]
            saved = seconds(lambda store=store: store.save_tensor("t0", torch.zeros(3)))  # type: ignore[misc]
        print(
            f"{runs:>10,}{each / runs * 1e3:>16.3f}{checked / len(some) * 1e3:>18.3f}"
            f"{saved * 1e3:>18.2f}"
        )


def main() -> None:
    print_machine()
    quick, whole = "--quick" in sys.argv, "--whole" in sys.argv
    of_units([10, 100] if quick else [1_000, 10_000, 100_000])
    of_runs([5, 10] if quick else [10, 1_000, 10_000] if whole else [10, 1_000])


if __name__ == "__main__":
    main()
