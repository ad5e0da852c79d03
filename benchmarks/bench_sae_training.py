"""What does a step of training a sparse autoencoder cost, against the products it consists of?

Bare are the products alone, dense, into tensors that are there already: forward the encoder's and
the decoder's; backward the latents', the decoder's and the encoder's. A gated one has two more, its
frozen reconstruction and what comes back through it; a skip transcoder its `W_skip`, forward and
backward. Of a Matryoshka those of its dictionaries are one decoder's in all. A step is everything:
the check of the batch, scaling, both passes, AdamW, clipping, normalisation. No latent is dead:
what AuxK adds for dead ones is products of its own.

A grid is four `TopKSae` from one pass over a stored run, reading, shuffling and all, against the
products of the four.

fp32, one thread; `-- KIND` times one kind, `-- grid` the grid.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from torch import Tensor

from tenterhook_sae import (
    BatchTopKSae,
    Crosscoder,
    GatedSae,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    RunBatches,
    Sae,
    SkipTranscoder,
    TopKSae,
    Trainer,
    TrainingSettings,
    Transcoder,
    train_saes,
)
from tenterhook_store import LayerArray, MemoryStore, RowBlock, Run, RunPlan

KINDS: dict[str, Callable[[int, int, int], Sae]] = {
    "topk": lambda m, n, k: TopKSae(m, n, k),
    "batchtopk": lambda m, n, k: BatchTopKSae(m, n, k),
    "matryoshka": lambda m, n, k: MatryoshkaBatchTopKSae(m, n, k),
    "jumprelu": lambda m, n, k: JumpReLUSae(m, n),
    "l1": lambda m, n, k: L1Sae(m, n),
    "gated": lambda m, n, k: GatedSae(m, n),
    "transcoder": lambda m, n, k: Transcoder(m, n),
    "skip": lambda m, n, k: SkipTranscoder(m, n, k=k),
    "crosscoder": lambda m, n, k: Crosscoder(m, n // 2, ("a", "b"), k),
}

SETTINGS = TrainingSettings(steps=10**6, dead_after=10**12)


class Noise:
    """Rows that are there."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.about: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Tensor]:
        return iter(())  # steps are taken here, one by one

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def products(sae: Sae, rows: int) -> Callable[[], Tensor]:
    """Return what does the products of a step, dense, into tensors that are there."""
    n, m, o = sae.n_inputs, sae.n_latents, sae.n_outputs
    x, y, z = torch.randn(rows, n), torch.randn(rows, o), torch.randn(rows, m)
    encoder, decoder = torch.randn(n, m), torch.randn(m, o)
    into_latents, into_outputs = torch.empty(rows, m), torch.empty(rows, o)
    into_encoder, into_decoder = torch.empty(n, m), torch.empty(m, o)
    skip, into_skip = torch.randn(n, o), torch.empty(n, o)

    def run() -> Tensor:
        torch.mm(x, encoder, out=into_latents)
        torch.mm(z, decoder, out=into_outputs)
        torch.mm(y, decoder.T, out=into_latents)
        torch.mm(z.T, y, out=into_decoder)
        torch.mm(x.T, z, out=into_encoder)
        if isinstance(sae, GatedSae):
            torch.mm(z, decoder, out=into_outputs)
            torch.mm(y, decoder.T, out=into_latents)
        if isinstance(sae, SkipTranscoder):
            torch.mm(x, skip, out=into_outputs)
            torch.mm(x.T, y, out=into_skip)
        return into_encoder

    return run


def step(sae: Sae, rows: int) -> Callable[[], Any]:
    """Return what takes a step of training on rows that are there."""
    trainer = Trainer(sae, Noise(sum(sae.parts)), SETTINGS)
    batch = torch.randn(rows, sum(sae.parts))

    def run() -> Any:
        return trainer.train_batch(batch)

    for _ in range(3):
        run()
    return run


def stored(rows: int, width: int) -> Run:
    """Return a run of noise."""
    layer = LayerArray("h", width, "float32")
    plan = RunPlan(rows=rows, rows_per_unit=rows, documents=rows, layers=(layer,))
    store = MemoryStore()
    writer = store.write_run("run", plan)
    numbers = torch.arange(rows)
    with writer.open_unit(plan.unit(0)) as writing:
        layers = {"h": torch.randn(rows, width)}
        writing.append(
            RowBlock(tokens=numbers, documents=numbers, positions=numbers * 0, layers=layers)
        )
        writing.commit({})
    writer.finish()
    return store.run("run")


def grid(rounds: int, steps: int, rows: int, n: int, m: int) -> None:
    """Time trainings of a grid from beginning to end."""
    run = stored(8 * rows, n)
    bare = products(TopKSae(m, n, 8), rows)
    settings = TrainingSettings(steps=steps, log_every=steps)

    def trained() -> None:
        saes = {f"k{k}": TopKSae(m, n, k) for k in (8, 16, 32, 64)}
        train_saes(saes, RunBatches(run, "h", batch_size=rows), settings)

    def alone() -> None:
        for _ in range(4 * steps):
            bare()

    times = measure({"bare products": alone, "a grid": trained}, rounds=rounds, calls=1)
    title = f"grid of four: {rows} rows a step, {steps} steps, {n} inputs, {m} latents"
    rows_of = {"bare products": "bare products", "a grid": "bare products"}
    print_table(title, times, rows_of, unit="ms", scale=1e3)


def main(rounds: int, calls: int, sizes: list[tuple[int, int, int, int]], kinds: list[str]) -> None:
    print_machine()
    for rows, n, m, k in sizes:
        for kind in kinds:
            torch.manual_seed(0)
            sae = KINDS[kind](m, n, k)
            found = {"bare products": products(sae, rows), "a step": step(sae, rows)}
            times = measure(found, rounds=rounds, calls=calls)
            title = f"{kind}: {rows} rows, {n} inputs, {m} latents"
            print_table(
                title,
                times,
                {"bare products": "bare products", "a step": "bare products"},
                unit="ms a step",
                scale=1e3,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    known = [*KINDS, "grid"]
    asked = [kind for kind in known if kind in sys.argv] or known
    kinds = [kind for kind in asked if kind in KINDS]
    if "--quick" in sys.argv:
        main(rounds=1, calls=1, sizes=[(64, 32, 128, 4)], kinds=kinds)
    else:
        main(rounds=7, calls=1, sizes=[(1024, 256, 2048, 32)], kinds=kinds)
    if "grid" in asked and "--quick" in sys.argv:
        grid(rounds=1, steps=2, rows=64, n=32, m=128)
    elif "grid" in asked:
        grid(rounds=7, steps=16, rows=1024, n=128, m=2048)
