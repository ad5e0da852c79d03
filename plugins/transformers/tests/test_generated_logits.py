"""Logits while a model generates, of which it makes the last alone; what is put back and added."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tenterhook
from tenterhook.hooks import AddVector, Detector
from tenterhook_selections import known_searches, tokens_here
from tenterhook_transformers import LanguageModel

Make = Callable[..., Any]
IDS = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
MASK = (IDS != 0).long()
WAYS: list[dict[str, Any]] = [
    {},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 3},
    {"do_sample": True, "num_return_sequences": 2},
    {"num_beams": 3},
]
LENGTH: dict[str, Any] = {"max_new_tokens": 4, "pad_token_id": 0, "do_sample": False}


@pytest.fixture
def llama(make_model: Make) -> Any:
    """A model that is never at its end."""
    return make_model("llama", eos_token_id=None).double()


def generate(model: Any, ids: torch.Tensor = IDS, **way: Any) -> torch.Tensor:
    """Return the sequences, the same each time."""
    torch.manual_seed(0)
    found: torch.Tensor = model.generate(ids, attention_mask=MASK, **{**LENGTH, **way})
    return found


class TestLogits:
    @pytest.mark.parametrize("way", WAYS, ids=str)
    def test_rows(self, llama: Any, way: dict[str, Any]) -> None:
        """They are those of the stream before, of the same tokens."""
        model = tenterhook.attach(llama)
        with (
            model.capture("model.norm", tokens="last") as before,
            model.capture("lm_head", tokens="last") as last,
            model.capture("lm_head", phase="generated") as made,
        ):
            generate(llama, **way)
        rows = zip(*(each.by_row("lm_head") for each in (last, made)), strict=True)
        for row, stream in zip(rows, before.by_row("model.norm"), strict=True):
            torch.testing.assert_close(row[0], llama.lm_head(stream))
            assert torch.equal(row[1], row[0][1:])

    def test_changed(self, llama: Any) -> None:
        """The change of one token's logits alone counts."""
        model = tenterhook.attach(llama)

        def prefers(activation: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(activation).index_fill(-1, torch.tensor([33]), 1.0)

        plain = generate(llama)
        with model.steer("lm_head", prefers, phase="generated", rows=1) as receipt:
            found = generate(llama)
        assert torch.equal(found[:, :5], plain[:, :5])
        assert torch.equal(found[0], plain[0])
        assert found[1, 5:].tolist() == [33] * 3
        assert receipt.tokens == 3

    @pytest.mark.parametrize("way", [{}, {"use_cache": False}, {"num_beams": 2}], ids=str)
    def test_of_tokens_that_have_none(self, llama: Any, way: dict[str, Any]) -> None:
        """It is refused, with what to select."""
        model = tenterhook.attach(llama)
        with (
            pytest.raises(ValueError, match=r"the last 1 of 4 alone \(logits_to_keep\).*'last'"),
            model.capture("lm_head", tokens=":"),
        ):
            generate(llama, **way)

    def test_in_a_forward(self, llama: Any) -> None:
        """Whoever asks for some of them selects among these."""
        model = tenterhook.attach(llama)
        with model.capture("lm_head", tokens="2:", rows=1) as captured:
            logits = llama(IDS, attention_mask=MASK, logits_to_keep=2).logits
        assert torch.equal(captured.last("lm_head"), logits[1])

    def test_who_is_real_there(self, llama: Any) -> None:
        """A hook of one's own is told of those tokens alone."""
        found: list[tuple[Any, Any]] = []

        class Asks(Detector):
            def process_activations(self, module: Any, input: Any, output: Any) -> None:
                tokens = tokens_here(module)
                assert tokens is not None
                assert tokens.real.shape == output.shape[:2]
                found.append((tokens.real.tolist(), tokens.position.tolist()))

        right = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10]])
        with tenterhook.attach(llama).hooks(("lm_head", Asks("forward"))):
            llama(right, attention_mask=(right != 0).long(), logits_to_keep=2)
            with known_searches():
                generate(llama)
        assert found[0][0] == [[False, False], [True, True]]
        assert [each for _, each in found[1:]] == [[[at + 1], [at + 3]] for at in range(4)]


class TestPutBack:
    @pytest.mark.parametrize("way", WAYS[:5], ids=str)
    def test_in_another_generation(self, llama: Any, way: dict[str, Any]) -> None:
        """Each token has the row that it had, also where it is run again."""
        model = tenterhook.attach(llama)
        selected: dict[str, Any] = {"tokens": "2:"}
        with model.capture("layer_0", **selected) as captured:
            generate(llama, **way)
        rows = captured.cat("layer_0")
        with (
            model.steer("layer_0", rows, **selected),
            model.capture("layer_0", **selected) as again,
        ):
            generate(llama, (IDS + 20) * MASK, **way)
        assert torch.equal(again.cat("layer_0"), rows)

    def test_last_tokens(self, make_model: Make, tokenizer: Any) -> None:
        """Those that a capture ran beside the steps are not missed."""
        lm = LanguageModel(make_model("gpt2", eos_token_id=None), tokenizer)
        with lm.capture("layer_0", tokens=":") as captured:
            plain = lm.generate(["The quick brown fox", "In"], max_new_tokens=3, do_sample=False)
        with lm.steer("layer_0", captured.cat("layer_0"), tokens=":"):
            found = lm.generate(["The quick brown fox", "In"], max_new_tokens=3, do_sample=False)
        assert found.token_ids == plain.token_ids


class TestAVectorARow:
    @pytest.mark.parametrize(
        "way", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str
    )
    def test_of_beams_and_samples(self, llama: Any, way: dict[str, Any]) -> None:
        """All copies of a row have its vector."""
        model = tenterhook.attach(llama)
        vectors = 4 * torch.randn(2, 32, generator=torch.Generator().manual_seed(1)).double()
        copies = way.get("num_return_sequences", 3)
        with model.steer("layer_0", AddVector("layer_0", vectors.repeat_interleave(copies, 0))):
            wanted = generate(llama, **way)
        with model.steer("layer_0", AddVector("layer_0", vectors), tokens=":"):
            found = generate(llama, **way)
        assert torch.equal(found, wanted)

    def test_where_the_batch_is_not_known(self, llama: Any) -> None:
        """As in a loop of one's own: it is refused, with what to give."""
        model = tenterhook.attach(llama)
        with (
            pytest.raises(tenterhook.HookError, match=r"vector\.repeat_interleave\(beams, 0\)"),
            model.steer("layer_0", AddVector("layer_0", torch.ones(2, 32))),
        ):
            llama(IDS.repeat_interleave(3, 0))
