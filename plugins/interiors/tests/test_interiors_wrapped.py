"""Names in a model that is compiled, by blocks or whole, or held by DDP or FSDP."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from families import FAMILIES
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

import tenterhook

NAMES = ("z.0", "pattern.1", "q_pre.1", "k.1", "resid_mid.0", "mlp_act.1", "attn_out.0")
IDS = torch.randint(2, 90, (2, 6), generator=torch.Generator().manual_seed(0))


def llama() -> Any:
    """Return a small Llama."""
    return FAMILIES["Llama"].make()


def blocks_compiled(model: Any) -> Any:
    """Compile each block in its place."""
    for block in model.model.layers:
        block.compile(backend="eager")
    return model


def blocks_wrapped(model: Any) -> Any:
    """Put what is compiled of each block in its place."""
    for at, block in enumerate(model.model.layers):
        model.model.layers[at] = torch.compile(block, backend="eager")
    return model


def sharded(model: Any) -> Any:
    """Have blocks, and the rest, in shards by `fully_shard`."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp(model: Any, *, own: bool) -> Any:
    """Have blocks in shards by the older wrapper, parameters flat or under names of their own."""
    policy = ModuleWrapPolicy({type(model.model.layers[0])})
    device = torch.device("cpu")
    return FullyShardedDataParallel(
        model, device_id=device, use_orig_params=own, auto_wrap_policy=policy
    )


COMPILED: dict[str, Callable[[Any], Any]] = {
    "blocks compiled": blocks_compiled,
    "blocks wrapped": blocks_wrapped,
    "whole": lambda model: torch.compile(model, backend="eager"),
}
HELD: dict[str, Callable[[Any], Any]] = {
    "DDP": nn.parallel.DistributedDataParallel,
    "fully_shard": sharded,
    "FSDP, flat": lambda model: fsdp(model, own=False),
    "FSDP": lambda model: fsdp(model, own=True),
}


def steered(model: Any, name: str) -> Tensor:
    """Return the logits with a point changed."""
    with tenterhook.attach(model).steer(name, lambda x: x * 1.5):
        found: Tensor = model(IDS).logits
    return found


def check(wrapped: Any, names: tuple[str, ...] = NAMES) -> None:
    """Hold what is read and changed to the model alone; nothing is left."""
    alone = llama()
    with torch.no_grad():
        plain = wrapped(IDS).logits
        with tenterhook.attach(alone).capture(*names) as wanted:
            alone(IDS)
        with tenterhook.attach(wrapped).capture(*names) as captured:
            assert torch.equal(wrapped(IDS).logits, plain)
        for name in names:
            assert torch.allclose(captured.last(name), wanted.last(name), atol=1e-5), name
            assert torch.allclose(steered(wrapped, name), steered(alone, name), atol=1e-5), name
        assert torch.equal(wrapped(IDS).logits, plain)
    tenterhook.assert_clean(tenterhook.attach(wrapped))


@pytest.mark.parametrize("kind", COMPILED)
def test_names_in_what_is_compiled(kind: str) -> None:
    """They are those of the model alone: the twin runs what was compiled as it was."""
    alone = tenterhook.attach(llama()).layers.index.points()
    found = tenterhook.attach(COMPILED[kind](llama())).layers.index.points()
    assert list(found.layers) == list(alone.layers)
    assert found.refused == {
        name.replace("layers.0.", "layers.0._orig_mod.") if kind == "blocks wrapped" else name: why
        for name, why in alone.refused.items()
    }


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("kind", COMPILED)
def test_points_in_what_is_compiled(kind: str) -> None:
    """Hooks that come later take effect, and go."""
    torch.compiler.reset()
    try:
        check(COMPILED[kind](llama()), ("z.0", "pattern.1", "resid_mid.0"))
    finally:
        torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # what torch says of its own FSDP
@pytest.mark.parametrize("kind", HELD)
def test_points_in_what_is_held(kind: str, world_of_one: None) -> None:
    """In a world of one process."""
    check(HELD[kind](llama()))


def work(rank: int, place: str) -> None:
    """Be one of two processes, each with a part of every weight."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    for make in HELD.values():
        check(make(llama()))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.matrix(sample=0)  # half a minute, most of it imports
def test_two_processes(tmp_path: Path) -> None:
    """Weights are put together while names are proven, and are in parts again."""
    start: Any = mp.start_processes  # type: ignore[attr-defined]
    start(work, args=(f"file://{tmp_path / 'meeting'}",), nprocs=2, start_method="spawn")
