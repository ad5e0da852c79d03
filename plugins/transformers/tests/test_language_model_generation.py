"""Generation: padding, what is returned, hooks on every step."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tenterhook
from tenterhook.hooks import Controller, HookWarning
from tenterhook_transformers import EmptyText, Generation, LanguageModel

Make = Callable[..., Any]
PROMPTS = ["The quick brown fox", "In", "Tokens are real or"]
LENGTH: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


class _Negates(Controller):
    def modify_activations(self, module: Any, inputs: Any, output: Any) -> Any:
        return -output


@pytest.fixture(params=["gpt2", "llama", "opt", "gemma3"])
def lm(request: pytest.FixtureRequest, make_model: Make, tokenizer: Any) -> LanguageModel:
    """Models that generate, with a tokenizer that pads on the right."""
    return LanguageModel(make_model(request.param, eos_token_id=None), tokenizer)


@pytest.fixture
def gpt2(make_model: Make, tokenizer: Any) -> LanguageModel:
    """A model whose rows can end early."""
    return LanguageModel(make_model(), tokenizer)


def test_each_prompt_goes_on_as_alone(lm: LanguageModel) -> None:
    """In a batch, each prompt is continued as it is alone, whatever side the tokenizer pads."""
    together = lm.generate(PROMPTS, **LENGTH)
    for row, prompt in enumerate(PROMPTS):
        alone = lm.generate(prompt, **LENGTH)
        assert together.token_ids[row] == alone.token_ids[0]
        assert together.texts[row] == alone.text


def test_parts_of_a_generation(lm: LanguageModel) -> None:
    """Tokens are prompt and continuation, and so are the texts."""
    prompts = lm.token_ids(PROMPTS)
    found = lm.generate(PROMPTS, **LENGTH)
    assert found.prompt_lengths == [len(ids) for ids in prompts]
    for row, ids in enumerate(prompts):
        assert found.token_ids[row][: len(ids)] == ids
        assert len(found.token_ids[row]) == len(ids) + 6
        assert found.texts[row] == PROMPTS[row] + found.continuations[row]
        assert found.sequences[row][found.mask[row]].tolist() == found.token_ids[row]
    assert list(found) == found.texts
    assert len(found) == 3
    assert found[-1] == found.texts[2]
    assert str(found) == "\n".join(found.texts)


def test_tokenizer_stays_as_it_is(make_model: Make, make_tokenizer: Make) -> None:
    """Side and pad token are the user's afterwards, and a missing pad token is no hindrance."""
    tokenizer = make_tokenizer("right", padding=False)
    lm = LanguageModel(make_model(), tokenizer)
    found = lm.generate(PROMPTS, **LENGTH)
    assert tokenizer.pad_token is None
    assert tokenizer.padding_side == "right"
    assert found.prompt_lengths == [len(ids) for ids in lm.token_ids(PROMPTS)]


def test_text_of_several(gpt2: LanguageModel) -> None:
    """The one text of several is an error that says where they are."""
    with pytest.raises(ValueError, match=r"3 texts; take them from \.texts"):
        _ = gpt2.generate(PROMPTS, **LENGTH).text


def test_rows_that_end(gpt2: LanguageModel) -> None:
    """A row ends with its end token; what fills it up after that is no token of it."""
    plain = gpt2.generate(PROMPTS, **LENGTH)
    width = plain.sequences.shape[1] - 6
    end = int(plain.sequences[0, width + 2])
    found = gpt2.generate(PROMPTS, **LENGTH, eos_token_id=end)
    start = found.prompt_lengths[0]
    until = plain.token_ids[0].index(end, start) + 1
    assert found.token_ids[0] == plain.token_ids[0][:until]
    for row, ids in enumerate(found.token_ids):
        new = ids[found.prompt_lengths[row] :]
        assert end not in new[:-1]


def test_settings_of_transformers(gpt2: LanguageModel) -> None:
    """Several samples for a prompt give several rows; other outputs are kept too."""
    found = gpt2.generate(
        PROMPTS[:2],
        max_new_tokens=3,
        num_beams=2,
        num_return_sequences=2,
        return_dict_in_generate=True,
        output_scores=True,
    )
    lengths = [len(ids) for ids in gpt2.token_ids(PROMPTS[:2])]
    assert found.prompt_lengths == [lengths[0]] * 2 + [lengths[1]] * 2
    assert found.raw.scores is not None
    assert isinstance(found, Generation)


def test_captures_line_up_with_tokens(lm: LanguageModel) -> None:
    """A capture has a call a step: the prompt first, then each new token, the last one too."""
    layer = lm.layers.index.blocks()[1]
    with lm.capture(layer) as captured:
        found = lm.generate(PROMPTS, **LENGTH)
    assert len(captured[layer]) == 7
    assert captured.cat(layer, dim=1).shape[:2] == (3, found.sequences.shape[1])


@pytest.mark.parametrize("cache", [True, False])
def test_a_row_for_every_token(lm: LanguageModel, cache: bool) -> None:
    """With and without a cache, the rows are those of one forward over the final sequence."""
    layer = lm.layers.index.blocks()[1]
    with lm.capture(layer, tokens=":") as captured:
        found = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
    for row, ids in zip(captured.by_row(layer), found.token_ids, strict=True):
        with lm.capture(layer) as alone:
            lm.run_token_ids([ids])
        assert row.shape[0] >= len(ids)  # rows that ended early go on with padding
        assert torch.allclose(row[: len(ids)], alone.last(layer)[0], atol=1e-4)


def test_steering_reaches_every_step(lm: LanguageModel) -> None:
    """A change applies at every step, with and without the cache alike."""
    layer = lm.layers.index.blocks()[1]
    plain = lm.generate(PROMPTS, **LENGTH)
    torch.manual_seed(1)
    steps = []
    direction: Tensor | None = None

    def push(activation: Tensor) -> Tensor:
        nonlocal direction
        if direction is None:
            direction = 5 * torch.randn(activation.shape[-1])
        steps.append(activation.shape[1])
        return activation + direction

    with lm.steer(layer, push):
        steered = lm.generate(PROMPTS, **LENGTH)
        cached = list(steps)
        again = lm.generate(PROMPTS, **LENGTH, use_cache=False)
        muted = lm.generate(PROMPTS, **LENGTH, with_controllers=False)
    assert len(cached) == 6
    assert cached[1:] == [1] * 5
    assert steered.token_ids != plain.token_ids
    assert steered.token_ids == again.token_ids
    assert muted.token_ids == plain.token_ids


def test_generated_tokens_can_be_selected(gpt2: LanguageModel) -> None:
    """Scopes know which tokens were the prompt's and which were generated."""
    pytest.importorskip("tenterhook_selections.selection")
    with gpt2.capture("transformer.h.0", phase="generated", missing="ignore") as captured:
        found = gpt2.generate(PROMPTS, **LENGTH)
    rows = sum(len(call.reshape(-1, call.shape[-1])) for call in captured["transformer.h.0"])
    assert rows == 3 * 6  # each generated token has its row, the last one too
    assert len(found) == 3


def test_mode_and_gradients(gpt2: LanguageModel) -> None:
    """Generation runs in eval mode, puts the mode back, and leaves gradients on."""
    gpt2.module.train()
    found = [gpt2.generate(PROMPTS, **LENGTH).token_ids for _ in range(2)]
    assert found[0] == found[1]
    assert all(module.training for module in gpt2.module.modules())
    assert torch.is_grad_enabled()


def test_model_that_cannot_generate(make_model: Make, tokenizer: Any) -> None:
    """A masked language model says that it cannot."""
    lm = LanguageModel(make_model("bert"), tokenizer)
    with pytest.raises(ValueError, match=r"BertForMaskedLM cannot generate text.*ForCausalLM"):
        lm.generate("x")


def test_no_prompts(gpt2: LanguageModel) -> None:
    """No prompts are an error."""
    with pytest.raises(EmptyText):
        gpt2.generate([])


def test_hook_that_never_ran(make_model: Make, tokenizer: Any) -> None:
    """A registered hook that no step came by is named at the end, once."""
    lm = LanguageModel(make_model("gpt2"), tokenizer)
    lm.layers.register_hook("transformer.h", _Negates())
    with pytest.warns(HookWarning, match="'transformer.h' is a ModuleList that has no forward"):
        lm.generate(PROMPTS, max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.generate(PROMPTS, max_new_tokens=2)


class TestEncoderDecoder:
    """Models with two sequences of tokens."""

    @pytest.fixture
    def t5(self, tokenizer: Any) -> LanguageModel:
        """A small model, whose rows never end early."""
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            eos_token_id=None,
        )
        config.decoder_start_token_id = 0
        module: Any = transformers.T5ForConditionalGeneration(config)
        return LanguageModel(module.eval(), tokenizer)

    def test_forward_of_texts_alone(self, t5: LanguageModel) -> None:
        """The decoder's tokens are wanted, and the error says how to give them."""
        with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
            t5.inference.execute_inference(PROMPTS)
        with pytest.raises(ValueError, match=r"Use lm\.generate\(texts\), or call"):
            t5.run_token_ids([[1, 2], [3]])
        assert t5(**t5.tokenize(PROMPTS), decoder_input_ids=torch.zeros(3, 1).long()) is not None

    def test_tokens_of_which(self, t5: LanguageModel) -> None:
        """A selection of tokens is refused at once, with the way out."""
        for make in (
            lambda: t5.capture("encoder.block.0", tokens="last"),
            lambda: t5.steer("decoder.block.0", torch.neg, phase="prompt"),
        ):
            with pytest.raises(ValueError, match=r"does not say whose tokens.*get_encoder\(\)"):
                make()

    def test_tokens_of_a_part(self, t5: LanguageModel) -> None:
        """Attached to its parts, each counts its own tokens while the whole generates."""
        module: Any = t5.module
        encoder, decoder = (
            tenterhook.attach(each) for each in (module.get_encoder(), module.get_decoder())
        )
        with (
            encoder.capture("layer_0", tokens=":") as read,
            decoder.capture("layer_0", tokens=":") as written,
        ):
            t5.generate(PROMPTS, max_new_tokens=4)
        lengths = t5.tokenize(PROMPTS)["attention_mask"].sum(1).tolist()
        assert [len(row) for row in read.by_row("layer_0")] == lengths
        assert [len(row) for row in written.by_row("layer_0")] == [4] * len(PROMPTS)

    def test_rows_are_prompts(self, t5: LanguageModel) -> None:
        """Rows are prompts, with all their beams, in the decoder too."""
        with t5.capture("decoder.block.0", rows=1) as captured:
            t5.generate(PROMPTS, max_new_tokens=2, num_beams=3)
        assert {len(each) for each in captured["decoder.block.0"]} == {3}
