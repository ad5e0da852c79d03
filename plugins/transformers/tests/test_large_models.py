"""Models that do not fit a device or memory: offloaded, on several devices, in fewer bits.

Each is captured, steered, selected from, generates, is saved from and gone on with, as a model that
lies in memory is. What the libraries do to the numbers is theirs: each is compared with itself.
"""

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import pytest
import torch
from test_shared_models import test_two_processes as two_processes
from torch import Tensor, nn

from tenterhook.errors import TenterhookError
from tenterhook_capture import CaptureRecipe, prepare_capture, resume_run
from tenterhook_capture.documents import read_documents
from tenterhook_capture.identity import model_fingerprint
from tenterhook_capture.loading import ModelName, NoSuchOption, load_model, name_of
from tenterhook_capture.save import save_activations
from tenterhook_store import MemoryStore, OtherRun
from tenterhook_transformers import LanguageModel
from tenterhook_transformers.errors import BadLoadOption
from tenterhook_transformers.large_models import LARGE, QUANTIZATIONS

PAGE = Path(__file__).parents[3] / "docs/how-to/large-models.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TEXTS = ["The quick brown fox", "Short.", "Hooks watch what happens inside models"]

Make = Callable[..., Any]
Way = Callable[[Path], LanguageModel]


@pytest.fixture
def folder(tmp_path: Path, make_model: Make, tokenizer: Any) -> Path:
    """A small Llama, whose layers of 64 and 32 features every method takes."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    make_model("llama", **sizes).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _loaded(folder: Path, **options: Any) -> LanguageModel:
    return LanguageModel.from_pretrained(folder, **options)


def _changed(folder: Path, *, change: Callable[[Any], Any]) -> LanguageModel:
    lm = LanguageModel.from_pretrained(folder)
    return LanguageModel(change(lm.module) or lm.module, lm.tokenizer, model_id="changed")


def _tied(folder: Path) -> LanguageModel:
    config = json.loads(folder.joinpath("config.json").read_text())
    folder.joinpath("config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    return _changed(folder, change=_in_memory)


MAP = {
    "model.embed_tokens": "disk",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def _on_disk(model: Any) -> Any:
    return accelerate.disk_offload(model, tempfile.mkdtemp(), execution_device=torch.device("cpu"))


def _in_memory(model: Any) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


PLACED: dict[str, Way] = {
    "device_map auto": partial(_loaded, device_map="auto"),
    "device_map over memory and disk": partial(_loaded, device_map=MAP),
    "device_map, all on disk": partial(_loaded, device_map={"": "disk"}),
    "cpu_offload": partial(_changed, change=_in_memory),
    "disk_offload": partial(_changed, change=_on_disk),
    "cpu_offload of tied weights": _tied,
}


def _dynamic(model: Any) -> Any:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    return quantize(model, {nn.Linear}, dtype=torch.qint8)


def _torchao(model: Any) -> Any:
    torchao: Any = importlib.import_module("torchao.quantization")
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    return model


NEEDS = {"int8": "torchao", "fp8": "torchao", "quantize_": "torchao"}
NEEDS |= {"quanto-int8": "optimum.quanto", "quanto-fp8": "optimum.quanto"}
NEEDS |= {"bnb-8bit": "bitsandbytes", "bnb-4bit": "bitsandbytes"}
QUANTIZED: dict[str, Way] = {
    "quantize_dynamic": partial(_changed, change=_dynamic),
    "int8": partial(_loaded, quantization_config="int8"),
    "fp8": partial(_loaded, quantization_config="fp8"),
    "quantize_": partial(_changed, change=_torchao),
    "quanto-int8": partial(_loaded, quantization_config="quanto-int8"),
    "quanto-fp8": partial(_loaded, quantization_config="quanto-fp8"),
    "bnb-8bit": partial(_loaded, quantization_config="bnb-8bit"),
    "bnb-4bit": partial(_loaded, quantization_config="bnb-4bit"),
}


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _need(way: str) -> None:
    package = NEEDS.get(way)
    if package is not None and not _is_there(package):
        pytest.skip(f"{package} is not installed; `nox -s large` has it")


each_way = pytest.mark.parametrize("way", [*PLACED, *QUANTIZED])
WAYS = PLACED | QUANTIZED


@pytest.mark.matrix(sample=3)
@each_way
def test_hooks_see_and_change_what_torch_hooks_do(folder: Path, way: str) -> None:
    """Captures, edits, selected tokens and generation, with inputs where the model computes."""
    _need(way)
    lm = WAYS[way](folder)
    assert lm.context.device.type == "cpu"
    seen: list[Tensor] = []
    block = lm.layers.index.resolve("layer_1").module
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with lm.capture("layer_1", "output") as captured:
        lm.inference.execute_inference(TEXTS)
    handle.remove()
    assert torch.equal(captured.last("layer_1"), seen[0])
    with lm.capture("layer_1", tokens=[0, -1], features=slice(4)) as chosen:
        lm.inference.execute_inference(TEXTS)
    assert chosen.last("layer_1").shape == (2 * len(TEXTS), 4)
    assert torch.equal(chosen.by_row("layer_1")[0][0], seen[0][0, 0, :4])

    handle = block.register_forward_hook(lambda module, args, output: output * 2)
    with lm.capture("output") as wanted:
        lm.inference.execute_inference(TEXTS)
    handle.remove()
    with lm.steer("layer_1", lambda tensor: tensor * 2), lm.capture("output") as steered:
        lm.inference.execute_inference(TEXTS)
    assert torch.equal(steered.last("output"), wanted.last("output"))
    assert not torch.equal(steered.last("output"), captured.last("output"))

    with lm.capture("layer_1", tokens="generated") as new:
        lm.generate(TEXTS, max_new_tokens=3, do_sample=False)
    assert [len(row) for row in new.by_row("layer_1")] == [3] * len(TEXTS)


@pytest.mark.matrix(sample=3)
@each_way
def test_runs_are_saved_and_gone_on_with(folder: Path, tmp_path: Path, way: str) -> None:
    """By the same call, and by their names alone where the model has one."""
    _need(way)
    tmp_path.joinpath("data.txt").write_text("".join(f"line {n} of the text\n" for n in range(9)))
    documents, store = read_documents(str(tmp_path / "data.txt")), MemoryStore()

    def stop(progress: Any) -> None:
        if progress.rows > 40:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"run_name": "run", "rows_per_unit": 20}
    lm = WAYS[way](folder)
    with pytest.raises(KeyboardInterrupt):
        save_activations(lm, "layer_1", documents, store, progress=stop, **settings)
    assert 0 < len(store.run("run").committed) < store.run("run").plan.unit_count
    again = WAYS[way](folder)
    if name_of(again) is None:
        save_activations(again, "layer_1", documents, store, **settings)
    else:
        resume_run(store, "run")
    run = store.run("run")
    assert run.is_complete
    assert run.metadata["sessions"][-1]["probe"]["verdict"] == "equal"
    whole = MemoryStore()
    save_activations(WAYS[way](folder), "layer_1", documents, whole, **settings)
    (layer,) = run.layers
    assert torch.equal(run[layer][:], whole.run("run")[layer][:])


def _identity(lm: LanguageModel) -> str:
    return model_fingerprint(lm.describe_model())


@pytest.mark.parametrize("way", PLACED)
def test_where_a_model_lies_is_no_part_of_what_it_is(folder: Path, way: str) -> None:
    """A run that was begun in memory goes on offloaded, and the other way round."""
    placed = PLACED[way](folder)
    assert _identity(placed) == _identity(LanguageModel.from_pretrained(folder))


@pytest.mark.matrix(sample=2)
@pytest.mark.parametrize("way", QUANTIZED)
def test_what_weights_are_kept_as_is_part_of_it(folder: Path, make_model: Make, way: str) -> None:
    """The same before and after a forward, and for each weight that was another one."""
    _need(way)
    lm = QUANTIZED[way](folder)
    before = _identity(lm)
    assert before != _identity(LanguageModel.from_pretrained(folder))
    lm.inference.execute_inference(TEXTS)
    assert _identity(lm) == before == _identity(QUANTIZED[way](folder))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    model = make_model("llama", **sizes)
    model.model.layers[1].mlp.up_proj.weight.data *= 1.01  # in the scales alone
    model.save_pretrained(folder)
    assert _identity(QUANTIZED[way](folder)) != before


def test_options_are_part_of_the_name(folder: Path, tmp_path: Path) -> None:
    """Whichever call loads the model, and in the recipe of its runs, as plain values."""
    tmp_path.joinpath("data.txt").write_text("some text\n" * 3)
    spread = {"": torch.device("cpu")}
    for lm in (
        LanguageModel.from_pretrained(folder, device_map=spread, max_memory={"cpu": "1GiB"}),
        load_model(str(folder), device_map={"": "cpu"}, max_memory={"cpu": "1GiB"}),
    ):
        name = name_of(lm)
        wanted = ModelName(str(folder), device_map={"": "cpu"}, max_memory={"cpu": "1GiB"})
        assert name == wanted
        store = MemoryStore()
        save_activations(lm, "layer_0", read_documents(str(tmp_path / "data.txt")), store)
        recipe = CaptureRecipe.of_run(store.run(store.runs()[0]))
        assert recipe.model == wanted
        there = recipe.elsewhere(device="cpu").model
        assert there == ModelName(str(folder), device="cpu")  # one device for all of it


def test_recipes_without_them_are_as_they_were(folder: Path, tmp_path: Path) -> None:
    """So that an earlier version reads a run that needs none of them."""
    tmp_path.joinpath("data.txt").write_text("some text\n" * 3)
    lm = LanguageModel.from_pretrained(folder)
    documents = read_documents(str(tmp_path / "data.txt"))
    store = MemoryStore()
    save_activations(lm, "layer_0", documents, store, run_name="run")
    values = store.run("run").metadata["recipe"]["model"]
    assert values.keys() == {"name", "dtype", "revision", "device", "attn_implementation"}


def test_settings_of_a_library_are_named_by_their_values(folder: Path) -> None:
    """A config object gives the same name as the mapping of its values."""
    if not _is_there("optimum.quanto"):
        pytest.skip("optimum.quanto is not installed; `nox -s large` has it")
    from transformers import QuantoConfig

    config = QuantoConfig(weights="int8")
    lm = LanguageModel.from_pretrained(folder, quantization_config=config)
    name = name_of(lm)
    assert name is not None
    assert name.quantization_config == config.to_dict()
    assert _identity(lm) == _identity(name.load())  # type: ignore[arg-type]
    assert _identity(lm) == _identity(_loaded(folder, quantization_config="quanto-int8"))
    assert _identity(lm) == _identity(_loaded(folder, quantization_config=config, device="cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "device_map": "auto"}, r"device='cpu' and device_map='auto' both say"),
        ({"device": "cpu", "tp_plan": "auto"}, r"device='cpu' and tp_plan='auto' both say"),
        ({"device_map": "auto", "tp_plan": "auto"}, r"device_map= and tp_plan= both say where"),
        ({"tp_plan": "all"}, r"tp_plan='all' is no plan: give 'auto'"),
        ({"quantization_config": "int7"}, r"'int7' is no word for one: give 'int8', 'fp8'"),
        ({"quantization_config": {"quant_method": "none"}}, r"quantization_config=.*none"),
    ],
)
def test_options_that_make_no_sense(folder: Path, options: Any, message: str) -> None:
    """Each is refused before weights are read, with what there is."""
    with pytest.raises(BadLoadOption, match=message):
        LanguageModel.from_pretrained(folder, **options)


def test_a_method_whose_package_is_missing_is_named(folder: Path) -> None:
    """With what it needs."""
    if _is_there("hqq"):
        pytest.skip("hqq is installed")
    with pytest.raises(TenterhookError, match=r"(?i)hqq"):
        LanguageModel.from_pretrained(folder, quantization_config={"quant_method": "hqq"})


def test_loaders_that_do_not_take_them_are_named() -> None:
    """As that of hook points, which rebuilds the model."""
    with pytest.raises(
        NoSuchOption, match=r"device_map='auto': the loader of 'points:tiny:' takes"
    ):
        load_model("points:tiny:", device_map="auto")
    with pytest.raises(TypeError, match="is no plain value, so no other process can be told"):
        load_model("tiny:", device_map={"": object()})


def test_quantized_weights_that_changed_make_another_run(folder: Path) -> None:
    """A scale that somebody wrote to is seen as a weight is."""
    if not _is_there("torchao"):
        pytest.skip("torchao is not installed; `nox -s large` has it")
    store = MemoryStore()
    lm = _loaded(folder, quantization_config="int8")
    save_activations(lm, "layer_1", TEXTS, store, run_name="run")
    weight: Any = lm.module.get_submodule("model.layers.0.mlp.up_proj").weight
    names, _ = weight.__tensor_flatten__()
    with torch.no_grad():
        for name in names:
            part = getattr(weight, name)
            if part.is_floating_point():
                part.mul_(2)
    with pytest.raises(OtherRun, match="model not the same"):
        save_activations(lm, "layer_1", TEXTS, store, run_name="run")


def test_the_page_has_the_ways_that_are_tested() -> None:
    """Every word for fewer bits with its package, every way to share a model, and no other."""
    words, shared = _tables("large-models.md")
    found = {word: package for cell, _, package in words for word in cell.split(", ")}
    quoted = {f"`{word}`": f"`{NEEDS[word].replace('.', '-')}`" for word in QUANTIZATIONS}
    assert found == quoted
    (mark,) = (m for m in two_processes.pytestmark if m.name == "parametrize")
    ways = " ".join(first for first, *_ in shared)
    assert len(shared) == len(set(mark.args[1]) - {"parallelize_module"})  # in the row of tp_plan
    for kind in mark.args[1]:
        assert kind in ways
    for option in LARGE:
        assert option in PAGE.read_text()


def _tables(page: str) -> list[list[list[str]]]:
    """Return the cells of a page's tables, without their heads."""
    rows = PAGE.with_name(page).read_text().split("\n\n")
    tables = [each.splitlines()[2:] for each in rows if each.startswith("| ")]
    return [[[*map(str.strip, row.strip("| ").split("|"))] for row in rows] for rows in tables]


def test_warnings_of_libraries_stay_theirs(folder: Path) -> None:
    """Nothing of ours warns of a model that is laid out over memory and disk."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lm = _loaded(folder, device_map=MAP)
        prepare_capture(lm, "layer_1", TEXTS, options=_options())
    assert not [each for each in caught if "tenterhook" in str(each.category)]


def _options() -> Any:
    from tenterhook_capture import CaptureOptions

    return CaptureOptions()
