"""Selections through DDP and FSDP: in a world of one process, and in two that work together."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from test_tokens_wrappers import PADDED, alone, layer_like, layer_of, llama
from torch import Tensor, distributed, nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import tenterhook
from tenterhook.loading import load_model
from tenterhook_transformers import LanguageModel

IDS = [PADDED, torch.tensor([[0, 5, 7, 8, 9], [11, 12, 13, 14, 15], [0, 0, 0, 3, 4]])]
"""What each process has."""


def _sharded(model: nn.Module, *, blocks: bool) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    policy = ModuleWrapPolicy({LlamaDecoderLayer, GPT2Block}) if blocks else None
    return FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True, auto_wrap_policy=policy
    )


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "DDP": nn.parallel.DistributedDataParallel,
    "FSDP": lambda model: _sharded(model, blocks=False),
    "FSDP of blocks": lambda model: _sharded(model, blocks=True),
}


def inside(whole: Any) -> Any:
    """Return the model within wrappers."""
    return next(module for module in whole.modules() if hasattr(module, "lm_head"))


def check(whole: Any, ids: Tensor) -> None:
    """Compare captures with each row alone: attached to the wrapper, and to the model inside."""
    reference, mask = llama(), (ids != 0).long()
    push = torch.linspace(-1, 1, 16).double()
    for root in (whole, inside(whole)):
        attached, layer = tenterhook.attach(root), layer_of(root)
        with attached.capture(layer, tokens=":") as captured, torch.no_grad():
            whole(ids, mask)
        for row, real, values in zip(ids, mask.bool(), captured.by_row(layer), strict=True):
            torch.testing.assert_close(values, alone(reference, row[real]), rtol=0, atol=1e-9)
        with (
            attached.steer(layer, lambda h: h + push, tokens="last") as receipt,
            attached.capture(layer) as captured,
            torch.no_grad(),
        ):
            whole(ids, mask)
        assert receipt.tokens == len(ids)
        last = [alone(reference, row[real])[-1] for row, real in zip(ids, mask.bool(), strict=True)]
        torch.testing.assert_close(
            captured.last(layer)[:, -1], torch.stack(last) + push, rtol=0, atol=1e-9
        )
        tenterhook.assert_clean(root)


def check_texts(make: Callable[[Any], Any]) -> None:
    """Compare what a language model makes, around a wrapper, with what the model alone makes."""
    plain: Any = load_model("tiny:")
    prompts = ["And the LORD spake unto", "In the"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    wanted = plain.generate(prompts, **settings).token_ids
    lm = LanguageModel(make(load_model("tiny:").module), plain.tokenizer)  # type: ignore[attr-defined]
    layer = lm.layers.list_blocks()[1]
    with lm.capture(layer, tokens=":") as captured:
        made = lm.generate(prompts, **settings)
    assert made.token_ids == wanted
    for row, ids in zip(captured.by_row(layer), made.token_ids, strict=True):
        with plain.capture(layer_like(plain.module, "h.1")) as whole, torch.no_grad():
            plain(torch.tensor([ids]))
        torch.testing.assert_close(row, whole.last("transformer.h.1")[0], rtol=0, atol=1e-4)
    tenterhook.assert_clean(lm)


@pytest.mark.filterwarnings("ignore")  # what torch says of its own FSDP
@pytest.mark.parametrize("kind", WRAPPERS)
def test_alone(kind: str, world_of_one: None) -> None:
    """Masks are given by position, to the wrapper."""
    check_texts(WRAPPERS[kind])
    check(WRAPPERS[kind](llama()), PADDED)


def work(rank: int, place: str) -> None:
    """Be one of two processes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    for make in WRAPPERS.values():
        check_texts(make)
        check(make(llama()), IDS[rank])
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.matrix(sample=0)  # half a minute, most of it imports
def test_two_processes(tmp_path: Path) -> None:
    """Each has the tokens of its own batch."""
    start: Any = mp.start_processes  # type: ignore[attr-defined]
    start(work, args=(f"file://{tmp_path / 'meeting'}",), nprocs=2, start_method="spawn")
