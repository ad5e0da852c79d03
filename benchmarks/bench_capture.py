"""How many tokens a second does a capture into a store make, against the plain forward?

Three layers of `tiny:` over part of its sample, and of a GPT-2 of 124M parameters with random
weights over the same text; batches of 8 documents, fp32, one store on the local disk.
Baseline: the same forwards through the same padding, nothing hooked and nothing kept.
Wall-clock time, rounds interleaved: writing and its fsync count.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _rounds import print_machine
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook_tiny
from tenterhook.capture import save_activations
from tenterhook.store import LocalStore
from tenterhook_transformers import LanguageModel

BATCH = 8


def gpt2_124m(tokenizer: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(GPT2LMHeadModel(GPT2Config()).eval(), tokenizer, model_id="gpt2-124m")


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main(rounds: int, documents: dict[str, int]) -> None:
    tiny = tenterhook_tiny.load("")
    texts = tenterhook_tiny.read("sample").texts
    models = {"tiny:": tiny, "GPT-2 124M": gpt2_124m(tiny.tokenizer)}
    print_machine()
    print(f"\n{'model':<12}{'tokens':>8}{'plain tok/s':>13}{'capture tok/s':>15}  ratio  range")
    for name, model in models.items():
        some = texts[: documents[name]]
        ids = model.token_ids(some)
        blocks = model.layers.index.blocks()
        layers = [blocks[0], blocks[len(blocks) // 2], blocks[-1]]

        def plain(model: LanguageModel = model, ids: list[list[int]] = ids) -> None:
            for at in range(0, len(ids), BATCH):
                model.run_token_ids(ids[at : at + BATCH])

        pairs = []
        for round_ in range(rounds + 1):
            folder = Path(tempfile.mkdtemp())
            try:
                store = LocalStore(folder / "store")
                first = seconds(plain)
                kept = seconds(
                    lambda: save_activations(model, layers, some, store, batch_size=BATCH)  # noqa: B023
                )
                again = seconds(plain)
            finally:
                shutil.rmtree(folder)
            if round_ or rounds == 1:
                pairs.append(((first + again) / 2, kept))
        tokens = sum(map(len, ids))
        ratios = [base / kept for base, kept in pairs]
        base, kept = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name:<12}{tokens:>8}{tokens / base:>13.0f}{tokens / kept:>15.0f}  "
            f"{statistics.median(ratios):.3f}  {min(ratios):.3f} to {max(ratios):.3f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(rounds=1, documents={"tiny:": 16, "GPT-2 124M": 2})
    else:
        main(rounds=7, documents={"tiny:": 400, "GPT-2 124M": 16})
