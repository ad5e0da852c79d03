"""Loading: from a folder, in which dtype, as which class, and what is said when it fails."""

import json
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook import Extension, hookimpl
from tenterhook.errors import TenterhookError
from tenterhook.plugins import PluginManager
from tenterhook_capture import (
    CaptureOptions,
    CaptureRecipe,
    ChangedSince,
    WorkerFactory,
    begin_run,
    prepare_capture,
    resume_run,
    save_activations,
)
from tenterhook_capture.documents import read_documents
from tenterhook_capture.loading import ModelName, load_model, name_of
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, OtherRun
from tenterhook_store.schemes import UnknownScheme
from tenterhook_transformers import (
    LanguageModel,
    MissingWeights,
    ModelWithoutTokenizer,
    UnknownModel,
    load,
    plugin,
)
from tenterhook_transformers.errors import BadLoadOption

Make = Callable[..., Any]


@pytest.fixture
def saved(tmp_path: Path, make_model: Make, tokenizer: Any) -> Callable[..., Path]:
    """Return a function that saves a model of a family with its tokenizer and returns where."""

    def save(family: str = "gpt2", dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
        folder = tmp_path / f"a-{family}"
        make_model(family, **settings).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("family", "kind"),
    [("gpt2", "GPT2LMHeadModel"), ("bert", "BertForMaskedLM"), ("llama", "LlamaForCausalLM")],
)
def test_from_pretrained(
    family: str, kind: str, saved: Make, make_model: Make, texts: list[str]
) -> None:
    """A saved model comes back as the class it was, in eval mode, with the same output."""
    folder = saved(family)
    lm = LanguageModel.from_pretrained(str(folder))
    assert type(lm.module).__name__ == kind
    assert not lm.module.training
    assert lm.context.model_id == str(folder)
    with torch.no_grad():
        expected = make_model(family)(**lm.tokenize(texts)).logits
    assert torch.equal(lm.inference.execute_inference(texts)[0].logits, expected)


def test_names_are_kept_with_runs(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded by a path, even a relative one, is loaded again by what the run holds."""
    folder = saved()
    (tmp_path / "data.txt").write_text("one\ntwo words\n")
    monkeypatch.chdir(tmp_path)
    store = MemoryStore()
    lm = LanguageModel.from_pretrained(folder.name, dtype=torch.bfloat16, device="cpu")
    options = CaptureOptions(rows_per_unit=2)
    documents = read_documents("data.txt")
    prepared = prepare_capture(lm, "layer_0", documents, options=options)
    begin_run(store, prepared, "run")
    monkeypatch.chdir("/")
    recipe = CaptureRecipe.of_run(store.run("run"))
    assert recipe.model == ModelName(str(folder), "bfloat16", None, "cpu")
    resume_run(store, "run")
    assert store.run("run").is_complete
    assert store.run("run")["layer_0"].dtype is torch.bfloat16


@pytest.mark.parametrize("factory", [False, True], ids=["resumed", "by a worker elsewhere"])
def test_rows_that_the_name_does_not_give(saved: Make, tmp_path: Path, factory: bool) -> None:
    """A run whose rows something changed that no name has does not go on by its names."""
    (tmp_path / "data.txt").write_text("".join(f"line {at} of the text\n" for at in range(9)))
    lm = LanguageModel.from_pretrained(saved(), attn_implementation="eager")
    block = lm.layers.index.resolve("layer_0").module
    handle = block.register_forward_hook(lambda module, args, output: output * 1.1)
    documents, store = read_documents(str(tmp_path / "data.txt")), MemoryStore()
    layers = ["layer_0", "layer_0:input", "layer_1", "transformer.h.1.attn:attention"]

    def stop(progress: Any) -> None:
        if progress.rows > 40:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"run_name": "run", "rows_per_unit": 20, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        save_activations(lm, layers, documents, store, progress=stop, **settings)
    before = store.run("run").committed
    recipe = CaptureRecipe.of_run(store.run("run"))
    with pytest.raises(
        ChangedSince, match=r"token \d+ of document .*Put them back, or say where they"
    ):
        WorkerFactory(store, "run", recipe)() if factory else resume_run(store, "run")
    assert store.run("run").committed == before
    handle.remove()
    with pytest.raises(OtherRun, match=r"when it is computed again, .*, and 1 more layer too"):
        save_activations(lm, layers, documents, store, **settings)
    block.register_forward_hook(lambda module, args, output: output * 1.1)
    save_activations(lm, layers, documents, store, **settings)
    assert store.run("run").metadata["sessions"][-1]["probe"]["verdict"] == "equal"


def test_models_that_no_name_gives(saved: Make, tokenizer: Any) -> None:
    """With a tokenizer, or settings, that `load_model` does not take, there is no name."""
    folder = saved()
    assert name_of(LanguageModel.from_pretrained(folder)) is not None
    assert name_of(LanguageModel.from_pretrained(folder, tokenizer=tokenizer)) is None
    remote = LanguageModel.from_pretrained(folder, trust_remote_code=False)
    assert name_of(remote) is None


def test_the_attention_implementation_is_part_of_the_name(saved: Make) -> None:
    """Whichever call loads the model; one that is not there is an error with those that are."""
    folder = str(saved())
    for lm in (
        LanguageModel.from_pretrained(folder, attn_implementation="eager"),
        load_model(folder, attn_implementation="eager"),
    ):
        name = name_of(lm)
        assert name == ModelName(folder, attn_implementation="eager")
        assert name.load().describe_model()["attention"] == "eager"
    with pytest.raises(ValueError, match=r"attn_implementation='eagre': .*supported.*'?eager"):
        load_model(folder, attn_implementation="eagre")


def test_bare_model(saved: Make, make_model: Make, texts: list[str]) -> None:
    """A checkpoint without a head gives a model without one."""
    folder = saved()
    make_model().transformer.save_pretrained(folder)
    lm = LanguageModel.from_pretrained(folder)
    assert type(lm.module).__name__ == "GPT2Model"
    assert lm.inference.execute_inference(texts)[0].last_hidden_state.shape[-1] == 32


def test_dtype_is_the_checkpoints(saved: Make) -> None:
    """The dtype is the checkpoint's, unless another is asked for, as a dtype or by name."""
    folder = saved(dtype=torch.bfloat16)
    for asked, dtype in (
        (None, torch.bfloat16),
        ("auto", torch.bfloat16),
        ("float32", torch.float32),
        (torch.float64, torch.float64),
    ):
        assert load(str(folder), dtype=asked).context.dtype is dtype


def test_unknown_dtype(saved: Make) -> None:
    """A dtype that torch lacks is an error that names some."""
    with pytest.raises(ValueError, match=r"dtype='float33' is not a dtype of torch.*'bfloat16'"):
        load(str(saved()), dtype="float33")


@pytest.mark.parametrize("device", ["gpuu", "cuda:99", "vulkan"])
def test_unknown_device(device: str, saved: Make) -> None:
    """A device that is not there is an error, a short one, with those that are."""
    match = rf"device='{device}' is not there: .*\. There is 'cpu'"
    with pytest.raises(ValueError, match=match) as caught:
        load(str(saved()), device=device)
    assert len(str(caught.value)) < 400


def test_device(saved: Make) -> None:
    """The model goes to the device asked for."""
    assert load(str(saved()), device="cpu").context.device.type == "cpu"


def test_settings(saved: Make) -> None:
    """A store and a name can be given, and what transformers takes is handed on."""
    marker: Any = object()
    lm = LanguageModel.from_pretrained(
        str(saved()), marker, model_id="mine", attn_implementation="eager"
    )
    assert lm.store is marker
    assert lm.context.model_id == "mine"
    assert lm.describe_model()["attention"] == "eager"


def test_tokenizer_of_ones_own(saved: Make, make_tokenizer: Make) -> None:
    """A tokenizer can be given in place of the folder's."""
    tokenizer = make_tokenizer("left")
    lm = LanguageModel.from_pretrained(str(saved()), tokenizer=tokenizer)
    assert lm.tokenizer is tokenizer


def test_description_is_the_same_wherever_it_lies(saved: Make, tmp_path: Path) -> None:
    """Loaded from another folder under the same name, the description is the same."""
    folder = saved()
    first = LanguageModel.from_pretrained(folder, model_id="m").describe_model()
    folder.rename(tmp_path / "elsewhere")
    again = LanguageModel.from_pretrained(tmp_path / "elsewhere", model_id="m").describe_model()
    assert again == first
    assert str(tmp_path) not in json.dumps(first)


def test_missing_weights(saved: Make, make_model: Make) -> None:
    """Where the checkpoint lacks weights, a warning says that they are random."""
    folder = saved("bert")
    config = json.loads((folder / "config.json").read_text())
    make_model("bert").bert.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(MissingWeights, match=r"lacks \d+ weights of the model.*random"):
        LanguageModel.from_pretrained(folder)


def test_by_name(saved: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Core's `load_model` loads a folder, with and without the scheme."""
    manager = PluginManager(autoload=False)
    manager.register(plugin)
    monkeypatch.setattr("tenterhook.plugins.default._default", manager)
    folder = saved()
    assert load_model(str(folder)).max_tokens == 64
    assert load_model(f"hf:{folder}", dtype="bfloat16").context.dtype is torch.bfloat16


def load_words(name: str, **_: Any) -> WordModel:
    """Be the loader of a stranger's plugin."""
    return WordModel()


class _Offers:
    """A plugin with loaders of its own: of this package's models, and of a stranger's."""

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare them."""
        return [
            Extension("mine", "tenterhook_transformers:load", "Ours, under another scheme."),
            Extension("words", f"{__name__}:load_words", "A stranger's."),
        ]


class _Own(LanguageModel):
    """A language model of a class of the user's own."""


def test_from_pretrained_by_scheme(saved: Make, plugin_manager: PluginManager) -> None:
    """A name with a scheme is loaded by its plugin, as `load_model` does it, into any class."""
    plugin_manager.register(_Offers())
    folder, store = saved(), MemoryStore()
    lm = LanguageModel.from_pretrained(
        f"mine:{folder}", store, dtype="bfloat16", model_id="my model"
    )
    assert type(lm) is LanguageModel
    assert (lm.context.dtype, lm.context.model_id, lm.store) == (torch.bfloat16, "my model", store)
    assert name_of(lm) == ModelName(f"mine:{folder}", "bfloat16")
    own = _Own.from_pretrained(f"mine:{folder}")
    assert type(own) is _Own
    assert own.store is None
    assert own.tokenize("The dog").input_ids.shape[0] == 1


def test_from_pretrained_by_scheme_refuses(saved: Make, plugin_manager: PluginManager) -> None:
    """What the plugin of the scheme does not take is named, and so is what it does not give."""
    plugin_manager.register(_Offers())
    with pytest.raises(BadLoadOption, match=r"'mine:x' is loaded by .* takes no subfolder, token"):
        LanguageModel.from_pretrained("mine:x", token="t", subfolder="s")
    with pytest.raises(UnknownModel, match=r"its loader gives a WordModel, .* no LanguageModel"):
        LanguageModel.from_pretrained("words:")
    with pytest.raises(UnknownScheme, match="No installed plugin has models named 'wrds:'"):
        LanguageModel.from_pretrained("wrds:")


# --- what goes wrong


def message_of(name: Any, **options: Any) -> str:
    """Return the one line that loading a name fails with."""
    with pytest.raises(UnknownModel) as caught:
        load(str(name), **options)
    error = caught.value
    assert isinstance(error, TenterhookError)
    assert isinstance(error, OSError)
    assert isinstance(error, LookupError)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    message = str(error)
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(error))) == message
    return message


def test_missing_folder(saved: Make) -> None:
    """A path that is not there names the folders most like it."""
    folder = saved()
    message = message_of(folder.with_name("a-gtp2"))
    assert "there is no such folder" in message
    assert repr(str(folder)) in message


def test_missing_folder_in_a_missing_folder(tmp_path: Path) -> None:
    """Where the folder around it is missing too, it says so."""
    assert "There is no folder" in message_of(tmp_path / "no" / "such")


def test_folder_without_a_model(saved: Make) -> None:
    """A folder without a config names the folder inside that has one."""
    folder = saved()
    message = message_of(folder.parent)
    assert "has no config.json" in message
    assert repr(str(folder)) in message


def test_file(tmp_path: Path) -> None:
    """A file in place of a folder is told apart."""
    (tmp_path / "model.safetensors").touch()
    assert "this is a file" in message_of(tmp_path / "model.safetensors")


def test_folder_without_a_tokenizer(tmp_path: Path, make_model: Make) -> None:
    """It is loaded without one; where there are files of one, they must give it."""
    make_model().save_pretrained(tmp_path / "m")
    lm = load(str(tmp_path / "m"))
    assert lm.tokenizer is None
    with pytest.raises(ModelWithoutTokenizer, match="no tokenizer, so it reads no text"):
        lm.token_ids(["a"])
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    assert "its tokenizer cannot be loaded" in message_of(tmp_path / "m")


CODE = """open({mark!r}, "w")
from transformers import GPT2Config, PreTrainedTokenizerFast
class Config(GPT2Config):
    model_type = "of-its-own"
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_code_of_a_folder(
    part: str, saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run, and nothing asks on stdin; the message says how it would."""
    folder, mark = saved(), tmp_path / "it-ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    if part == "config":
        values = {"model_type": "of-its-own", "auto_map": {"AutoConfig": "code.Config"}}
        (folder / "config.json").write_text(json.dumps(values))
    else:
        path = folder / "tokenizer_config.json"
        kinds = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **kinds}))
    asked: list[str] = []

    def answer(text: str = "") -> str:
        asked.append(text)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    # In the place of a tokenizer's own class transformers makes do with one that it has.
    refused: Any = (
        nullcontext()
        if part == "tokenizer"
        else pytest.raises(UnknownModel, match=r"its config needs code .* trust_remote_code=True")
    )
    for options in ({}, {"trust_remote_code": None}, {"trust_remote_code": False}):
        with refused:
            LanguageModel.from_pretrained(str(folder), **options)
        assert asked == []
        assert not mark.exists()


def test_folder_without_weights(saved: Make) -> None:
    """So does one without weights."""
    folder = saved()
    (folder / "model.safetensors").unlink()
    assert "its weights cannot be loaded" in message_of(folder)


def test_damaged_weights(saved: Make) -> None:
    """Weights that are cut short are an error of ours too."""
    weights = saved() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "its weights cannot be loaded" in message_of(weights.parent)


def test_config_that_is_none(saved: Make) -> None:
    """A config of no model is an error that says so."""
    folder = saved()
    (folder / "config.json").write_text('{"model_type": "no-such"}')
    assert "its config cannot be loaded" in message_of(folder)


def test_unknown_name_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Make) -> None:
    """A name on the hub fails at once when the hub may not be asked, naming folders like it."""
    saved("gpt2")
    monkeypatch.chdir(tmp_path)
    message = message_of("a-gpt3")
    assert "not in the cache" in message
    assert "HF_HUB_OFFLINE" in message
    assert "'a-gpt2'" in message


def test_unknown_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the hub is not asked, which would take half a minute."""

    def unknown(*_: Any) -> None:
        raise socket.gaierror

    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "the hub is out of reach" in message_of("someone/some-model", revision="v1")


def test_impossible_name() -> None:
    """A name that the hub would not have is an error of ours."""
    assert "No model 'a b'" in message_of("a b")


# --- the plugin


@pytest.mark.parametrize(("kind", "name"), [("loaders", "load"), ("datasets", "read")])
def test_scheme_names_the_function(kind: str, name: str) -> None:
    """The scheme `hf` stands for `load` among the loaders and for `read` among the data sets."""
    import tenterhook_transformers

    manager = PluginManager(autoload=False)
    manager.register(plugin)
    assert manager.extension(kind, "hf").load() is getattr(tenterhook_transformers, name)


def test_public_names() -> None:
    """The package gives out the names it lists, and no others."""
    import tenterhook_transformers

    assert tenterhook_transformers.__all__ == sorted(tenterhook_transformers.__all__)
    assert all(hasattr(tenterhook_transformers, name) for name in tenterhook_transformers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Langauge'"):
        _ = tenterhook_transformers.Langauge


def test_import_is_light() -> None:
    """Importing the package and its plugin module imports neither torch nor transformers."""
    code = (
        "import sys, tenterhook_transformers, tenterhook_transformers.plugin as plugin;"
        "plugin.tenterhook_loaders(), plugin.tenterhook_datasets();"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
