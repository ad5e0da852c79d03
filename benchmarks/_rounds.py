"""How every benchmark measures: variants interleaved in random order, ratios within a round.

On a shared machine absolute times mean nothing; the ratio of two variants of one round does.
"""

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Variant = Callable[[], object]


def measure(
    variants: Mapping[str, Variant], *, rounds: int, calls: int, seed: int = 0
) -> dict[str, list[float]]:
    """Return the CPU seconds per call of each variant, one figure a round.

    Each round runs every variant `calls` times, in random order, after one warm-up round.
    """
    order = list(variants)
    shuffle = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        shuffle.shuffle(order)
        for name in order:
            run = variants[name]
            began = time.process_time()
            for _ in range(calls):
                run()
            if round_:
                times[name].append((time.process_time() - began) / calls)
    return times


def ratios(times: Mapping[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Return the median and the quartiles of `name` over `base`, round by round."""
    per_round = [a / b for a, b in zip(times[name], times[base], strict=True)]
    low, median, high = (
        statistics.quantiles(per_round, n=4) if len(per_round) > 1 else per_round * 3
    )
    return median, low, high


def print_table(
    title: str,
    times: Mapping[str, list[float]],
    rows: Mapping[str, str],
    *,
    per: int = 1,
    unit: str = "us a call",
    scale: float = 1e6,
) -> None:
    """Print each variant of `rows` against the baseline that `rows` maps it to."""
    print(f"\n{title}")
    print(f"{'variant':<44}{unit:>12}  {'ratio':>6}  {'quartiles':<14}baseline")
    for name, base in rows.items():
        cost = statistics.median(times[name]) / per * scale
        median, low, high = ratios(times, name, base)
        print(f"{name:<44}{cost:>12.2f}  {median:>6.3f}  {low:.3f} to {high:.3f}  {base}")


def print_machine() -> None:
    """Print what the figures were measured on."""
    print(
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s)"
    )
