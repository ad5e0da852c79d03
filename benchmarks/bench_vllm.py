"""What does the plugin cost vLLM? Tokens a second on the CPU, beside generate of transformers.

Sizes: a Llama with random weights, 8 blocks of 256 features, float32; 32 requests at once, prompts
of 64 tokens, 32 generated. Baseline: the same engine without the plugin's hooks around the model.
Each way is run in turn, several times over, and the median of ratios to the baseline of the same
turn is what counts. Ways: idle (the plugin is there and nobody asks), capturing one layer, steering
one layer; and transformers, in one padded batch, bare and with the same hooks.

Needs vLLM; `nox -s vllm -- bench` has it.
"""

import argparse
import os
import statistics
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

POINT = "resid_post.4"
WIDTH, PROMPT, GENERATED, REQUESTS = 256, 64, 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one turn")
    given = parser.parse_args()
    turns = 1 if given.quick else given.turns
    try:
        vllm: Any = import_module("vllm")
    except ImportError:
        print("No ratio without vLLM: nox -s vllm -- bench")
        return
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(vllm, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for name in ways:
            ways[name]()
        for _ in range(turns):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    tokens = REQUESTS * (PROMPT + GENERATED)
    for name, taken in times.items():
        base = "transformers" if name.startswith("transformers") else "without"
        ratios = [b / t for b, t in zip(times[base], taken, strict=True)]
        print(
            f"{name:24} {tokens / statistics.median(taken):8,.0f} tokens/s, "
            f"ratio {statistics.median(ratios):.3f} to {base} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


def _ways(vllm: Any, folder: Path) -> dict[str, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import tenterhook
    from tenterhook_vllm.joins import register

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )
    module: Any = LlamaForCausalLM(config)
    module.eval()
    module.save_pretrained(folder)
    register()
    llm = vllm.LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=256,
        max_num_seqs=REQUESTS,
        kv_cache_memory_bytes=1 << 28,
        use_tqdm_on_load=False,
    )
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    side = executor.driver_worker._tenterhook
    prompts = torch.randint(1024, (REQUESTS, PROMPT)).tolist()
    vector = torch.randn(WIDTH).tolist()
    hook = {"hook": "AddVector", "layer": POINT, "parameters": {"vector": vector}}

    def serve(table: Any, *, is_open: bool = True) -> None:
        if is_open and not side._handles:
            side.open()
        if not is_open:
            side.close()
        extra = None if table is None else {"tenterhook": table}
        params = vllm.SamplingParams(
            max_tokens=GENERATED,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            extra_args=extra,
        )
        given = [{"prompt_token_ids": each} for each in prompts]
        for output in llm.generate(given, params, use_tqdm=False):
            side.take(output.request_id, as_bytes=False)

    model = tenterhook.attach(module)
    batch = torch.tensor(prompts)
    add = torch.tensor(vector)

    def generate() -> None:
        with torch.no_grad():
            module.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=GENERATED,
                min_new_tokens=GENERATED,
                do_sample=False,
            )

    def generate_capturing() -> None:
        with model.capture(POINT):
            generate()

    def generate_steering() -> None:
        with model.steer(POINT, lambda rows: rows + add):
            generate()

    return {
        "without": lambda: serve(None, is_open=False),
        "idle": lambda: serve(None),
        "capturing one layer": lambda: serve({"capture": [POINT]}),
        "steering one layer": lambda: serve({"hooks": [hook]}),
        "transformers": generate,
        "transformers, capturing": generate_capturing,
        "transformers, steering": generate_steering,
    }


if __name__ == "__main__":
    main()
