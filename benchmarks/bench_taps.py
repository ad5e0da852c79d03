"""What does a tap cost under the compiler, against the compiled model alone?

A GPT-2 of transformers with random weights, 4 rows of 64 tokens, fp32, one thread, no gradients,
compiled whole (`fullgraph=True`). The baseline is the same model, compiled alone. Taps stand at
every block and do nothing; or are told at each call to add a vector, with a coefficient for each
row, or to scale each row; or capture, a scope a call, into copies and into room. Beside them the
model that is not compiled.
"""

import sys
from typing import Any

import torch
from _rounds import Variant, measure, print_machine, print_table
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook

ROWS, SEQ = 4, 64
BASE = "compiled alone"


def gpt2(layers: int, width: int) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=4,
        n_positions=SEQ,
        vocab_size=1000,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config).train(False).requires_grad_(False)


def variants(layers: int, width: int, backend: str) -> dict[str, Variant]:
    ids = torch.randint(1000, (ROWS, SEQ))
    rows = torch.linspace(0.5, 2, ROWS)
    vector = torch.randn(width)
    alone, tapped = gpt2(layers, width), tenterhook.attach(gpt2(layers, width))
    taps = tapped.taps("resid_post.*")  # before anything is compiled
    bare: Any = torch.compile(alone, backend=backend, fullgraph=True)
    compiled: Any = torch.compile(tapped.module, backend=backend, fullgraph=True)
    bare(ids)
    compiled(ids)

    def adding() -> object:
        for tap in taps.values():
            tap.add(vector, rows)
        out = compiled(ids)
        taps.clear()
        return out

    def scaling() -> object:
        for tap in taps.values():
            tap.scale(rows)
        out = compiled(ids)
        taps.clear()
        return out

    def capturing(max_tokens: int | None = None) -> object:
        with taps.capture(max_tokens=max_tokens) as captured:
            compiled(ids)
        return captured

    return {
        BASE: lambda: bare(ids),
        "taps that do nothing": lambda: compiled(ids),
        "taps that add, told at each call": adding,
        "taps that scale rows, told at each call": scaling,
        "taps that capture, a scope a call": capturing,
        "the same into room": lambda: capturing(ROWS * SEQ),
        "not compiled": lambda: alone(ids),
    }


def main(rounds: int, calls: int, sizes: list[tuple[int, int]], backend: str) -> None:
    print_machine()
    for layers, width in sizes:
        with torch.no_grad():
            times = measure(variants(layers, width, backend), rounds=rounds, calls=calls)
        title = f"{backend}: {layers} blocks, {width} wide, {ROWS * SEQ} tokens a call"
        print_table(title, times, dict.fromkeys(times, BASE), unit="ms a call", scale=1e3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(rounds=1, calls=1, sizes=[(2, 32)], backend="aot_eager")
    else:
        main(rounds=81, calls=2, sizes=[(6, 256)], backend="inductor")
