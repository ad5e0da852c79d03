"""What do points inside attention cost a forward of a Llama: unused, idle, read?

A Llama of 4 blocks with random weights over 2 rows of 64 tokens, its attention `sdpa`. *Idle*: a
hook of another thread stands at the points, and nothing of this thread's. Then queries, keys,
values and what heads sum up are kept in every block, then scores. Baseline: the bare model; then
plain PyTorch hooks on the projections, which keep as much.
"""

import sys
import threading
from typing import Any

import torch
from _rounds import Variant, measure, print_machine, print_table
from transformers import LlamaConfig, LlamaForCausalLM

import tenterhook


def small(width: int) -> Any:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def main(quick: bool) -> None:
    torch.set_num_threads(1)
    print_machine()
    module = small(32 if quick else 256)
    model = tenterhook.attach(module)
    ids = torch.randint(2, 500, (2, 64))

    def plain() -> None:
        module(ids, use_cache=False)

    def reading(*layers: str) -> Variant:
        def run() -> None:
            with model.capture(*layers):
                plain()

        return run

    def torch_hooks() -> None:
        kept = []
        handles = [
            getattr(block.self_attn, name).register_forward_hook(
                lambda module, args, output: kept.append(output.clone())
            )
            for block in module.model.layers
            for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        ]
        plain()
        for handle in handles:
            handle.remove()

    rounds, calls = (1, 1) if quick else (24, 4)
    with torch.no_grad():
        variants: dict[str, Variant] = {
            "bare": plain,
            "plain hooks on q, k, v, o": torch_hooks,
            "q, k, v, z kept": reading("q.*", "k.*", "v.*", "z.*"),
            "scores kept": reading("scores.*"),
        }
        times = measure(variants, rounds=rounds, calls=calls)
        opened, done = threading.Event(), threading.Event()

        def hold() -> None:
            with model.capture("z.*", "q.*", missing="ignore"):
                opened.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        opened.wait()
        idle: dict[str, Variant] = {"idle, another thread's scope": plain}
        times |= measure(idle, rounds=rounds, calls=calls)
        done.set()
        thread.join()
    rows = dict.fromkeys(times, "bare")
    rows["q, k, v, z kept"] = "plain hooks on q, k, v, o"
    print_table("One forward, points at every block", times, rows)


if __name__ == "__main__":
    main("--quick" in sys.argv)
