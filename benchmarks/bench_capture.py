"""How many tokens a second does a capture into a store make, against the plain forward?

Three layers, the last block's among them, of `tiny:` and of a GPT-2 of 124M parameters with random
weights, over part of the sample of `tiny:`; batches of 8 documents, fp32, on the CPU, into a store
on the local disk. Two baselines: the same forwards with nothing hooked and nothing kept, whole
(with the logits, which a capture leaves out), and ended after the last block. "All" is the whole
call: weights hashed, texts tokenized, run planned; "units" the part that grows with the data,
commits and their fsync included. There are several thousand tokens, so that what is done once
weighs little. Rounds are interleaved. CPU seconds are steadier than the clock on a machine that
others use, and leave the disk out.

Then passages of real lengths, parts of the sample of 1 to 256 tokens: a capture as it is by default
against what people write, a loop over batches of 32 in their order with `output_hidden_states=True`
whose rows of the same layers are kept without padding, in memory. Beside the ratio of the times,
how many tokens each computes for one that is kept: these do not depend on the machine, but for the
budget that is chosen for it.

`--profile` prints where a capture of `tiny:` spends its time.
"""

import cProfile
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from _rounds import print_machine
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook_tiny
from tenterhook_capture import Progress, save_activations
from tenterhook_store import LocalStore
from tenterhook_transformers import LanguageModel

BATCH = 8
LOOP_BATCH = 32
GPT2 = "GPT-2 124M"
"""Documents in a batch of the plain loop over passages."""


@attrs.frozen
class Case:
    """A model and the documents that it reads."""

    name: str
    model: LanguageModel
    texts: list[str]

    @property
    def layers(self) -> list[str]:
        """The first block, the middle one and the last."""
        blocks = self.model.layers.index.blocks()
        return [blocks[0], blocks[len(blocks) // 2], blocks[-1]]

    def plain(self, ids: list[list[int]]) -> None:
        """Run whole forwards."""
        for at in range(0, len(ids), BATCH):
            self.model.run_token_ids(ids[at : at + BATCH])

    def as_far(self, ids: list[list[int]]) -> None:
        """Run forwards to the end of the last block."""
        for at in range(0, len(ids), BATCH):
            with self.model.capture(stop_after=self.layers[-1], missing="ignore"):
                self.model.run_token_ids(ids[at : at + BATCH])

    def capture(self) -> tuple[float, float]:
        """Capture into a new store; return the seconds from when its first unit began."""
        began: list[tuple[float, float]] = []

        def note(_: Progress) -> None:
            if not began:
                began.append((time.perf_counter(), time.process_time()))

        with tempfile.TemporaryDirectory() as folder:
            store = LocalStore(Path(folder) / "store")
            settings: dict[str, Any] = {"batch_size": BATCH, "progress": note}
            save_activations(self.model, self.layers, self.texts, store, **settings)
            ((clock, cpu),) = began
            return time.perf_counter() - clock, time.process_time() - cpu

    def save(self) -> int:
        """Capture into a new store as it is by default; return how many tokens were computed."""
        with tempfile.TemporaryDirectory() as folder:
            store = LocalStore(Path(folder) / "store")
            run = store.run(save_activations(self.model, self.layers, self.texts, store))
            return sum(unit["tokens_computed"] for unit in run.metadata["units"])


def cases(documents: dict[str, int]) -> list[Case]:
    tiny = tenterhook_tiny.load("")
    texts = list(tenterhook_tiny.read("sample").texts)
    models = {"tiny:": tiny}
    if GPT2 in documents:
        torch.manual_seed(0)
        gpt2: nn.Module = GPT2LMHeadModel(GPT2Config()).eval()  # type: ignore[no-untyped-call]
        models[GPT2] = LanguageModel(gpt2, tiny.tokenizer, model_id="gpt2-124m")
    return [Case(name, models[name], texts[:count]) for name, count in documents.items()]


def passages(model: LanguageModel, count: int) -> list[str]:
    """Return parts of the sample, of 1 to 256 tokens each, in no order."""
    numbers = random.Random(0)
    ids = [
        each for text in tenterhook_tiny.read("sample").texts for each in model.token_ids([text])
    ]
    found = []
    for at in range(count):
        document = ids[at % len(ids)]
        length = min(numbers.randint(1, 256), len(document))
        start = numbers.randint(0, len(document) - length)
        words = document[start : start + length]
        found.append(model.tokenizer.decode(words, skip_special_tokens=True))
    return [text for text in found if model.token_ids([text])[0]]


def by_hidden_states(case: Case) -> int:
    """Keep the rows of the case's layers as people do; return how many tokens were computed."""
    blocks = case.model.layers.index.blocks()
    numbers = [blocks.index(layer) + 1 for layer in case.layers]
    ids = case.model.token_ids(case.texts)
    kept: list[list[torch.Tensor]] = []
    computed = 0
    for at in range(0, len(ids), LOOP_BATCH):
        batch = ids[at : at + LOOP_BATCH]
        longest = max(map(len, batch))
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in batch])
        padded = torch.tensor([each + [0] * (longest - len(each)) for each in batch])
        with torch.no_grad():
            states = case.model.module(padded, attention_mask=mask, output_hidden_states=True)
        kept.append([states.hidden_states[number][mask.bool()] for number in numbers])
        computed += padded.numel()
    return computed


def ragged(rounds: int, counts: dict[str, int]) -> None:
    """Compare a capture of passages, as it is by default, with the loop."""
    print(f"\npassages of 1 to 256 tokens, against a loop over batches of {LOOP_BATCH}\n")
    print(
        f"{'model':<11}{'tokens':>7}  {'computed for each kept, loop and capture':<42}"
        f"{'times as fast, clock':<23}CPU seconds"
    )
    for case in cases(dict.fromkeys(counts, 1)):
        case = attrs.evolve(case, texts=passages(case.model, counts[case.name]))
        tokens = sum(map(len, case.model.token_ids(case.texts)))
        attrs.evolve(case, texts=case.texts[:LOOP_BATCH]).save()  # warms up
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        computed: list[tuple[int, int]] = []
        for _ in range(rounds):
            noted: list[int] = []
            loop = seconds(lambda: noted.append(by_hidden_states(case)))  # noqa: B023
            capture = seconds(lambda: noted.append(case.save()))  # noqa: B023
            pairs.append((loop, capture))
            computed.append((noted[0], noted[1]))
        each = " and ".join(f"{number / tokens:.2f}" for number in computed[0])
        ratios = [show([(loop[at], capture[at]) for loop, capture in pairs]) for at in (0, 1)]
        print(f"{case.name:<11}{tokens:>7}  {each:<42}{ratios[0]:<23}{ratios[1]}", flush=True)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that it takes, of the clock and of the processor."""
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - cpu


def show(pairs: list[tuple[float, float]]) -> str:
    ratios = sorted(base / kept for base, kept in pairs)
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def main(rounds: int, documents: dict[str, int]) -> None:
    print_machine()
    print("\nratio: tokens a second of the capture over those of the baseline, median (range)\n")
    print(
        f"{'model':<11}{'tokens':>7}  {'baseline':<18}{'tok/s':>7}  "
        f"{'all':<23}{'units':<23}{'all, CPU seconds':<23}"
        "units, CPU seconds"
    )
    for case in cases(documents):
        ids = case.model.token_ids(case.texts)
        rows: list[dict[str, tuple[float, float]]] = []
        attrs.evolve(case, texts=case.texts[:BATCH]).capture()  # warms up
        case.plain(ids[:BATCH])
        for _ in range(rounds):
            units: list[tuple[float, float]] = []
            row = {
                "whole forward": seconds(lambda: case.plain(ids)),  # noqa: B023
                "to the last block": seconds(lambda: case.as_far(ids)),  # noqa: B023
                "capture": seconds(lambda: units.append(case.capture())),  # noqa: B023
            }
            row["units"] = units[0]
            rows.append(row)
        tokens = sum(map(len, ids))
        for name in ("whole forward", "to the last block"):
            rate = tokens / statistics.median(row[name][0] for row in rows)
            ratios = [
                show([(row[name][at], row[kept][at]) for row in rows])
                for kept, at in (("capture", 0), ("units", 0), ("capture", 1), ("units", 1))
            ]
            print(
                f"{case.name:<11}{tokens:>7}  {name:<18}{rate:>7.0f}  "
                + "".join(f"{ratio:<23}" for ratio in ratios).rstrip(),
                flush=True,
            )


def profile(documents: int) -> None:
    (case,) = cases({"tiny:": documents})
    case.capture()
    with cProfile.Profile() as watch:
        case.capture()
    pstats.Stats(watch).sort_stats("cumulative").print_stats(r"tenterhook|fsync|forward", 40)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    if "--profile" in sys.argv:
        profile(16 if quick else 400)
    elif quick:
        main(rounds=1, documents={"tiny:": 16})
        ragged(rounds=1, counts={"tiny:": 40})
    else:
        main(rounds=3, documents={"tiny:": 300, GPT2: 24})
        ragged(rounds=3, counts={"tiny:": 600, GPT2: 60})
