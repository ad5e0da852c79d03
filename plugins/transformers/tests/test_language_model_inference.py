"""Forward passes over texts: what they return, what they leave as it was."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, Detector, HookError, HookWarning
from tenterhook_capture.documents import Documents
from tenterhook_transformers import EmptyText, LanguageModel, TooLong

Make = Callable[..., Any]
LAYER = "transformer.h.0"


class Keep(Detector):
    """Keeps the last activation."""

    seen: Tensor | None = None
    inputs: Any = None

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep it."""
        self.inputs = input
        self.seen = output if isinstance(output, Tensor) else None


class Double(Controller):
    """Doubles the activation."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor:
        """Return twice the activation."""
        assert output is not None
        return 2 * output


class Fail(Detector):
    """Fails."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Raise."""
        raise KeyError("on purpose")


def torch_hooks(module: nn.Module) -> list[int]:
    """Count the torch hooks of every module, of every kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(m, kind)) for m in module.modules() for kind in kinds]


@pytest.fixture
def lm(make_model: Make, tokenizer: Any) -> LanguageModel:
    """A small GPT-2."""
    return LanguageModel(make_model(), tokenizer)


def test_outputs_and_encodings(lm: LanguageModel, texts: list[str]) -> None:
    """The output is the model's own for the inputs returned beside it."""
    outputs, encodings = lm.inference.execute_inference(texts)
    assert torch.equal(outputs.logits, lm.module(**encodings).logits)
    assert encodings["attention_mask"].sum(1).tolist() == [len(i) for i in lm.token_ids(texts)]
    assert not outputs.logits.requires_grad
    assert not outputs.logits.is_inference()


def test_one_text_is_a_batch_of_one(lm: LanguageModel) -> None:
    """A str gives what a list of it gives."""
    one, encodings = lm.inference.execute_inference("In the beginning")
    assert torch.equal(one.logits, lm.inference.execute_inference(["In the beginning"])[0].logits)
    assert encodings["input_ids"].shape[0] == 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "opt"])
def test_detectors_change_nothing(
    family: str, make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    """With a detector on every layer the logits are, bit for bit, what they were."""
    lm = LanguageModel(make_model(family), tokenizer)
    before = lm.inference.execute_inference(texts)[0].logits
    lm.missing = "ignore"  # among all layers are lists of modules, which never run
    for name in lm.layers.list_layers():
        lm.layers.register_hook(name, Keep())
    assert torch.equal(lm.inference.execute_inference(texts)[0].logits, before)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "opt"])
def test_controllers_change_what_a_torch_hook_does(
    family: str, make_model: Make, tokenizer: Any, texts: list[str]
) -> None:
    """Logits and gradients are, to the bit, those of a torch hook that returns the same tensor."""
    model = make_model(family)
    lm = LanguageModel(model, tokenizer)
    layer = lm.layers.index.blocks()[0]
    inputs = dict(lm.tokenize(texts))

    def double(_: Any, __: Any, output: Any) -> Any:
        return 2 * output if isinstance(output, Tensor) else (2 * output[0], *output[1:])

    def run() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().mean().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return logits.detach(), grads

    handle = model.get_submodule(layer).register_forward_hook(double)
    logits, grads = run()
    handle.remove()
    lm.layers.register_hook(layer, Double())
    found, found_grads = run()
    assert torch.equal(found, logits)
    assert all(torch.equal(a, b) for a, b in zip(found_grads, grads, strict=True))
    assert torch.equal(lm.inference.execute_inference(texts)[0].logits, logits)


def test_without_controllers(lm: LanguageModel, texts: list[str]) -> None:
    """Controllers can be off for one call; detectors run, and all is as before afterwards."""
    plain = lm.inference.execute_inference(texts)[0].logits
    keep = Keep()
    lm.layers.register_hook(LAYER, Double())
    lm.layers.register_hook("transformer.h.1", keep)
    steered = lm.inference.execute_inference(texts)[0].logits
    assert not torch.equal(steered, plain)
    muted = lm.inference.execute_inference(texts, with_controllers=False)[0].logits
    assert torch.equal(muted, plain)
    assert keep.seen is not None
    assert torch.equal(lm.inference.execute_inference(texts)[0].logits, steered)
    assert [hook.enabled for hook in lm.layers] == [True, True]


def test_controllers_are_back_after_an_error(lm: LanguageModel, texts: list[str]) -> None:
    """An error in a call without controllers leaves hooks, mode and torch hooks as they were."""
    lm.layers.register_hook(LAYER, Double())
    steered = lm.inference.execute_inference(texts)[0].logits
    lm.module.train()
    lm.module.get_submodule("transformer.h.0").eval()
    modes = [module.training for module in lm.module.modules()]
    fail = Fail()
    lm.layers.register_hook("transformer.h.1", fail)
    counts = torch_hooks(lm.module)
    with pytest.raises(HookError, match="on purpose"):
        lm.inference.execute_inference(texts, with_controllers=False)
    assert torch_hooks(lm.module) == counts
    assert [module.training for module in lm.module.modules()] == modes
    lm.layers.unregister_hook(fail)
    assert torch.equal(lm.inference.execute_inference(texts)[0].logits, steered)


def test_mode_is_put_back(lm: LanguageModel, texts: list[str]) -> None:
    """Dropout is off in the call, and each module's mode is put back."""
    lm.module.train()
    lm.module.get_submodule("transformer.h.1").eval()
    modes = [module.training for module in lm.module.modules()]
    first, second = (lm.inference.execute_inference(texts)[0].logits for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in lm.module.modules()] == modes


def test_stop_after_layer(lm: LanguageModel, texts: list[str]) -> None:
    """The forward ends after the layer: it runs, the next does not, and there is no output."""
    early, late = Keep(), Keep()
    lm.layers.register_hook(LAYER, early)
    lm.layers.register_hook("transformer.h.1", late)
    counts = torch_hooks(lm.module)
    outputs, encodings = lm.inference.execute_inference(texts, stop_after_layer="layer_0")
    assert outputs is None
    assert encodings["input_ids"].shape[0] == len(texts)
    assert early.seen is not None
    assert late.seen is None
    assert torch_hooks(lm.module) == counts


def test_stop_after_an_unknown_layer(lm: LanguageModel) -> None:
    """A layer that is not there is an error before anything runs."""
    with pytest.raises(tenterhook.UnknownLayer, match=r"transformer\.h\.0"):
        lm.inference.execute_inference("text", stop_after_layer="transformer.h.0.")


def test_stop_after_a_layer_that_does_not_run(lm: LanguageModel) -> None:
    """Where the layer is never reached, a warning says that the forward went on to its end."""
    lm.module.spare = nn.Linear(2, 2)
    with pytest.warns(HookWarning, match="'spare': it never ran"):
        outputs, _ = lm.inference.execute_inference("text", stop_after_layer="spare")
    assert outputs is not None


def test_autocast(lm: LanguageModel, texts: list[str]) -> None:
    """With autocast the linear layers compute in the dtype asked for."""
    keep = Keep()
    lm.layers.register_hook("transformer.h.0.mlp.c_fc", keep)
    lm.inference.execute_inference(texts, autocast=True, autocast_dtype=torch.bfloat16)
    assert keep.seen is not None
    assert keep.seen.dtype is torch.bfloat16
    lm.inference.execute_inference(texts)
    assert keep.seen.dtype is torch.float32


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "no texts"), ("", "Text 0 has no tokens"), (["a", ""], "Text 1 has no tokens")],
)
def test_nothing_to_run_on(
    texts: Any, message: str, make_model: Make, make_tokenizer: Make
) -> None:
    """No text, or one without tokens, is an error that says which."""
    lm = LanguageModel(make_model(), make_tokenizer(begins=False))
    with pytest.raises(EmptyText, match=message) as caught:
        lm.inference.execute_inference(texts)
    assert isinstance(caught.value, ValueError)


def test_not_text(lm: LanguageModel) -> None:
    """Anything but text is an error that shows it."""
    with pytest.raises(TypeError, match="Text 1 is int, not str: 3"):
        lm.inference.execute_inference(["a", 3])  # type: ignore[arg-type]


def test_text_longer_than_the_context(lm: LanguageModel) -> None:
    """A text with more tokens than positions is an error with the way out, which works."""
    long = ["short", "word " * 200]
    with pytest.raises(TooLong, match=r"Text 1 has \d+ tokens and the model takes 64.*truncation"):
        lm.inference.execute_inference(long)
    _, encodings = lm.inference.execute_inference(long, {"truncation": True})
    assert encodings["input_ids"].shape == (2, 64)


def test_rotary_models_take_longer_texts(make_model: Make, tokenizer: Any) -> None:
    """A model without a table of positions runs on a longer text, as it does without us."""
    lm = LanguageModel(make_model("llama"), tokenizer)
    _, encodings = lm.inference.execute_inference("word " * 100)
    assert encodings["input_ids"].shape[1] > 64


def test_left_padding_tells_positions(make_model: Make, make_tokenizer: Make) -> None:
    """With padding on the left the inputs hold the positions; on the right they need not."""
    for side in ("left", "right"):
        lm = LanguageModel(make_model(), make_tokenizer(side))
        _, encodings = lm.inference.execute_inference(["one two three", "one"])
        assert ("position_ids" in encodings) == (side == "left")


def test_detectors_see_ids_and_mask(lm: LanguageModel, texts: list[str]) -> None:
    """A hook before the model sees ids and mask by name."""
    keep = Keep("pre_forward")
    lm.layers.register_hook("input", keep)
    _, encodings = lm.inference.execute_inference(texts)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(keep.inputs.kwargs[name], encodings[name])


def test_other_results_of_the_tokenizer(lm: LanguageModel) -> None:
    """What the model's forward does not take stays with the caller."""
    _, encodings = lm.inference.execute_inference("one two", {"return_offsets_mapping": True})
    assert encodings["offset_mapping"].shape[-1] == 2


def test_threads_do_not_disturb_each_other(lm: LanguageModel, texts: list[str]) -> None:
    """Threads that run with and without controllers each get their own, every time."""
    plain = {text: lm.inference.execute_inference(text)[0].logits for text in texts}
    lm.layers.register_hook(LAYER, Double())
    steered = {text: lm.inference.execute_inference(text)[0].logits for text in texts}
    counts = torch_hooks(lm.module)
    lm.module.train()  # each call wants eval mode, none may take it from another

    def run(at: int) -> bool:
        text, muted = texts[at % len(texts)], at % 2 == 0
        outputs, _ = lm.inference.execute_inference(text, with_controllers=not muted)
        return torch.equal(outputs.logits, (plain if muted else steered)[text])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(300)))
    assert torch_hooks(lm.module) == counts
    assert all(module.training for module in lm.module.modules())


def test_threads_tokenize_side_by_side(
    make_model: Make, make_tokenizer: Make, texts: list[str]
) -> None:
    """Threads that pad, truncate and do neither with one tokenizer get what each asked for."""
    lm = LanguageModel(make_model(), make_tokenizer(padding=False))
    full = lm.tokenize(texts)["input_ids"]
    ids = lm.token_ids(texts)

    def run(at: int) -> bool:
        match at % 3:
            case 0:
                return torch.equal(lm.tokenize(texts)["input_ids"], full)
            case 1:
                return lm.token_ids(texts) == ids
        cut = lm.tokenize(texts, truncation=True, max_length=3)["input_ids"]
        return torch.equal(cut, full[:, :3])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(300)))


# --- data sets


def test_infer_dataset(lm: LanguageModel, texts: list[str]) -> None:
    """A data set is run in batches, in order, each as a call of its own would."""
    found = list(lm.inference.infer_dataset(texts, batch_size=4))
    assert [encodings["input_ids"].shape[0] for _, encodings in found] == [4, 2]
    expected = lm.inference.execute_inference(texts[4:])[0]
    assert torch.equal(found[1][0].logits, expected.logits)


def test_infer_dataset_takes_what_a_batch_needs(lm: LanguageModel) -> None:
    """Texts are taken a batch at a time, so endless ones do."""
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(len(taken))
            yield "one two"

    batches = lm.inference.infer_dataset(endless(), batch_size=2)
    next(batches)
    next(batches)
    assert len(taken) == 4


def test_infer_dataset_limit_and_settings(lm: LanguageModel, texts: list[str]) -> None:
    """Documents can be run, the first few of them, up to a layer."""
    batches = lm.inference.infer_dataset(
        Documents(texts), batch_size=2, sample_limit=3, stop_after_layer=LAYER
    )
    sizes = []
    for outputs, encodings in batches:
        assert outputs is None
        sizes.append(encodings["input_ids"].shape[0])
    assert sizes == [2, 1]


def test_infer_dataset_checks_at_once(lm: LanguageModel, texts: list[str]) -> None:
    """Mistakes are raised by the call, not by the first batch."""
    with pytest.raises(ValueError, match="batch_size=0"):
        lm.inference.infer_dataset(texts, batch_size=0)
    with pytest.raises(tenterhook.UnknownLayer):
        lm.inference.infer_dataset(texts, stop_after_layer="nope")
    with pytest.raises(TypeError, match="int is no data set"):
        lm.inference.infer_dataset(3)
    with pytest.raises(ValueError, match="field='text': list has no fields"):
        lm.inference.infer_dataset(texts, field="text")


def test_leaving_a_data_set_early_leaves_nothing_open(lm: LanguageModel, texts: list[str]) -> None:
    """Between batches no scope is open, so a caller may stop or steer at any batch."""
    lm.layers.register_hook(LAYER, Double())
    steered = lm.inference.execute_inference(texts[:1])[0].logits
    for _ in lm.inference.infer_dataset(texts, batch_size=1, with_controllers=False):
        assert torch.equal(lm(**lm.tokenize(texts[:1])).logits, steered)
        break
    assert torch.equal(lm(**lm.tokenize(texts[:1])).logits, steered)
