"""What a model is described by: every byte and setting that changes what it computes."""

import copy
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from tenterhook_capture import CaptureOptions, prepare_capture, save_activations
from tenterhook_capture.identity import LATER, model_fingerprint
from tenterhook_store import MemoryStore, OtherRun
from tenterhook_transformers import LanguageModel
from tenterhook_transformers.weights import buffers_fingerprint, weights_fingerprint

# peft asks models for what transformers calls otherwise by now.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

TEXTS = ["The quick brown fox", "Short.", "Hooks watch what happens inside models"]

Make = Callable[..., Any]
Change = Callable[[Any], Any]


def described(module: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """Return what identifies a model: all but where it runs and by which versions."""
    found = LanguageModel(module, tokenizer, model_id="m").describe_model()
    return {key: value for key, value in found.items() if key not in ("device", "versions")}


def _weight(model: Any) -> None:
    model.lm_head.weight.data[0, 0] += 1


def _frequencies(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(3)


def _attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def _config(model: Any) -> None:
    model.config.rms_norm_eps = 0.5


CHANGES: dict[str, Change] = {
    "one weight": _weight,
    "a buffer that is not saved": _frequencies,
    "the attention implementation": _attention,
    "the config": _config,
    "the dtype": lambda model: model.to(torch.bfloat16),
}
SAME: dict[str, Change] = {
    "train mode": lambda model: model.train(),
    "no gradients": lambda model: model.requires_grad_(False),
    "gradient checkpointing": lambda model: model.gradient_checkpointing_enable(),
    "weights laid out anew": lambda model: [
        each.set_(each.data.t().contiguous().t())
        for each in model.parameters()
        if each.ndim == 2 and not each.requires_grad_(False).requires_grad
    ],
    "a copy": copy.deepcopy,
    "a forward": lambda model: model(input_ids=torch.ones(1, 5, dtype=torch.int64)),
    "last bits of a computed buffer": lambda model: model.model.rotary_emb.inv_freq.mul_(1 + 2e-7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_rows_changes_it(make_model: Make, tokenizer: Any, change: Change) -> None:
    """A weight, a buffer, the config, the dtype, the attention implementation."""
    model = make_model("llama")
    before = described(model, tokenizer)
    change(model)
    assert described(model, tokenizer) != before


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_changes_no_row_leaves_it(make_model: Make, tokenizer: Any, change: Change) -> None:
    """Modes, gradients, memory layout, copies, forwards before."""
    model = make_model("llama")
    before = described(model, tokenizer)
    changed = change(model)
    assert described(changed if change is copy.deepcopy else model, tokenizer) == before


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_follow_the_text_are_left_out(
    make_model: Make, tokenizer: Any, kind: str
) -> None:
    """A long document changes them in the forward; those that it began with count."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4} if kind == "longrope" else {}
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 1e4, **factors}
    settings = {"original_max_position_embeddings": 16}
    model = make_model("llama", rope_parameters={**rope, **settings}, max_position_embeddings=32)
    rotary, before = model.model.rotary_emb, described(model, tokenizer)
    was = rotary.inv_freq.clone()
    model(input_ids=torch.ones(1, 60, dtype=torch.int64))
    assert not torch.equal(rotary.inv_freq, was)
    assert described(model, tokenizer) == before
    rotary.original_inv_freq.mul_(3)
    assert described(model, tokenizer) != before


# --- adapters


def lora(model: Any, *, seed: int = 0, **settings: Any) -> Any:
    """Return the model with two adapters of peft, the first of which is active."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    for name in ("first", "second"):
        config = peft.LoraConfig(
            **{"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, **settings}
        )
        if name == "first":
            model = peft.get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    return model.eval()


def _scaled(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.5)


ADAPTERS: dict[str, Change] = {
    "another is active": lambda model: model.set_adapter("second"),
    "both are active": lambda model: model.base_model.set_adapter(["first", "second"]),
    "they are off": lambda model: model.base_model.disable_adapter_layers(),
    "one is merged": lambda model: model.merge_adapter(["first"]),
    "one is scaled": _scaled,
    "one is gone": lambda model: model.delete_adapter("second"),
}


@pytest.mark.parametrize("change", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_at_work_are_part_of_it(make_model: Make, tokenizer: Any, change: Change) -> None:
    """Which are active, merged, off, and how strongly they count."""
    model = lora(make_model("llama"))
    before = described(model, tokenizer)
    change(model)
    assert described(model, tokenizer) != before


@pytest.mark.parametrize("settings", [{"lora_alpha": 64}, {"use_rslora": True}, {"seed": 1}])
def test_settings_of_adapters_are_part_of_it(
    make_model: Make, tokenizer: Any, settings: dict[str, Any]
) -> None:
    """The same weights with another strength are another model, as are other weights."""
    first, second = lora(make_model("llama")), lora(make_model("llama"), **settings)
    assert described(first, tokenizer) != described(second, tokenizer)


def test_dropout_of_adapters_is_not(make_model: Make, tokenizer: Any) -> None:
    """It is off where activations are captured, as is all that training alone needs."""
    first, second = lora(make_model("llama")), lora(make_model("llama"), lora_dropout=0.5)
    assert described(first, tokenizer) == described(second, tokenizer)
    with first.disable_adapter():
        assert described(first, tokenizer) != described(second, tokenizer)
    assert described(first, tokenizer) == described(second, tokenizer)


def test_a_prefix_before_the_model_is_part_of_it(make_model: Make, tokenizer: Any) -> None:
    """Weights of an adapter that stand around the model, and not inside it."""
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(make_model("llama"), config).eval()
    before = described(model, tokenizer)
    assert before != described(make_model("llama"), tokenizer)
    with torch.no_grad():
        next(model.prompt_encoder.parameters()).add_(1)
    assert described(model, tokenizer) != before


# --- weights that are elsewhere


def _spread(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    names = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    rest = {"model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
    settings: dict[str, Any] = {"main_device": "cpu", "force_hooks": True}
    folder = tempfile.mkdtemp()
    return accelerate.dispatch_model(model, {**names, **rest}, offload_dir=folder, **settings)


def _to_memory(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def _to_disk(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.disk_offload(model, tempfile.mkdtemp(), execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [_spread, _to_memory, _to_disk])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_offloaded_weights_are_read_where_they_are(
    make_model: Make, tokenizer: Any, offload: Change
) -> None:
    """A model is the same in memory, on the disk, and both; another one is another."""
    plain = described(make_model("llama"), tokenizer)
    assert described(offload(make_model("llama")), tokenizer) == plain
    other = make_model("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert described(offload(other), tokenizer) != plain


# --- weights that are no plain tensors


class Halves(Tensor):
    """A weight as two tensors, as quantised and sharded ones are made of parts."""

    first: Tensor
    second: Tensor

    @staticmethod
    def __new__(cls, first: Tensor, second: Tensor) -> "Halves":
        """Look like a tensor of the size of the first."""
        return Tensor._make_wrapper_subclass(cls, first.shape, dtype=first.dtype)

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """Say what it is made of."""
        return ["first", "second"], None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let it be taken off the graph, and nothing else."""
        if func is torch.ops.aten.detach.default:
            return cls(args[0].first, args[0].second)
        raise NotImplementedError(str(func))


def test_parts_of_a_subclass_are_read() -> None:
    """Each of them counts, those that torch sees no bytes of too."""
    parts = [torch.ones(4), torch.full((4,), 2.0)]

    def model(first: Tensor, second: Tensor) -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(Halves(first, second), requires_grad=False)
        return module

    plain = weights_fingerprint(model(*parts))
    assert weights_fingerprint(model(*(each.clone() for each in parts))) == plain
    for at in range(2):
        other = [each.clone() for each in parts]
        other[at][3] += 1
        assert weights_fingerprint(model(*other)) != plain


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_packed_parameters_are_read(make_model: Make) -> None:
    """Weights that `quantize_dynamic` packs are no tensors of the module."""

    def packed(change: float) -> str | None:
        model = make_model("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[0] += change
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
        return weights_fingerprint(quantised)

    assert packed(0) == packed(0)
    assert packed(0) != packed(1)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_packed_models_are_captured(make_model: Make, tokenizer: Any) -> None:
    """The scale of a batch depends on its padding, and that is rounding; another is another."""

    def packed(change: float) -> LanguageModel:
        model = make_model("llama")
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0] += change
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
        return LanguageModel(quantised, tokenizer, model_id="m")

    store = MemoryStore()
    save_activations(packed(0), "layer_1", TEXTS, store, run_name="r")
    assert "qint8" in store.run("r").metadata["model"]["dtype"]
    save_activations(packed(0), "layer_1", TEXTS, store, run_name="r")
    with pytest.raises(OtherRun, match="model not the same"):
        save_activations(packed(1), "layer_1", TEXTS, store, run_name="r")


@pytest.mark.filterwarnings("ignore")
def test_models_that_torchao_quantises_are_told_apart(make_model: Make, tokenizer: Any) -> None:
    """By their numbers and scales, and by how activations are quantised."""
    quantization = pytest.importorskip("torchao.quantization")

    def quantised(change: float = 0, *, config: str = "Int8WeightOnlyConfig") -> Any:
        model = make_model("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[0] += change
        quantization.quantize_(model, getattr(quantization, config)())
        return model

    plain = described(quantised(), tokenizer)
    assert described(quantised(), tokenizer) == plain
    assert described(copy.deepcopy(quantised()), tokenizer) == plain
    others = [quantised(1), make_model("llama")]
    others.append(quantised(config="Int8DynamicActivationInt8WeightConfig"))
    for other in others:
        assert described(other, tokenizer)["weights"] != plain["weights"]
    store = MemoryStore()
    for model in (quantised(), quantised()):
        save_activations(LanguageModel(model, tokenizer), "layer_1", TEXTS, store, run_name="r")
    other = LanguageModel(quantised(1), tokenizer)
    with pytest.raises(OtherRun, match="model not the same"):
        save_activations(other, "layer_1", TEXTS, store, run_name="r")


def test_extra_state_is_read() -> None:
    """What a module saves by `get_extra_state`, whatever it is."""

    class Extra(nn.Module):
        def __init__(self, extra: Any) -> None:
            super().__init__()
            self.extra = extra

        def get_extra_state(self) -> Any:
            return self.extra

    kinds: list[Any] = [
        {"scale": torch.ones(3), "at": (1, None)},
        {"scale": torch.ones(4), "at": (1, None)},
        {"scale": torch.ones(3), "at": (2, None)},
        b"bytes",
        io.BytesIO(b"others"),
        {1, 2},
        torch.float16,
    ]
    found = [weights_fingerprint(Extra(each)) for each in kinds]
    assert len({*found}) == len(kinds)
    assert found == [weights_fingerprint(Extra(copy.deepcopy(each))) for each in kinds]


@pytest.mark.filterwarnings("ignore:Sparse .* is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_layouts_of_tensors_are_read() -> None:
    """Sparse and quantised tensors, to the last number, however many there are."""
    wide = torch.zeros(50, 50)
    wide[::7, ::5] = torch.arange(80.0).view(8, 10) + 1
    other = wide.clone()
    other[35, 45] += 1
    make: list[Callable[[Tensor], Tensor]] = [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to_sparse_csr(),
        lambda tensor: tensor.to_sparse_csc(),
        lambda tensor: torch.quantize_per_tensor(tensor, 1.0, 0, torch.quint8),
        lambda tensor: torch.quantize_per_channel(
            tensor, torch.ones(50), torch.zeros(50), 0, torch.quint8
        ),
    ]

    def fingerprint(tensor: Tensor) -> str | None:
        module = nn.Module()
        module.register_buffer("weight", tensor)
        return weights_fingerprint(module)

    for each in make:
        assert fingerprint(each(wide)) == fingerprint(each(wide.clone()))
        assert fingerprint(each(wide)) != fingerprint(each(other))


def test_sharded_weights_are_put_together(tmp_path: Path) -> None:
    """A model under FSDP2 has the fingerprint that it has whole."""
    distributed: Any = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    plain = weights_fingerprint(model)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        assert isinstance(model[0].weight, DTensor)
        assert weights_fingerprint(model) == plain
    finally:
        distributed.destroy_process_group()


def test_buffers_that_are_filled_are_no_part() -> None:
    """A cache grows as texts get longer; masks and tables count to the bit."""
    module: Any = nn.Module()
    module.register_buffer("cos_cached", torch.ones(3), persistent=False)
    assert buffers_fingerprint(module) is None
    module.register_buffer("mask", torch.ones(3, dtype=torch.bool), persistent=False)
    first = buffers_fingerprint(module)
    module.cos_cached = torch.ones(9)
    assert buffers_fingerprint(module) == first
    module.mask[1] = False
    assert buffers_fingerprint(module) != first


# --- runs of earlier versions


def begun_earlier(store: MemoryStore, lm: LanguageModel, run_name: str | None = None) -> str:
    """Make a run as a version did that knew no buffers and no adapters, and none of its rows."""
    capture = prepare_capture(lm, "layer_1", TEXTS, options=CaptureOptions())
    noted = {k: v for k, v in capture.plan.about["model"].items() if k not in LATER}
    spec = attrs.evolve(capture.spec, model_fingerprint=model_fingerprint(noted))
    about = {**capture.plan.about, "model": noted}
    plan = attrs.evolve(capture.plan, spec=spec.values(), about=about)
    return store.write_run(run_name or spec.run_id(), plan).run_id


def test_runs_of_earlier_versions_go_on(make_model: Make, tokenizer: Any) -> None:
    """By name and by the id that they had: what that version noted is the same."""
    lm, store = LanguageModel(make_model("llama"), tokenizer, model_id="m"), MemoryStore()
    own = begun_earlier(store, lm)
    assert save_activations(lm, "layer_1", TEXTS, store) == own
    named = begun_earlier(store, lm, "named")
    assert save_activations(lm, "layer_1", TEXTS, store, run_name="named") == named
    assert all(store.run(run).is_complete for run in (own, named))
    assert store.runs() == sorted([own, named])
    # A model that has neither keeps its id: nothing is noted of it that was not.
    plain = LanguageModel(make_model("gpt2"), tokenizer, model_id="m")
    store = MemoryStore()
    assert begun_earlier(store, plain) == save_activations(plain, "layer_1", TEXTS, store)


def test_another_model_says_how_to_go_on(make_model: Make, tokenizer: Any) -> None:
    """Its run is refused, and the version is named as a reason."""
    lm, store = LanguageModel(make_model("llama"), tokenizer, model_id="m"), MemoryStore()
    begun_earlier(store, lm, "named")
    _weight(lm.module)
    with pytest.raises(OtherRun, match="model not the same") as caught:
        save_activations(lm, "layer_1", TEXTS, store, run_name="named")
    assert "An earlier version of tenterhook began it" in caught.value.__notes__[0]
    with pytest.raises(OtherRun, match="batch_size is None there and 2 here") as caught:
        save_activations(lm, "layer_1", TEXTS, store, run_name="named", batch_size=2)
