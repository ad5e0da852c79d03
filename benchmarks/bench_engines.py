"""What does an engine cost over `local`, and how much faster are two workers than one?

A GPT-2 of 124M parameters with random weights, from its configuration, reads parts of the sample of
`tiny:`; a layer in the middle is kept, in units that take a second or more, fp32, on the CPU, each
worker with one thread. Baseline: the engine `local`, one thread. Against it one worker of every
other engine, whose units may take 5 % longer; and two workers against one of the same engine, which
should be 1.6 times as fast on two cores.

"Rate" is from the beginning of the first unit to the end of the last, as the store notes them: all
but what is done once, whose seconds are "before" (interpreters, weights, tokens, the plan). Rounds
are interleaved in random order, and ratios are within a round. With `--engine ray` the engine `ray`
is timed too, where it is installed. Four rounds take some three minutes on two idle cores.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, here and in the workers

import attrs
import torch
from _rounds import print_machine
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook_tiny
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_capture.engine import make_engine
from tenterhook_capture.loading import load_model
from tenterhook_store import LocalStore

LAYER = "layer_6"


@attrs.frozen
class Variant:
    """An engine with so many workers."""

    engine: str
    workers: int = 1

    def __str__(self) -> str:
        return f"{self.engine}, {self.workers}"


@attrs.frozen
class Timed:
    """One capture."""

    before: float
    """Seconds from the call to the first unit."""
    rate: float
    """Rows a second, from the beginning of the first unit to the end of the last."""
    unit: float
    """Seconds of a unit, the median."""


def prepare(folder: Path, documents: int, config: GPT2Config) -> tuple[str, str]:
    """Write the model and the texts, which every worker reads by name; return the names."""
    torch.manual_seed(0)
    tiny = tenterhook_tiny.load("")
    model = GPT2LMHeadModel(config).eval()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder / "model")
    tiny.tokenizer.save_pretrained(folder / "model")
    texts = list(tenterhook_tiny.read("sample").texts)
    lines = [json.dumps({"text": texts[at % len(texts)]}) for at in range(documents)]
    file = folder / "texts.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(folder / "model"), str(file)


def timed(variant: Variant, model: str, data: str, rows_per_unit: int) -> Timed:
    """Capture into a new store."""
    settings = {} if variant.engine == "local" else {"workers": variant.workers}
    engine = make_engine(variant.engine, **settings)
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(str(Path(folder) / "store"))
        began = time.time()
        run_id = save_activations(
            load_model(model, device="cpu"),
            LAYER,
            read_documents(data, field="text"),
            store,
            engine=engine,
            batch_size=4,
            rows_per_unit=rows_per_unit,
        )
        run = store.run(run_id)
        units = run.metadata["units"]
        starts = [datetime.fromisoformat(each["start"]).timestamp() for each in units]
        ends = [datetime.fromisoformat(each["end"]).timestamp() for each in units]
        return Timed(
            before=min(starts) - began,
            rate=run.plan.rows / (max(ends) - min(starts)),
            unit=statistics.median(b - a for a, b in zip(starts, ends, strict=True)),
        )


def main(
    variants: list[Variant], *, rounds: int, documents: int, rows_per_unit: int, config: GPT2Config
) -> None:
    print_machine()
    shuffle = random.Random(0)
    times: dict[Variant, list[Timed]] = {each: [] for each in variants}
    with tempfile.TemporaryDirectory() as folder:
        model, data = prepare(Path(folder), documents, config)
        for _ in range(rounds):
            shuffle.shuffle(variants)
            for each in variants:
                times[each].append(timed(each, model, data, rows_per_unit))
    print(f"\n{'engine, workers':<18}{'rows/s':>8}{'a unit':>9}{'before':>9}")
    for each, found in times.items():
        rate, unit, before = (
            statistics.median(getattr(one, name) for one in found)
            for name in ("rate", "unit", "before")
        )
        print(f"{each!s:<18}{rate:>8.0f}{unit:>8.2f}s{before:>8.1f}s")
    print("\nratio of the rates, median (range)")
    for each in times:
        base = Variant("local") if each.workers == 1 else Variant(each.engine)
        if each != base:
            print(f"{each!s:<18}{ratio(times[each], times[base]):<24}as {base}")


def ratio(times: list[Timed], base: list[Timed]) -> str:
    found = sorted(a.rate / b.rate for a, b in zip(times, base, strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=4, help="more take longer: 50 s each")
    parser.add_argument("--engine", action="append", default=["processes"])
    words = parser.parse_args()
    torch.set_num_threads(1)
    others = [Variant(name, count) for name in words.engine for count in (1, 2)]
    if words.quick:
        small = GPT2Config(n_layer=7, n_embd=32, n_head=2)
        main(
            [Variant("local"), *others[:2]], rounds=1, documents=6, rows_per_unit=200, config=small
        )
    else:
        whole = GPT2Config()
        main(
            [Variant("local"), *others],
            rounds=words.rounds,
            documents=48,
            rows_per_unit=800,
            config=whole,
        )
