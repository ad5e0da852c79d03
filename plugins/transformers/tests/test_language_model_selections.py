"""Selections while a model generates: prompt and generated tokens, rows, beams, samples, caches."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook import NeverFired
from tenterhook_transformers import LanguageModel

Make = Callable[..., Any]
PROMPTS = ["The quick brown fox", "In", "Tokens are real or"]
NEW = 5
LENGTH: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}


@pytest.fixture(params=["gpt2", "llama", "opt"])
def lm(request: pytest.FixtureRequest, make_model: Make, tokenizer: Any) -> LanguageModel:
    """Models whose rows never end early."""
    return LanguageModel(make_model(request.param, eos_token_id=None), tokenizer)


@pytest.fixture
def gpt2(make_model: Make, tokenizer: Any) -> LanguageModel:
    """One model, whose rows never end early."""
    return LanguageModel(make_model("gpt2", eos_token_id=None), tokenizer)


def block_of(lm: LanguageModel) -> str:
    """Return the name of the second block."""
    return lm.layers.index.blocks()[1]


def rows_alone(lm: LanguageModel, layer: str, ids: list[int]) -> Tensor:
    """Return what the layer gives for one row of tokens alone, `(tokens, features)`."""
    with lm.capture(layer) as captured:
        lm.run_token_ids([ids])
    return captured.last(layer)[0]


def push(lm: LanguageModel) -> Callable[[Tensor], Tensor]:
    """Return a change that the text shows: the same vector at every token."""
    torch.manual_seed(1)
    vector = 6 * torch.randn(32)
    return lambda activation: activation + vector


class TestStaticCache:
    """A cache of a length of its own comes with a prepared mask, which says what padding is."""

    @pytest.fixture(
        params=["gpt2", "llama", "opt", "gemma2-4", "gemma2-17", "gemma2-18", "gemma2-40"]
    )
    def model(self, request: Any, make_model: Make, tokenizer: Any) -> LanguageModel:
        """One family after another, some with a window of tokens that layers look back at."""
        family, _, window = request.param.partition("-")
        sizes = {"sliding_window": int(window)} if window else {}
        return LanguageModel(make_model(family, eos_token_id=None, **sizes), tokenizer)

    @pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "alone"])
    def test_rows(self, model: LanguageModel, prompts: list[str]) -> None:
        """Each real token of the final sequences has one row, equal to that of the row alone."""
        layer = block_of(model)
        with model.capture(layer, tokens=":") as captured:
            found = model.generate(prompts, **LENGTH, cache_implementation="static")
        plain = model.generate(prompts, **LENGTH)
        assert found.token_ids == plain.token_ids
        rows = captured.by_row(layer)
        for row, ids in zip(rows, found.token_ids, strict=True):
            torch.testing.assert_close(row, rows_alone(model, layer, ids), atol=1e-4, rtol=1e-3)

    def test_phase(self, model: LanguageModel) -> None:
        """What was generated is told from the prompt."""
        layer = block_of(model)
        with model.capture(layer, phase="generated") as captured:
            found = model.generate(PROMPTS, **LENGTH, cache_implementation="static")
        lengths = [len(row) for row in captured.by_row(layer)]
        wanted = zip(found.token_ids, found.prompt_lengths, strict=True)
        assert lengths == [len(ids) - length for ids, length in wanted]


class TestCaptured:
    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    @pytest.mark.parametrize("phase", ["prompt", "generated"])
    def test_phase(self, lm: LanguageModel, phase: Any, cache: bool) -> None:
        """Each token of a phase has its row, equal to that of the final sequence run alone."""
        layer = block_of(lm)
        with lm.capture(layer, phase=phase) as captured:
            found = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
        rows = captured.by_row(layer)
        assert len(rows) == len(PROMPTS)
        for row, ids, length in zip(rows, found.token_ids, found.prompt_lengths, strict=True):
            part = slice(length) if phase == "prompt" else slice(length, None)
            expected = rows_alone(lm, layer, ids)[part]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    def test_places(self, lm: LanguageModel, cache: bool) -> None:
        """Positions count each row's own tokens, padding left out, from its first to its last."""
        layer = block_of(lm)
        with lm.capture(layer, tokens=":") as captured:
            found = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
        seen = {tuple(place) for call in captured.where(layer) for place in call.tolist()}
        assert seen == {
            (row, position)
            for row, ids in enumerate(found.token_ids)
            for position in range(len(ids))
        }

    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    @pytest.mark.parametrize("phase", ["prompt", "generated", None])
    def test_prompt_without_padding(self, lm: LanguageModel, phase: Any, cache: bool) -> None:
        """A prompt alone, of which transformers drops the mask, is counted as one in a batch."""
        for layer in lm.layers.index.blocks():
            with lm.capture(layer, tokens=":", phase=phase) as captured:
                found = lm.generate(PROMPTS[0], **LENGTH, use_cache=cache)
            (ids,), (length,) = found.token_ids, found.prompt_lengths
            first, last = (
                0 if phase != "generated" else length,
                length if phase == "prompt" else None,
            )
            (row,) = captured.by_row(layer)
            expected = rows_alone(lm, layer, ids)[first:last]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    def test_last(self, lm: LanguageModel, cache: bool) -> None:
        """`tokens=-1` is the latest token of each row at every step."""
        layer = block_of(lm)
        with lm.capture(layer, tokens=-1) as captured:
            found = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
        assert len(captured[layer]) == NEW + 1
        for step, where in enumerate(captured.where(layer)):
            assert where.tolist() == [
                [row, length - 1 + step] for row, length in enumerate(found.prompt_lengths)
            ]
        for row, ids in enumerate(found.token_ids):
            expected = rows_alone(lm, layer, ids)[found.prompt_lengths[row] - 1 :]
            rows = torch.stack([call[row] for call in captured[layer]])
            torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-3)

    def test_first_token_is_seen_once_with_a_cache(self, lm: LanguageModel) -> None:
        """`tokens=0` is each row's first real token, which a cached step does not see again."""
        layer = block_of(lm)
        with lm.capture(layer, tokens=0) as captured:
            lm.generate(PROMPTS, **LENGTH)
        assert [len(call) for call in captured[layer]] == [3] + [0] * NEW
        assert captured.where(layer)[0].tolist() == [[0, 0], [1, 0], [2, 0]]

    def test_flattened_layer(self, make_model: Make, tokenizer: Any) -> None:
        """OPT's MLP works on all tokens in one axis; phases and rows are found all the same."""
        lm = LanguageModel(make_model("opt", eos_token_id=None), tokenizer)
        layer = "model.decoder.layers.1.fc1"
        with lm.capture(layer, phase="generated", rows=[0, 2]) as captured:
            found = lm.generate(PROMPTS, **LENGTH)
        seen = sorted({tuple(p) for call in captured.where(layer) for p in call.tolist()})
        assert seen == [
            (row, position)
            for row in (0, 2)
            for position in range(found.prompt_lengths[row], len(found.token_ids[row]))
        ]

    def test_prompt_in_one_forward(self, lm: LanguageModel) -> None:
        """Outside a generation the tokens of a batch are the prompt's, on either side's padding."""
        layer = block_of(lm)
        for side in ("left", "right"):
            with lm.capture(layer, phase="prompt", tokens="last") as captured:
                lm.inference.execute_inference(PROMPTS, tok_kwargs={"padding_side": side})
            for row, ids in enumerate(lm.token_ids(PROMPTS)):
                expected = rows_alone(lm, layer, ids)[-1]
                torch.testing.assert_close(
                    captured.last(layer)[row], expected, atol=1e-4, rtol=1e-3
                )


class TestSteered:
    @pytest.mark.parametrize("phase", [None, "prompt", "generated"])
    def test_cache_makes_no_difference(self, lm: LanguageModel, phase: Any) -> None:
        """A change that depends on no position gives the same text with and without a cache."""
        layer = block_of(lm)
        plain = lm.generate(PROMPTS, **LENGTH)
        found = []
        for cache in (True, False):
            with lm.steer(layer, push(lm), phase=phase):
                found.append(lm.generate(PROMPTS, **LENGTH, use_cache=cache))
        assert found[0].token_ids == found[1].token_ids
        assert found[0].token_ids != plain.token_ids

    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    def test_generated_alone(self, lm: LanguageModel, cache: bool) -> None:
        """A change of generated tokens leaves the prompt's, so the first new token is the plain."""
        layer = block_of(lm)
        with lm.capture(layer, tokens=":") as captured:
            plain = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
        with (
            lm.steer(layer, lambda t: t * 0, phase="generated"),
            lm.capture(layer, tokens=":") as steered,
        ):
            found = lm.generate(PROMPTS, **LENGTH, use_cache=cache)
        both = zip(captured.by_row(layer), steered.by_row(layer), strict=True)
        for row, (before, after) in enumerate(both):
            length = plain.prompt_lengths[row]
            torch.testing.assert_close(after[:length], before[:length], atol=1e-5, rtol=1e-4)
            assert not after[length:].any()
            assert found.token_ids[row][: length + 1] == plain.token_ids[row][: length + 1]

    def test_prompt_alone(self, lm: LanguageModel) -> None:
        """A change of the prompt reaches no generated token's row."""
        layer = block_of(lm)
        with (
            lm.steer(layer, lambda t: t * 0, phase="prompt"),
            lm.capture(layer, tokens=":") as steered,
        ):
            found = lm.generate(PROMPTS, **LENGTH)
        for row, values in enumerate(steered.by_row(layer)):
            length = found.prompt_lengths[row]
            assert not values[:length].any()
            assert bool(values[length:].any(-1).all())

    def test_rows_as_alone(self, lm: LanguageModel) -> None:
        """One batch carries a change in each of two rows, and none in a third, each as alone."""
        layer, change = block_of(lm), push(lm)
        changes: list[Any] = [change, lambda t: -3 * t, None]
        with lm.steer(layer, changes[0], rows=0), lm.steer(layer, changes[1], rows=1):
            together = lm.generate(PROMPTS, **LENGTH)
        for row, prompt in enumerate(PROMPTS):
            with lm.steer(layer, changes[row] or (lambda t: None)):
                alone = lm.generate(prompt, **LENGTH)
            assert together.token_ids[row] == alone.token_ids[0]

    def test_last_prompt_token_with_padding(self, lm: LanguageModel) -> None:
        """The last token of each prompt is changed in a padded batch as in each prompt alone."""
        layer, change = block_of(lm), push(lm)
        with lm.steer(layer, change, phase="prompt", tokens=-1):
            together = lm.generate(PROMPTS, **LENGTH)
        for row, prompt in enumerate(PROMPTS):
            with lm.steer(layer, change, phase="prompt", tokens=-1):
                assert lm.generate(prompt, **LENGTH).token_ids[0] == together.token_ids[row]

    def test_every_second_step(self, gpt2: LanguageModel) -> None:
        """`every` counts the steps of a generation."""
        layer = block_of(gpt2)
        with gpt2.steer(layer, lambda t: t * 0, every=2), gpt2.capture(layer) as captured:
            gpt2.generate(PROMPTS, **LENGTH)
        assert [bool(call.any()) for call in captured[layer]] == [False, True] * 3


class TestBeamsAndSamples:
    """Rows are the prompts'; all beams and samples of a row are selected with it."""

    @pytest.mark.parametrize("kind", ["beams", "samples"])
    def test_row_of_a_prompt(self, gpt2: LanguageModel, kind: str) -> None:
        """`rows=1` selects each copy of the second prompt, at every step."""
        settings: dict[str, Any] = {
            "beams": {"num_beams": 3, "do_sample": False},
            "samples": {"num_return_sequences": 3, "do_sample": True},
        }[kind]
        torch.manual_seed(0)
        layer = block_of(gpt2)
        with (
            gpt2.steer(layer, lambda t: t * 0, rows=1),
            gpt2.capture(layer) as captured,
        ):
            found = gpt2.generate(PROMPTS, max_new_tokens=4, **settings)
        for call in captured[layer]:
            assert call.shape[0] in (9, 3)  # transformers may run the prompts before it copies them
            copies = call.shape[0] // 3
            silent = (~call.flatten(1).any(1)).nonzero().flatten().tolist()
            assert silent == list(range(copies, 2 * copies))
        assert len(found) == (3 if kind == "beams" else 9)

    @pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
    def test_beams_as_alone(self, gpt2: LanguageModel, cache: bool) -> None:
        """A search with beams that is steered in one row finds what it finds for it alone."""
        layer, change = block_of(gpt2), push(gpt2)
        settings: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
        with gpt2.steer(layer, change, rows=0, phase="generated"):
            together = gpt2.generate(PROMPTS[:2], **settings, use_cache=cache)
        with gpt2.steer(layer, change, phase="generated"):
            alone = gpt2.generate(PROMPTS[0], **settings, use_cache=cache)
        other = gpt2.generate(PROMPTS[1], **settings, use_cache=cache)
        assert together.token_ids == [alone.token_ids[0], other.token_ids[0]]

    def test_phase_of_samples(self, gpt2: LanguageModel) -> None:
        """Each sample's generated tokens have rows that line up with the sample."""
        layer = block_of(gpt2)
        torch.manual_seed(0)
        with gpt2.capture(layer, phase="generated") as captured:
            found = gpt2.generate(PROMPTS, max_new_tokens=4, do_sample=True, num_return_sequences=2)
        rows = captured.by_row(layer)
        assert len(rows) == 6
        for row, ids, length in zip(rows, found.token_ids, found.prompt_lengths, strict=True):
            expected = rows_alone(gpt2, layer, ids)[length:]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-3)


class TestUnmatched:
    def test_no_generated_token(self, gpt2: LanguageModel) -> None:
        """A phase that never came is an error on request."""
        with (
            pytest.raises(NeverFired, match=r"matched no token at 'transformer\.h\.1'"),
            gpt2.steer("transformer.h.1", torch.neg, phase="generated", missing="raise"),
        ):
            gpt2.inference.execute_inference(PROMPTS)

    def test_matched_in_one_step(self, gpt2: LanguageModel) -> None:
        """A selection that only one step matches has matched."""
        with (
            warnings.catch_warnings(),
            gpt2.steer("transformer.h.1", torch.neg, tokens=-1, phase="prompt"),
        ):
            warnings.simplefilter("error")
            gpt2.generate(PROMPTS, **LENGTH)
