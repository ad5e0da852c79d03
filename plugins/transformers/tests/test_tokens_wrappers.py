"""Selections through wrappers: attached to the wrapper or to the model inside, the same rows."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import tenterhook
from tenterhook.loading import load_model
from tenterhook_transformers import LanguageModel

IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]])
PADDED = torch.tensor([[0, 0, 7, 8, 9], [11, 12, 13, 14, 15]])
LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 4,
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def llama() -> Any:
    """Return a small model in float64."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
    )
    model: Any = hf.LlamaForCausalLM(config)
    return model.double().eval()


def layer_of(module: nn.Module) -> str:
    """Return the name of the second block, whatever is around it."""
    return layer_like(module, "layers.1")


def layer_like(module: nn.Module, end: str) -> str:
    """Return the first name that ends so."""
    names: list[str] = [name for name, _ in module.named_modules()]
    return next(name for name in names if name.endswith(end))


def alone(module: Any, ids: Tensor) -> Tensor:
    """Return what the block gives for the tokens of one text, whole, without a cache."""
    seen: list[Tensor] = []

    def keep(block: nn.Module, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handle = module.get_submodule(layer_of(module)).register_forward_hook(keep)
    with torch.no_grad():
        mask = torch.ones(1, len(ids), dtype=torch.long)
        module(input_ids=ids[None], attention_mask=mask, use_cache=False)
    handle.remove()
    return seen[-1][0][-len(ids) :]


def check(whole: Any, root: nn.Module, ids: Tensor, mask: Tensor, **way: Any) -> None:
    """Compare captures, attached to `root`, of forwards and generations of `whole`."""
    attached, layer = tenterhook.attach(root), layer_of(root)
    with attached.capture(layer, tokens=":") as captured, torch.no_grad():
        whole(ids, attention_mask=mask)
    for row, real, values in zip(ids, mask.bool(), captured.by_row(layer), strict=True):
        torch.testing.assert_close(values, alone(whole, row[real]), rtol=0, atol=1e-9)
    with (
        attached.capture(layer, tokens=":") as captured,
        attached.capture(layer, phase="prompt") as prompt,
    ):
        generate = getattr(whole, "generate", None) or whole.module.generate
        sequences = generate(input_ids=ids, attention_mask=mask, **SETTINGS, **way)
    assert [len(row) for row in prompt.by_row(layer)] == mask.sum(1).tolist()
    for row, real, values in zip(sequences, mask.bool(), captured.by_row(layer), strict=True):
        text = torch.cat([row[: ids.shape[1]][real], row[ids.shape[1] :]])
        torch.testing.assert_close(values, alone(whole, text)[:-1], rtol=0, atol=1e-9)
    tenterhook.assert_clean(root)


class _Wrapper(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        inner: Any = self.module
        return inner.generate(*args, **kwargs)


@pytest.mark.parametrize("inside", [False, True], ids=["wrapper", "inside"])
def test_a_wrapper_of_ones_own(inside: bool) -> None:
    """Anything that forwards, masks given by position, too."""
    model = llama()
    whole = _Wrapper(model)
    root = model if inside else whole
    check(whole, root, PADDED, LEFT)
    attached, layer = tenterhook.attach(root), layer_of(root)
    with attached.capture(layer, tokens="last") as captured, torch.no_grad():
        whole(PADDED, LEFT)
    assert captured.where(layer)[0].tolist() == [[0, 2], [1, 4]]


class _Lends(nn.Module):
    """Hands on what it is given, and lends what the model inside has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Linear(1, 1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "with generate": _Wrapper,
    "without": nn.DataParallel,
    "two": lambda model: _Lends(_Wrapper(model)),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=list(WRAPS))
def test_a_language_model_around_a_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """It tokenizes, generates and captures as around the model inside."""
    texts = ["And the LORD spake unto Moses", "In the"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}

    def rows(lm: Any) -> list[Any]:
        layer = layer_like(lm.module, "h.1")
        with lm.capture(layer, tokens=":") as run:
            lm.inference.execute_inference(texts)
        with lm.capture(layer, tokens=":") as whole, lm.capture(layer, phase="generated") as made:
            text = lm.generate(texts, **settings).texts
        assert lm.max_tokens == 256
        return [text, *run.by_row(layer), *whole.by_row(layer), *made.by_row(layer)]

    plain: Any = load_model("tiny:")
    plain.module.double()
    model: Any = load_model("tiny:")
    lm = LanguageModel(wrap(model.module.double()), model.tokenizer)
    wanted, found = rows(plain), rows(lm)
    assert found[0] == wanted[0]
    assert lm.describe_model()["weights"] == plain.describe_model()["weights"]
    for one, other in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["lora", "prompt", "p", "prefix"])
@pytest.mark.parametrize("inside", [False, True], ids=["wrapper", "inside"])
@pytest.mark.parametrize("way", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_peft(kind: str, inside: bool, way: dict[str, Any]) -> None:
    """Adapters, and tokens that are learned for a prompt, which are none of the text's."""
    peft = pytest.importorskip("peft")
    virtual = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
    config = {
        "lora": lambda: peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False),
        "prompt": lambda: peft.PromptTuningConfig(**virtual),
        "p": lambda: peft.PromptEncoderConfig(encoder_hidden_size=8, **virtual),
        "prefix": lambda: peft.PrefixTuningConfig(**virtual),
    }[kind]()
    base = llama()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of positions that it leaves out
        whole = peft.get_peft_model(base, config).double().eval()
        root = base if inside else whole
        # to the left of padding, virtual tokens are further away than those of a row alone
        ids, mask = (PADDED, LEFT) if kind == "lora" else (IDS, torch.ones_like(IDS))
        check(whole, root, ids, mask, **way)


@pytest.mark.parametrize("how", ["wrapper", "method"])
def test_compiled(how: str) -> None:
    """`torch.compile(model)`, and `model.compile()`."""
    model = llama()
    whole: Any = torch.compile(model, backend="eager") if how == "wrapper" else model
    if how == "method":
        model.compile(backend="eager")
    attached, layer, reference = tenterhook.attach(whole), layer_of(model), llama()
    for _ in range(2):
        with attached.capture(layer, tokens=":") as captured, torch.no_grad():
            whole(PADDED, attention_mask=LEFT)
        for row, real, values in zip(PADDED, LEFT.bool(), captured.by_row(layer), strict=True):
            torch.testing.assert_close(values, alone(reference, row[real]), rtol=0, atol=1e-9)


def test_forward_past_the_hooks() -> None:
    """What is told of `forward` called by itself is right, or it is refused."""
    model = llama()
    attached, layer = tenterhook.attach(model), layer_of(model)
    with attached.capture(layer, tokens=":") as captured, torch.no_grad():
        model.forward(PADDED, LEFT)  # the part inside is called as ever
        torch.func.functional_call(model, dict(model.named_parameters()), (PADDED, LEFT))
    assert [len(call) for call in captured[layer]] == [8, 8]
    said = "the forward of LlamaModel was called past its hooks"
    with (
        pytest.raises(ValueError, match=said),
        attached.capture(layer, tokens=":"),
        torch.no_grad(),
    ):
        model.model.forward(PADDED, LEFT)
