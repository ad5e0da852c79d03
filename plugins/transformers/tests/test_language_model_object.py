"""The language model itself: what it shares, what it tokenizes, how it describes itself."""

import copy
import gc
import hashlib
import json
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, Detector
from tenterhook_store import MemoryStore
from tenterhook_transformers import EmptyText, LanguageModel, ModelWithoutTokenizer
from tenterhook_transformers.description import tokenizer_fingerprint
from tenterhook_transformers.weights import weights_fingerprint

Make = Callable[..., Any]


class Watch(Detector):
    """Does nothing."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Do nothing."""


class Autoencoder(Watch, Controller):
    """Detects and controls, as a sparse autoencoder does."""

    def __init__(self) -> None:
        Detector.__init__(self)

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor:
        """Return zeros."""
        assert output is not None
        return torch.zeros_like(output)


@pytest.fixture
def lm(make_model: Make, tokenizer: Any) -> LanguageModel:
    """A small GPT-2."""
    return LanguageModel(make_model(), tokenizer)


# --- one module, one registry


def test_attach_gives_the_language_model(lm: LanguageModel) -> None:
    """Attaching to its module gives the language model itself."""
    assert tenterhook.attach(lm.module) is lm
    assert tenterhook.attach(lm) is lm


def test_joins_what_was_attached_before(make_model: Make, tokenizer: Any) -> None:
    """After `attach`, the registry and the context are those that were there."""
    module = make_model()
    first = tenterhook.attach(module)
    id = first.layers.register_hook("transformer.h.0", Watch())
    lm = LanguageModel(module, tokenizer)
    assert lm.layers is first.layers
    assert lm.context is first.context
    assert lm.context.tokenizer is tokenizer
    assert id in lm.layers
    del first
    gc.collect()
    assert tenterhook.attach(module).layers is lm.layers


def test_language_models_of_one_module(make_model: Make, make_tokenizer: Make) -> None:
    """Two of one module share hooks; each keeps its own tokenizer and store."""
    module, left, right = make_model(), make_tokenizer("left"), make_tokenizer("right")
    stores = MemoryStore(), MemoryStore()
    first = LanguageModel(module, left, stores[0])
    second = LanguageModel(first, right, stores[1], model_id="again")
    assert second.layers is first.layers
    assert (first.tokenizer, second.tokenizer) == (left, right)
    assert (first.store, second.store) == stores
    assert second.context.tokenizer is right
    assert second.context.store is stores[1]
    assert second.context.model_id == "again"
    second.attach_sae(Autoencoder(), 0)
    assert len(first.detach_sae()) == 1


def test_nothing_keeps_it_alive(make_model: Make, tokenizer: Any) -> None:
    """A language model that nobody holds is gone, and its module with it."""
    lm = LanguageModel(make_model(), tokenizer)
    lm.inference.execute_inference("text")
    lm.describe_model()
    gone = weakref.ref(lm.module)
    del lm
    gc.collect()
    assert gone() is None


def test_wrong_model() -> None:
    """A name in place of a model is an error that names the way to load one."""
    with pytest.raises(TypeError, match=r"not str.*from_pretrained"):
        LanguageModel("gpt2", None)  # type: ignore[arg-type]


def test_wrong_tokenizer(make_model: Make) -> None:
    """What is none is an error that names the way without one."""
    with pytest.raises(TypeError, match=r"str is no tokenizer. Leave it out"):
        LanguageModel(make_model(), "gpt2")


def test_without_a_tokenizer(make_model: Make, tokenizer: Any) -> None:
    """Text is refused with the way out, and token ids are run."""
    lm = LanguageModel(make_model())
    (ids,) = LanguageModel(make_model(), tokenizer).token_ids(["a text"])
    assert lm.run_token_ids([ids]).tolist() == [[True] * len(ids)]
    assert lm.describe_model()["tokenizer"] is None
    ways: list[Callable[[], Any]] = [
        lambda: lm.token_ids(["a text"]),
        lambda: lm.generate("a text"),
        lambda: lm.tokenize("a text"),
        lambda: lm.inference.execute_inference("a text"),
        lambda: lm.chat([{"role": "user", "content": "hi"}]),
    ]
    for way in ways:
        with pytest.raises(ModelWithoutTokenizer, match=r"no tokenizer.*token ids.*tokenizer="):
            way()


def test_context(lm: LanguageModel, tokenizer: Any) -> None:
    """The context has the tokenizer and its special tokens, dtype and device."""
    assert lm.context.tokenizer is tokenizer
    assert lm.context.special_token_ids == {0, 1, 2}
    assert lm.context.dtype is torch.float32
    assert lm.context.device.type == "cpu"


def test_store_can_be_set(lm: LanguageModel) -> None:
    """A store that is set is the context's too."""
    assert lm.store is None
    lm.store = MemoryStore()
    assert lm.context.store is lm.store


# --- tokens


def test_tokenize(lm: LanguageModel, texts: list[str]) -> None:
    """Texts become tensors of one length with a mask."""
    encodings = lm.tokenize(texts)
    ids = lm.token_ids(texts)
    for row, mask, expected in zip(
        encodings["input_ids"], encodings["attention_mask"], ids, strict=True
    ):
        assert row[mask.bool()].tolist() == expected
    assert lm.tokenize("one")["input_ids"].shape[0] == 1


def test_tokenize_settings(lm: LanguageModel) -> None:
    """The tokenizer's own settings replace ours."""
    assert lm.tokenize("word " * 100, truncation=True)["input_ids"].shape == (1, 64)
    assert lm.tokenize("a", padding="max_length", max_length=9)["input_ids"].shape == (1, 9)
    left = lm.tokenize(["a b c", "a"], padding_side="left")
    assert left["attention_mask"][1].tolist()[0] == 0


def test_tokenize_nothing(lm: LanguageModel) -> None:
    """No texts are an error."""
    with pytest.raises(EmptyText, match="no texts"):
        lm.tokenize([])


@pytest.mark.parametrize("side", ["left", "right"])
def test_missing_pad_token(side: str, make_model: Make, make_tokenizer: Make) -> None:
    """Without a pad token batches are padded and masked, and the tokenizer stays without one."""
    tokenizer = make_tokenizer(side, padding=False)
    lm = LanguageModel(make_model(), tokenizer)
    mask = lm.tokenize(["one two three", "one"])["attention_mask"]
    assert mask[1].tolist()[0 if side == "left" else -1] == 0
    assert tokenizer.pad_token is None
    tokenizer.add_tokens(["<new>"])
    assert lm.tokenize(["<new>", "a b"])["input_ids"].max() == len(tokenizer) - 1


def test_token_ids(make_model: Make, make_tokenizer: Make) -> None:
    """Ids have special tokens, no padding and no end; a text without tokens has none."""
    lm = LanguageModel(make_model(), make_tokenizer())
    short, long = lm.token_ids(["a", "word " * 500])
    assert short[0] == 0
    assert len(long) > 500
    assert lm.token_ids([]) == []
    assert LanguageModel(make_model(), make_tokenizer(begins=False)).token_ids([""]) == [[]]


@pytest.mark.parametrize(("documents", "message"), [([], "no texts"), ([[5], []], "Text 1")])
def test_no_token_ids_to_run(lm: LanguageModel, documents: Any, message: str) -> None:
    """No documents, or one without tokens, are an error."""
    with pytest.raises(EmptyText, match=message):
        lm.run_token_ids(documents)


# --- description


def test_description_is_json(lm: LanguageModel, tokenizer: Any) -> None:
    """It says what made the activations, in plain JSON values."""
    found = lm.describe_model()
    assert json.loads(json.dumps(found)) == found
    assert found["class"] == "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel"
    assert found["config"]["n_embd"] == 32
    assert found["dtype"] == "float32"
    assert found["device"] == "cpu"
    assert found["tokenizer"]["class"] == type(tokenizer).__name__
    assert {"python", "torch", "transformers", "tenterhook"} <= set(found["versions"])


def test_description_is_the_models_own(make_model: Make, make_tokenizer: Make) -> None:
    """Two models that are alike are described alike, whatever was run on one of them."""
    first, second = (LanguageModel(make_model(), make_tokenizer(), model_id="m") for _ in range(2))
    first.inference.execute_inference(["a", "b c d"], {"truncation": True})
    assert first.describe_model() == second.describe_model()


def test_weights_fingerprint_sees_every_weight(make_model: Make) -> None:
    """A change to any one weight changes it, also after it was taken; so does the dtype."""
    model = make_model()
    seen = {weights_fingerprint(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        seen.add(weights_fingerprint(model))
    assert len(seen) == 1 + len(list(model.parameters()))
    assert weights_fingerprint(model.to(torch.bfloat16)) not in seen
    assert weights_fingerprint(copy.deepcopy(model)) == weights_fingerprint(model)


def test_weights_fingerprint_is_a_plain_sum(make_model: Make) -> None:
    """It is the sha256 over each weight's name, dtype, shape and the sha256 of its bytes."""
    model = make_model()
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        total.update(hashlib.sha256(content).digest())
    assert weights_fingerprint(model) == total.hexdigest()


def test_weights_fingerprint_sees_all_writes(make_model: Make) -> None:
    """A write that torch does not count, through `.data`, gives another fingerprint too."""
    model = make_model()
    first = weights_fingerprint(model)
    next(model.parameters()).data.mul_(2)
    assert weights_fingerprint(model) != first


def test_weights_without_memory(make_model: Make) -> None:
    """Weights that are nowhere have no fingerprint."""
    assert weights_fingerprint(make_model().to("meta")) is None


def test_tokenizer_fingerprint(make_tokenizer: Make) -> None:
    """It tells what gives other tokens, not how batches are padded."""
    plain = tokenizer_fingerprint(make_tokenizer())
    assert tokenizer_fingerprint(make_tokenizer("left")) == plain
    assert tokenizer_fingerprint(make_tokenizer(begins=False)) != plain
    larger = make_tokenizer()
    larger.add_tokens(["<new>"])
    assert tokenizer_fingerprint(larger) != plain


# --- sparse autoencoders


def test_attach_and_detach(lm: LanguageModel) -> None:
    """One that is attached changes the output; detached, it does not."""
    plain = lm.inference.execute_inference("one two")[0].logits
    sae = Autoencoder()
    assert lm.attach_sae(sae, "layer_0") == sae.id
    assert sae.context is lm.context
    assert not torch.equal(lm.inference.execute_inference("one two")[0].logits, plain)
    assert lm.detach_sae(sae) == [sae]
    assert torch.equal(lm.inference.execute_inference("one two")[0].logits, plain)
    assert lm.detach_sae(sae) == []


def test_detach_by_layer_id_or_all(lm: LanguageModel) -> None:
    """They come off by layer, by id, or all at once; other hooks stay."""
    other = Autoencoder()
    lm.layers.register_hook("transformer.h.0", other)
    saes = [Autoencoder() for _ in range(4)]
    for sae, layer in zip(saes, ["layer_0", "layer_1", "layer_1", "lm_head"], strict=True):
        lm.attach_sae(sae, layer)
    assert lm.detach_sae("transformer.h.1") == saes[1:3]
    assert lm.detach_sae(saes[3].id) == [saes[3]]
    assert lm.detach_sae() == [saes[0]]
    assert list(lm.layers) == [other]


def test_attach_takes_both_kinds(lm: LanguageModel) -> None:
    """A hook that only detects is refused, and nothing is attached."""
    with pytest.raises(TypeError, match="both Detector and Controller, not Watch"):
        lm.attach_sae(Watch(), "layer_0")
    assert len(lm.layers) == 0


def test_detach_from_an_unknown_layer(lm: LanguageModel) -> None:
    """A name that is neither an id nor a layer is an error."""
    with pytest.raises(tenterhook.UnknownLayer):
        lm.detach_sae("nope")


# --- saving


def test_save_needs_a_store(lm: LanguageModel, texts: list[str]) -> None:
    """Without a store it says how to give one."""
    with pytest.raises(ValueError, match=r"no store to save to.*store=LocalStore"):
        lm.activations.save("transformer.h.0", texts)


def test_save_to_the_models_store(make_model: Make, tokenizer: Any, texts: list[str]) -> None:
    """It saves to the store the model was made with, under the name and limit asked for."""
    lm = LanguageModel(make_model(), tokenizer, MemoryStore())
    assert lm.store is not None
    assert lm.activations.save("layer_0", texts, "mine", 2, 1) == "mine"
    run = lm.store.run("mine")
    assert len(run["transformer.h.0"]) == sum(map(len, lm.token_ids(texts[:2])))


def test_save_checks_layer_and_limit_first(lm: LanguageModel) -> None:
    """A wrong layer or limit is raised before the data is read."""
    with pytest.raises(tenterhook.UnknownLayer):
        lm.activations.save("transformer.h.9", "no-such-file.txt", store=MemoryStore())
    with pytest.raises(ValueError, match="sample_limit=0"):
        lm.activations.save("layer_0", "no-such-file.txt", sample_limit=0, store=MemoryStore())


def test_save_leaves_controllers_as_they_are(lm: LanguageModel, texts: list[str]) -> None:
    """Controllers that are registered apply to what is saved, as in any forward."""
    lm.layers.register_hook("transformer.h.0", Autoencoder())
    store = MemoryStore()
    run_id = lm.activations.save("transformer.h.0", texts, store=store)
    assert not store.run(run_id)["transformer.h.0"][:].any()


def test_hooks_of_a_model_that_nobody_holds(make_model: Make, tokenizer: Any) -> None:
    """A hook registered in one line, on a model that is kept nowhere, is found by `attach`."""
    module = make_model()
    LanguageModel(module, tokenizer).layers.register_hook("layer_0", Watch())
    gc.collect()
    assert len(tenterhook.attach(module).layers) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda lm: pickle.loads(pickle.dumps(lm))])
@pytest.mark.parametrize("attached", [False, True])
def test_a_copy_reads_text(
    make_model: Make, make_tokenizer: Make, again: Callable[[LanguageModel], Any], attached: bool
) -> None:
    """A copy or pickle is a language model with its tokenizer, and without hooks and store."""
    module = make_model()
    first = tenterhook.attach(module) if attached else None
    lm = LanguageModel(module, make_tokenizer(), MemoryStore(), model_id="mine", revision="r1")
    lm.layers.register_hook("layer_0", Watch())
    twin = again(lm)
    assert type(twin) is LanguageModel
    assert twin.module is not module
    assert (twin.context.model_id, twin.revision, twin.store) == ("mine", "r1", None)
    assert len(twin.layers) == 0
    assert twin.tokenize("a b")["input_ids"].tolist() == lm.tokenize("a b")["input_ids"].tolist()
    assert twin.describe_model() == lm.describe_model()
    lm.layers.clear()
    del first
