"""Requests to vLLM itself: chunks, cached prefixes, preemption, aborts; each as if it was alone."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

import tenterhook
from tenterhook import HookedModel
from tenterhook_vllm import ServedPoints, request_args
from tenterhook_vllm.testing import Asked, Got, ServingContract, check_turns, random_requests

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
vllm: Any = pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")  # what it imports warns of much

BOUND = 2e-5
"""Of rows in float32, through how large the largest is."""


class Driven:
    """vLLM in this process, with room for a few of the requests at once."""

    vocabulary = 256
    bound = BOUND

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        from tenterhook_vllm.joins import register

        register()
        self.llm = vllm.LLM(
            str(folder),
            dtype="float32",
            enforce_eager=True,
            enable_prefix_caching=True,
            async_scheduling=False,
            block_size=32,
            num_gpu_blocks_override=6,
            max_model_len=128,
            max_num_batched_tokens=24,
            max_num_seqs=8,
            kv_cache_memory_bytes=1 << 26,
            disable_log_stats=False,
            use_tqdm_on_load=False,
        )
        module: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.module = module.eval()
        model = tenterhook.attach(self.module)
        names = model.layers.standard_names()
        assert names is not None
        self.points = ServedPoints(dict.fromkeys(sorted(names.layers), 64))
        self._count = 0

    def run(self, asked: Sequence[Asked]) -> list[Got | None]:
        """Run requests that come while others run; some are aborted."""
        engine = self.llm.llm_engine
        generator = Random(self._count)
        names = [f"r{self._count + at}" for at in range(len(asked))]
        self._count += len(asked)
        left = list(zip(names, asked, strict=True))
        going = {name for name, one in left if one.aborts}
        done: dict[str, Any] = {}
        aborted: set[str] = set()
        while left or engine.has_unfinished_requests():
            while left and generator.random() < 0.7:
                name, one = left.pop(0)
                engine.add_request(name, {"prompt_token_ids": list(one.prompt)}, _params(one))
            for output in engine.step():
                if output.finished:
                    done[output.request_id] = output
            waiting = {name for name, _ in left}
            for name in sorted(going - aborted - waiting - done.keys()):
                if generator.random() < 0.2:
                    engine.abort_request([name])
                    aborted.add(name)
        return [
            None if name in aborted else self._got(done[name], one)
            for name, one in zip(names, asked, strict=True)
        ]

    def _got(self, output: Any, asked: Asked) -> Got:
        text = [*asked.prompt, *output.outputs[0].token_ids]
        if asked.table is None:
            return Got(text=text)
        args, kwargs = (output.request_id, [text]), {"as_bytes": False}
        (table,) = self.llm.collective_rpc("tenterhook_take", args=args, kwargs=kwargs)[0]
        return Got(text=text, answer=table.get("raised", table.get("answer")))

    def plain(self) -> tuple[HookedModel, Callable[[Tensor], Tensor]]:
        """Return the model of transformers."""
        model = tenterhook.attach(self.module)
        return model, lambda ids: model(ids).logits

    def metric(self, name: str) -> int:
        """Return what vLLM has counted."""
        return sum(each.value for each in self.llm.get_metrics() if each.name == f"vllm:{name}")


def _params(one: Asked) -> Any:
    extra = None if one.table is None else {"tenterhook": dict(one.table)}
    return vllm.SamplingParams(
        max_tokens=one.most, temperature=0.0, ignore_eos=True, extra_args=extra
    )


@pytest.fixture(scope="module")
def engine(llama: Path) -> Driven:
    """Return one engine for all; starting it takes seconds."""
    return Driven(llama)


class TestVllm(ServingContract):
    """vLLM keeps the contract of whoever serves requests."""

    @pytest.fixture
    def driven(self, engine: Driven) -> Driven:
        """Return the engine."""
        return engine


def test_random_schedules(engine: Driven) -> None:
    """50 of them on an engine whose cache is too small for its requests."""
    for seed in range(100, 150):
        requests = random_requests(
            Random(seed), engine.points, vocabulary=engine.vocabulary, longest=44
        )
        check_turns(engine, requests)
    assert engine.metric("num_preemptions") > 0
    assert engine.metric("prefix_cache_hits") > 0


def test_rows_of_every_point(engine: Driven) -> None:
    """They are those of the model of transformers, within the bound that is printed."""
    points = [f"{kind}.{at}" for at in range(4) for kind in ("resid_mid", "resid_post")]
    prompt = [at * 7 % 250 for at in range(60)]
    asked = Asked(prompt=prompt, most=4, table={"capture": [*points, "logits"]})
    (got,) = engine.run([asked])
    assert got is not None
    rows: dict[str, Tensor] = got.answer.rows  # type: ignore[union-attr]
    layers = engine.module.model.layers
    seen: dict[str, Tensor] = {}
    handles = []
    for at, layer in enumerate(layers):
        # What goes into the second norm of a layer is the stream in its middle.
        handles += [
            layer.post_attention_layernorm.register_forward_pre_hook(
                lambda _, args, at=at: seen.update({f"resid_mid.{at}": args[0][0]})
            ),
            layer.register_forward_hook(
                lambda _, args, out, at=at: seen.update(
                    {f"resid_post.{at}": (out if isinstance(out, Tensor) else out[0])[0]}
                )
            ),
        ]
    with torch.no_grad():
        seen["logits"] = engine.module(torch.tensor([list(got.text[:-1])])).logits[0]
    for handle in handles:
        handle.remove()
    assert rows.keys() == seen.keys()
    for point, found in rows.items():
        off = ((found - seen[point]).abs().max() / seen[point].abs().max()).item()
        print(f"{point} is off by {off:.1e} of its largest number, {BOUND} at most")
        assert off <= BOUND


def test_logits_that_are_changed(engine: Driven) -> None:
    """The next token is sampled from them."""
    vector = [0.0] * 256
    vector[77] = 1e6
    hook = {"hook": "AddVector", "layer": "logits", "parameters": {"vector": vector}}
    prompt = list(range(3, 40))
    asked = [
        Asked(prompt=prompt, most=3, table={"hooks": [hook]}),
        Asked(prompt=prompt, most=3),
        Asked(prompt=prompt, most=3, table={"hooks": [hook], "selection": {"tokens": "last"}}),
    ]
    changed, plain, last = engine.run(asked)
    assert changed is not None
    assert plain is not None
    assert last is not None
    assert list(changed.text[-3:]) == [77] * 3
    assert 77 not in plain.text[-3:]
    assert list(last.text[-3:]) == [77] * 3


def test_what_a_request_may_not_say(engine: Driven) -> None:
    """It is refused before anything runs, with the path and the way out."""
    extra: dict[str, Any] = request_args(capture=["resid_pre.0"])
    params = vllm.SamplingParams(max_tokens=1, extra_args=extra)
    with pytest.raises(ValueError, match=r"capture\[0\]: 'resid_pre.0' is no point here"):
        engine.llm.generate([{"prompt_token_ids": [5]}], params, use_tqdm=False)
    assert not engine.llm.llm_engine.has_unfinished_requests()
