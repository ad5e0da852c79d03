"""One of two processes that hold a model among them; run by `test_shared_models.py`.

Its arguments are how they share it, its number, and a folder with the model, where each process
writes what it found as JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from tenterhook.errors import TenterhookError
from tenterhook_capture import CaptureOptions, begin_run, estimate, prepare_capture
from tenterhook_capture.identity import model_fingerprint
from tenterhook_store import LocalStore
from tenterhook_transformers import LanguageModel

TEXTS = ["The quick brown fox", "Short.", "Hooks watch what happens inside models"]


def shared(kind: str, folder: Path) -> LanguageModel:
    """Return the model, shared as `kind` says."""
    if kind == "tp_plan":
        return LanguageModel.from_pretrained(folder, tp_plan="auto")
    if kind == "pipeline":
        from transformers.distributed.configuration_utils import DistributedConfig

        return LanguageModel.from_pretrained(
            folder, distributed_config=DistributedConfig(pp_size=2)
        )
    lm = LanguageModel.from_pretrained(folder)
    module: Any = lm.module
    if kind == "fully_shard":
        from torch.distributed.fsdp import fully_shard

        for layer in module.model.layers:
            fully_shard(layer)
        fully_shard(module)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            RowwiseParallel,
            parallelize_module,
        )

        mesh = init_device_mesh("cpu", (2,))
        for layer in module.model.layers:
            colwise = ColwiseParallel(use_local_output=False)
            plan = {"gate_proj": colwise, "up_proj": colwise, "down_proj": RowwiseParallel()}
            parallelize_module(layer.mlp, mesh, plan)
    return LanguageModel(module, lm.tokenizer, model_id="shared")


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for the order of sums."""
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def hooked(lm: LanguageModel, plain: LanguageModel) -> dict[str, bool]:
    """Return what hooks do on the shared model that they do on a whole one."""
    found: dict[str, list[Any]] = {}
    for model in (lm, plain):
        with model.capture("layer_1", "output") as captured:
            model.inference.execute_inference(TEXTS)
        with model.capture("layer_1", tokens=-1) as last:
            model.inference.execute_inference(TEXTS)
        with model.steer("layer_1", lambda tensor: tensor * 2), model.capture("output") as steered:
            model.inference.execute_inference(TEXTS)
        with model.capture("layer_0", stop_after="layer_0") as stopped:
            model.inference.execute_inference(TEXTS)
        made = model.generate(TEXTS, max_new_tokens=3, do_sample=False).token_ids
        found.setdefault("capture", []).append(captured.last("layer_1"))
        found.setdefault("select", []).append(last.last("layer_1"))
        found.setdefault("steer", []).append(steered.last("output"))
        found.setdefault("stop", []).append(stopped.last("layer_0"))
        tokens = [token for row in made for token in row]
        found.setdefault("generate", []).append(torch.tensor(tokens))
    return {name: close(*pair) for name, pair in found.items()}


def plain_inside(lm: LanguageModel, plain: LanguageModel) -> dict[str, bool]:
    """Return whether hooks see whole what each process has a part of, and change it."""
    layer, found = "model.layers.1.mlp.act_fn", list[list[Tensor]]()
    for model in (lm, plain):
        seen: list[Tensor] = []

        def halved(tensor: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(tensor.clone())
            return tensor / 2

        def run(model: LanguageModel = model) -> None:
            model.inference.execute_inference(TEXTS)

        kept = []
        with model.capture(layer) as captured:
            run()
        with model.capture(layer, inputs=True, tokens=-1, features=slice(3)) as given:
            run()
        with model.steer(layer, halved), model.capture("output") as steered:
            run()
        with model.steer(layer, halved, tokens=0), model.capture("output") as some:
            run()
        kept += [captured.last(layer), given.last(layer), *seen]
        found.append([*kept, steered.last("output"), some.last("output")])
    pairs = list(zip(*found, strict=True))
    plain_ones = all(type(each) is Tensor for each in found[0])
    return {"plain tensors": plain_ones, "whole tensors": all(close(*each) for each in pairs)}


def saved(lm: LanguageModel, plain: LanguageModel, folder: Path) -> dict[str, Any]:
    """Return what becomes of a run that was stopped, gone on with and asked for again."""
    store = LocalStore(folder / "store")
    settings: dict[str, Any] = {"run_name": "run", "rows_per_unit": 8, "store": store}
    layers = ["layer_0", "layer_1"]

    def stop(progress: Any) -> None:
        if progress.rows > 8:
            raise KeyboardInterrupt

    stopped = False
    try:
        lm.activations.save(layers, TEXTS, progress=stop, **settings)
    except KeyboardInterrupt:
        stopped = True
    distributed.barrier()
    run = store.run("run")
    some = 0 < len(run.committed) < run.plan.unit_count
    distributed.barrier()
    again = [lm.activations.save(layers, TEXTS, **settings) for _ in range(2)]
    distributed.barrier()
    run = store.run("run")
    alone = LocalStore(folder / f"alone-{distributed.get_rank()}")
    plain.activations.save(layers, TEXTS, **{**settings, "store": alone})
    wanted = alone.run("run")
    return {
        "stopped in all": stopped,
        "some units were done": some,
        "returned by all": again == ["run", "run"],
        "rows": all(close(run[name][:], wanted[name][:]) for name in wanted.layers),
        "identity": model_fingerprint(lm.describe_model())
        == model_fingerprint(plain.describe_model()),
    }


def planned(lm: LanguageModel, folder: Path) -> dict[str, bool]:
    """Return whether the first process decides what is run for a plan, and for an estimate.

    The others' batches are of another size, and their stores have the run already.
    """
    rank = distributed.get_rank()
    store, options = LocalStore(folder / f"own-{rank}"), CaptureOptions(batch_size=2 + rank)
    capture = prepare_capture(lm, "layer_1", TEXTS, options=options)
    if rank:
        store.write_run("planned", capture.plan)
    begun = begin_run(store, capture, "planned").run_id in store.runs()
    made: list[Any] = [None, None]
    distributed.all_gather_object(made, estimate(store, capture, "planned"))
    return {"planned": begun, "estimated": made[0] == made[1]}


def refused(lm: LanguageModel, folder: Path) -> str:
    """Return what the error says of a layer of which each process has a part."""
    try:
        layer = "model.layers.1.mlp.act_fn"
        lm.activations.save(layer, TEXTS, run_name="part", store=LocalStore(folder / "part"))
    except TenterhookError as error:
        return str(error)
    return ""


def main(kind: str, rank: int, folder: Path) -> None:
    """Do all of it, and write what was found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    place = folder / "processes"
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    plain = LanguageModel.from_pretrained(folder / "model", model_id="shared")
    lm = shared(kind, folder / "model")
    found: dict[str, Any] = {}
    if kind != "pipeline":
        found |= hooked(lm, plain)
    if kind == "parallelize_module":
        found |= plain_inside(lm, plain)
    found |= saved(lm, plain, folder)
    found |= planned(lm, folder)
    if kind == "tp_plan":
        found["part"] = refused(lm, folder)
    folder.joinpath(f"found-{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
