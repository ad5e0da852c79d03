"""Every way of generating against an oracle: the returned rows, run alone, whole, without a cache.

The oracle is a bare torch hook on a bare model. Models are small and in float64, so that a token of
another row or place cannot pass for the right one.
"""

import gc
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import LayerActivationDetector
from tenterhook_selections.generate_calls import GENERATE

WORDS = 97
END, PAD = 2, 0
NEW = 8


COMMON: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
ATTENDING: dict[str, Any] = {
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


def _llama(**more: Any) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**COMMON, **ATTENDING, **more}))


def _gpt2() -> nn.Module:
    more: dict[str, Any] = {**COMMON, "num_attention_heads": 2, "n_positions": 128}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**more))


def _mistral() -> nn.Module:
    return hf.MistralForCausalLM(hf.MistralConfig(**COMMON, **ATTENDING, sliding_window=6))


def _mamba() -> nn.Module:
    return hf.MambaForCausalLM(hf.MambaConfig(**COMMON, state_size=4))


def _rwkv() -> nn.Module:
    return hf.RwkvForCausalLM(hf.RwkvConfig(**COMMON, attention_hidden_size=16))


def _recurrent_gemma() -> nn.Module:
    sizes: dict[str, Any] = {
        **COMMON,
        "num_hidden_layers": 3,
        "intermediate_size": 24,
        "num_attention_heads": 2,
    }
    config = hf.RecurrentGemmaConfig(**sizes, lru_width=16, attention_window_size=32)
    return hf.RecurrentGemmaForCausalLM(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "mistral": _mistral,
    "mamba": _mamba,
    "rwkv": _rwkv,
    "recurrent_gemma": _recurrent_gemma,
}


def made(name: str) -> Any:
    """Return a model of the family, in float64 and eval mode."""
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


BLOCKS = {"llama": "model.layers.1", "gpt2": "transformer.h.1", "mistral": "model.layers.1"}
BLOCKS |= {"mamba": "backbone.layers.1", "rwkv": "rwkv.blocks.1"}
BLOCKS |= {"recurrent_gemma": "model.layers.1"}

LEFT = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
IDS = torch.tensor([[PAD, PAD, PAD, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16, 17]])


def alone(model: nn.Module, layer: str, ids: Tensor, change: Any = None) -> Tensor:
    """Return what a layer gives for one text alone, whole, without a cache: no code of ours."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(input_ids=ids[None], use_cache=False)
    finally:
        handle.remove()
    return seen[-1][0]


@attrs.frozen(eq=False)
class Text:
    """One returned row: its tokens without padding and filling, and how many were given."""

    ids: Tensor
    given: int


def texts_of(sequences: Tensor, mask: Tensor, ends: set[int]) -> list[Text]:
    """Return the returned rows as texts, by their definition alone."""
    copies = len(sequences) // len(mask)
    texts = []
    for row, whole in enumerate(sequences):
        real = mask[row // copies].bool()
        prompt, rest = whole[: mask.shape[1]][real], whole[mask.shape[1] :].tolist()
        end = next((at + 1 for at, id in enumerate(rest) if id in ends), len(rest))
        ids = torch.cat([prompt, torch.tensor(rest[:end], dtype=torch.long)])
        texts.append(Text(ids, len(prompt)))
    return texts


def ends_of(model: Any, **settings: Any) -> int:
    """Return an id with which row 0 ends early when it goes on greedily."""
    whole = model.generate(IDS, attention_mask=LEFT, max_new_tokens=NEW, do_sample=False)
    return int(whole[0, IDS.shape[1] + 2])


@attrs.frozen(eq=False)
class Way:
    """A way of calling `generate`."""

    settings: dict[str, Any]
    one_row: bool = False
    keeps_last: bool = False
    """Whether the last token of a row may have been run."""


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "no cache": {"do_sample": False, "use_cache": False},
    "static": {"do_sample": False, "cache_implementation": "static"},
    "chunks": {"do_sample": False, "prefill_chunk_size": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 3},
    "beams returned": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
    "beams sampled": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
    "beams without cache": {"do_sample": False, "num_beams": 3, "use_cache": False},
    "guidance": {
        "do_sample": False,
        "guidance_scale": 1.7,
        "negative_prompt_ids": torch.tensor([[21, 22, 23], [24, 25, 26]]),
    },
}
ATTENTION = ["llama", "gpt2", "mistral"]
RECURRENT = ["mamba", "rwkv", "recurrent_gemma"]
CASES = [(name, way) for name in ATTENTION for way in WAYS]
CASES += [(name, way) for name in RECURRENT for way in ("greedy", "sampling")]
CASES.remove(("rwkv", "sampling"))


def captured_rows(model: Any, layer: str, call: Callable[[], Tensor]) -> tuple[Any, Any, Any, Any]:
    """Return what `generate` returned, and what captures of tokens have of it."""
    attached = tenterhook.attach(model)
    with (
        attached.capture(layer, tokens=":") as whole,
        attached.capture(layer, phase="prompt") as prompt,
        attached.capture(layer, phase="generated", missing="ignore") as made,
    ):
        sequences = call()
    tenterhook.assert_clean(model)
    return sequences, whole, prompt, made


def check(
    model: Any, layer: str, found: tuple[Any, Any, Any, Any], mask: Tensor, ends: set[int]
) -> None:
    """Compare captures with the oracle, row by row."""
    sequences, whole, prompt, made = found
    near = 1e-6 if "rwkv" in layer else 1e-9  # its state is float32
    texts = texts_of(sequences, mask, ends)
    rows, given, own = whole.by_row(layer), prompt.by_row(layer), made.by_row(layer)
    assert len(rows) == len(given) == len(texts)
    assert whole.cat(layer).shape[0] == sum(map(len, rows))  # each token once
    for at, text in enumerate(texts):
        expected = alone(model, layer, text.ids)
        # transformers runs no token after which it adds nothing
        assert len(text.ids) - 1 <= len(rows[at]) <= len(text.ids), (at, len(rows[at]))
        torch.testing.assert_close(rows[at], expected[: len(rows[at])], rtol=0, atol=near)
        torch.testing.assert_close(given[at], expected[: text.given], rtol=0, atol=near)
        if at < len(own):
            length = len(rows[at]) - text.given
            wanted = expected[text.given : len(rows[at])]
            torch.testing.assert_close(own[at][:length], wanted, rtol=0, atol=near)
            assert len(own[at]) == length


@pytest.mark.parametrize(("name", "way"), CASES, ids=lambda value: str(value))
def test_rows(name: str, way: str) -> None:
    """A capture has each token of each returned row once, as the row alone has it."""
    model, layer = made(name), BLOCKS[name]
    ends = {ends_of(model)}
    settings = {"max_new_tokens": NEW, "eos_token_id": list(ends), "pad_token_id": PAD}
    ids, mask = IDS, LEFT
    if name in RECURRENT:  # padding on the left is no padding for them
        rows = 1 if name == "rwkv" else 2  # its steps are for one row alone
        ids, mask = IDS[1:].repeat(rows, 1), torch.ones(rows, IDS.shape[1], dtype=torch.long)
    torch.manual_seed(1)

    def call() -> Tensor:
        found: Tensor = model.generate(ids, attention_mask=mask, **settings, **WAYS[way])
        return found

    check(model, layer, captured_rows(model, layer, call), mask, ends)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}], ids=str)
def test_embeddings(way: dict[str, Any]) -> None:
    """Of prompts that are given as embeddings alone, what is returned is what comes after."""
    model, layer = made("llama"), BLOCKS["llama"]
    embedded = model.get_input_embeddings()(IDS).detach()

    def call() -> Tensor:
        settings = {**PLAIN, **way, "eos_token_id": None}
        made = model.generate(inputs_embeds=embedded, attention_mask=LEFT, **settings)
        return torch.cat([IDS, made], 1)

    check(model, layer, captured_rows(model, layer, call), LEFT, set())


@pytest.fixture
def push() -> Tensor:
    """Return a vector that the text shows."""
    return 3 * torch.randn(16, generator=torch.Generator().manual_seed(1)).double()


PLAIN: dict[str, Any] = {"max_new_tokens": NEW, "pad_token_id": PAD, "do_sample": False}
SELECTED: list[dict[str, Any]] = [
    {"tokens": "last"},
    {"phase": "generated"},
    {"phase": "prompt"},
    {"tokens": "-3:"},
    {"tokens": [1, 8]},
    {"phase": "prompt", "tokens": -1},
]


class TestAssisted:
    """Candidates are proposed and mostly rejected."""

    @pytest.fixture(params=ATTENTION)
    def model(self, request: pytest.FixtureRequest) -> Any:
        """One family after another."""
        return made(request.param)

    @pytest.fixture(params=["assistant", "sampled", "lookup"])
    def way(self, request: pytest.FixtureRequest, model: Any) -> dict[str, Any]:
        """Another model proposes, or the prompt."""
        if request.param == "lookup":
            return {"prompt_lookup_num_tokens": 3}
        assistant = made(next(name for name in MODELS if _is(model, name)))
        torch.manual_seed(5)
        for weight in assistant.parameters():
            weight.data += 0.05 * torch.randn_like(weight)
        return {"assistant_model": assistant, "do_sample": request.param == "sampled"}

    IDS = IDS[1:].repeat(1, 2)

    def test_rows(self, model: Any, way: dict[str, Any]) -> None:
        """What is kept when it returns is the text's."""
        ends, layer, mask = {ends_of(model)}, block_of(model), torch.ones_like(self.IDS)
        torch.manual_seed(3)

        def call() -> Tensor:
            settings = {**PLAIN, **way, "eos_token_id": list(ends)}
            found: Tensor = model.generate(self.IDS, attention_mask=mask, **settings)
            return found

        check(model, layer, captured_rows(model, layer, call), mask, ends)

    @pytest.mark.parametrize("selected", SELECTED, ids=str)
    def test_steering(self, model: Any, selected: dict[str, Any], push: Tensor) -> None:
        """A change reaches every candidate as the token that it would be."""
        mask = torch.ones_like(self.IDS)
        found = []
        for way in ({"use_cache": False}, {"prompt_lookup_num_tokens": 3}):
            scope = tenterhook.attach(model).steer(
                block_of(model), lambda h: h + push, missing="ignore", **selected
            )
            with scope:
                settings = {**PLAIN, **way, "eos_token_id": None}
                found.append(model.generate(self.IDS, attention_mask=mask, **settings))
        assert torch.equal(*found)


def _is(model: Any, name: str) -> bool:
    return type(MODELS[name]()) is type(model)


def block_of(model: Any) -> str:
    """Return the name of the second block."""
    return next(BLOCKS[name] for name in MODELS if _is(model, name))


@pytest.mark.parametrize("selected", SELECTED, ids=str)
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_steered_text(name: str, selected: dict[str, Any], push: Tensor) -> None:
    """A change by a selection gives the text of the plain way: one row, greedy, no cache."""
    model = made(name)

    def steered(ids: Tensor, mask: Tensor, **way: Any) -> Tensor:
        scope = tenterhook.attach(model).steer(
            BLOCKS[name], lambda h: h + push, missing="ignore", **selected
        )
        with scope:
            settings = {**PLAIN, **way, "eos_token_id": None}
            found: Tensor = model.generate(ids, attention_mask=mask, **settings)
        return found[:, ids.shape[1] :]

    wanted = []
    for row, real in zip(IDS, LEFT.bool(), strict=True):
        ids = row[real][None]
        wanted.append(steered(ids, torch.ones_like(ids), use_cache=False)[0])
    for way in ({}, {"use_cache": False}, WAYS["static"], WAYS["chunks"]):
        for got, want in zip(steered(IDS, LEFT, **way), wanted, strict=True):
            assert torch.equal(got, want), way


def test_turns() -> None:
    """In a cache that is used again positions go on, and what is new and given is prompt."""
    model, layer = made("llama"), BLOCKS["llama"]
    attached, cache = tenterhook.attach(model), hf.DynamicCache(config=model.config)
    settings = {**PLAIN, "eos_token_id": None, "past_key_values": cache}
    with attached.capture(layer, tokens=":") as whole, attached.capture(layer, phase="prompt") as p:
        first = model.generate(IDS, attention_mask=LEFT, **settings)
        ids = torch.cat([first, torch.tensor([[30, 31, 32], [33, 34, 35]])], 1)
        mask = torch.cat([LEFT, torch.ones(2, ids.shape[1] - 7, dtype=torch.long)], 1)
        second = model.generate(ids, attention_mask=mask, **settings)
    for text, row in zip(texts_of(second, LEFT, set()), whole.by_row(layer), strict=True):
        expected = alone(model, layer, text.ids)[:-1]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-9)
    # the prompt of the second turn is the token that the first did not run, and the new ones
    assert [len(call) for call in p[layer] if len(call)] == [11, 8]


def test_unlisted_search() -> None:
    """A search of one's own is refused, with what is right."""

    def own(model: Any, input_ids: Tensor, **more: Any) -> Tensor:
        return torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(-1)], 1)

    model = made("llama")
    attached = tenterhook.attach(model)
    with (
        pytest.raises(ValueError, match=r"custom_generate=.*Right are greedy search, sampling"),
        attached.capture(BLOCKS["llama"], tokens=":"),
    ):
        model.generate(IDS[1:], custom_generate=own, max_new_tokens=1)
    with attached.capture(BLOCKS["llama"]) as captured:
        model.generate(IDS[1:], custom_generate=own, max_new_tokens=1)
    assert len(captured[BLOCKS["llama"]]) == 1


def test_threads() -> None:
    """Eight threads, each with selections and searches of its own."""
    model, layer = made("llama"), BLOCKS["llama"]
    scopes = GENERATE.scopes  # hooks that other tests have registered
    reference, ends = made("llama"), {ends_of(made("llama"))}
    attached, wrong = tenterhook.attach(model), list[Any]()
    ways: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"use_cache": False}]
    done: list[tuple[Tensor, list[Tensor]]] = []

    def work(number: int) -> None:
        try:
            ids = (IDS + 3 * number) % WORDS * LEFT
            settings = {**PLAIN, **ways[number % 3], "eos_token_id": list(ends)}
            with attached.capture(layer, tokens=":") as captured:
                sequences = model.generate(ids, attention_mask=LEFT, **settings)
            done.append((sequences, captured.by_row(layer)))
        except Exception as error:  # noqa: BLE001 - whatever it was, the test fails
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for sequences, rows in done:
        for text, row in zip(texts_of(sequences, LEFT, ends), rows, strict=True):
            expected = alone(reference, layer, text.ids)[: len(row)]
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-9)
    assert GENERATE.scopes == scopes  # nothing is left
    assert GENERATE.installed == bool(scopes)


def test_a_model_that_is_dropped_with_its_hooks() -> None:
    """`generate` is wrapped as long as the model is there."""
    gc.collect()
    scopes = GENERATE.scopes
    model = tenterhook.attach(_llama())
    model.layers.register_hook("layer_0", LayerActivationDetector("layer_0"), tokens="last")
    assert GENERATE.scopes == scopes + 1
    del model
    gc.collect()
    assert GENERATE.scopes == scopes
