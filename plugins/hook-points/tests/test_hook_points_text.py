"""Text in and out of models with points, generation, and names as other libraries spell them."""

import copy
import pickle
from typing import Any

import pytest
import torch

from tenterhook_capture.loading import load_model
from tenterhook_hook_points import (
    ActivationCache,
    AmbiguousName,
    HookedTransformer,
    HookPoint,
    NoTokenizer,
    NotOneToken,
    UnknownHookPoint,
    get_act_name,
)
from tenterhook_hook_points.gpt import GPTConfig, HookedGPT

TEXT, OTHER = "In the beginning God", "And it came to pass, that he went"


@pytest.fixture(scope="module")
def lm() -> Any:
    """Return `tiny:` with points."""
    return load_model("points:tiny:")


@pytest.fixture(scope="module")
def model(lm: Any) -> HookedTransformer:
    """Return its module."""
    module: HookedTransformer = lm.module
    return module.requires_grad_(False)


def test_tokens(lm: Any, model: HookedTransformer) -> None:
    """The ids are the tokenizer's; with the token at the start or without, as asked."""
    ids = lm.token_ids([TEXT, OTHER])
    assert model.to_tokens(TEXT).tolist() == [ids[0]]
    both = model.to_tokens([TEXT, OTHER])
    assert [row[: len(own)].tolist() for row, own in zip(both, ids, strict=True)] == ids
    bare = model.to_tokens(TEXT, prepend_bos=False)
    assert bare.tolist() == [ids[0][1:]]
    assert model.to_tokens(TEXT, prepend_bos=True).tolist() == [[0, *bare[0].tolist()]]
    assert model.to_tokens("a " * 400).shape == (1, model.n_positions)
    assert model.to_tokens("a " * 400, truncate=False).shape[1] > model.n_positions
    assert model.to_string(bare[0]) == TEXT
    assert model.to_string(bare) == [TEXT]


def test_pieces(model: HookedTransformer) -> None:
    """Each token as text, of text and of ids."""
    pieces = model.to_str_tokens(TEXT, prepend_bos=False)
    assert "".join(pieces) == TEXT  # type: ignore[arg-type]
    ids = model.to_tokens(TEXT, prepend_bos=False)
    for same in (ids, ids[0], ids[0].tolist()):
        assert model.to_str_tokens(same) == pieces
    two = model.to_str_tokens([TEXT, OTHER], prepend_bos=False)
    assert two[0] == pieces
    assert model.to_str_tokens(ids.repeat(2, 1)) == [pieces, pieces]
    token = model.to_single_token(" God")
    assert model.to_single_str_token(token) == " God"
    assert torch.equal(model.tokens_to_residual_directions(" God"), model.W_U[:, token])
    with pytest.raises(
        NotOneToken, match=r"'beginning God' is \d tokens, '.*begins with its space"
    ):
        model.to_single_token("beginning God")
    with pytest.raises(NotOneToken, match="'' has no token"):
        model.to_single_token("")


def test_text_is_input(model: HookedTransformer) -> None:
    """A text gives what its ids give; of several, the real tokens do."""
    expected = model(model.to_tokens(TEXT))
    assert torch.equal(model(TEXT), expected)
    out, cache = model.run_with_cache(TEXT, prepend_bos=False)
    assert torch.equal(out, model(model.to_tokens(TEXT, prepend_bos=False)))
    assert cache["embed"].shape[1] == out.shape[1]
    both = model([TEXT, OTHER])
    assert torch.allclose(both[0, : expected.shape[1]], expected[0], atol=1e-5)
    losses = [model(text, loss=True) for text in (TEXT, OTHER)]
    counts = [len(model.to_tokens(text)[0]) - 1 for text in (TEXT, OTHER)]
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert torch.allclose(model([TEXT, OTHER], loss=True), mean, atol=1e-5)
    with pytest.raises(ValueError, match="no token in the text"):
        model("", prepend_bos=False)


def test_no_tokenizer() -> None:
    """A model without one says so, and takes ids."""
    sizes = GPTConfig(n_layer=1, n_head=1, n_embd=4, n_inner=4, n_positions=9, vocab_size=50)
    bare = HookedGPT(sizes)
    assert bare(torch.tensor([[1, 2]])).shape == (1, 2, 50)
    with pytest.raises(NoTokenizer, match=r"This HookedGPT has no tokenizer.*points:gpt2"):
        bare("text")


class TestGeneration:
    """Models of `points:` generate, by transformers' own `generate`."""

    def test_it_is_the_models_own(self, lm: Any, model: HookedTransformer) -> None:
        """The same text as without points, of one prompt and of two."""
        plain = load_model("tiny:")
        how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
        expected = plain.generate([TEXT, OTHER], **how).texts  # type: ignore[attr-defined]
        assert lm.generate([TEXT, OTHER], **how).texts == expected
        assert model.generate([TEXT, OTHER], **how) == expected
        assert model.generate(TEXT, **how) == expected[0]
        ids = model.generate(model.to_tokens(TEXT), **how)
        assert model.to_string(ids[0, 1:]) == expected[0]
        beams = plain.generate(TEXT, max_new_tokens=5, num_beams=3)  # type: ignore[attr-defined]
        assert lm.generate(TEXT, max_new_tokens=5, num_beams=3).texts == beams.texts

    def test_selections(self, lm: Any, model: HookedTransformer) -> None:
        """Rows of generated tokens are those of the final text, run once more."""
        layer = "blocks.2.hook_resid_post"
        with lm.capture(layer, tokens="generated") as captured:
            made = lm.generate([TEXT, OTHER], max_new_tokens=6, do_sample=False)
        rows = captured.by_row(layer)
        for row, ids, length in zip(rows, made.token_ids, made.prompt_lengths, strict=True):
            _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=layer)
            assert torch.allclose(row, cache[layer][0, length:], atol=1e-4)

    def test_hooks(self, lm: Any, model: HookedTransformer) -> None:
        """Hooks run at each step, and change what is said."""
        how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
        seen: list[int] = []

        def count(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            seen.append(tensor.shape[1])
            return -tensor

        with model.hooks([("blocks.1.hook_resid_post", count)]):
            changed = model.generate(TEXT, **how)
        start = model.to_tokens(TEXT).shape[1]
        assert seen == list(range(start, start + 4))
        assert changed != model.generate(TEXT, **how)


class TestSpellings:
    """Names as notebooks of other libraries have them."""

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            (("attn", 1), "blocks.1.attn.hook_pattern"),
            (("attn_scores", 1), "blocks.1.attn.hook_scores"),
            (("hook_attn_scores", 1), "blocks.1.attn.hook_scores"),
            (("attn_logits", 1), "blocks.1.attn.hook_scores"),
            (("scores", 1, "attn"), "blocks.1.attn.hook_scores"),
            (("attn_scores", 1, "a"), "blocks.1.attn.hook_scores"),
            (("mlp_post", -1), "blocks.3.mlp.hook_post"),
            (("mlp_pre", 0), "blocks.0.mlp.hook_pre"),
            (("pre", 0, "m"), "blocks.0.mlp.hook_pre"),
            (("query", 2), "blocks.2.attn.hook_q"),
            (("resid_pre", 2, "b"), "blocks.2.hook_resid_pre"),
            ("blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_scores"),
        ],
    )
    def test_cache(self, model: HookedTransformer, key: Any, name: str) -> None:
        """A cache takes them."""
        _, cache = model.run_with_cache(TEXT)
        assert cache[key] is cache[name]

    def test_ambiguous_as_before(self, model: HookedTransformer) -> None:
        """A name that means several things is no other's spelling."""
        _, cache = model.run_with_cache(TEXT)
        with pytest.raises(AmbiguousName):
            cache["scale", 0]

    def test_stack(self, model: HookedTransformer) -> None:
        """So does a stack."""
        _, cache = model.run_with_cache(TEXT)
        assert torch.equal(cache.stack("attn"), cache.stack("pattern"))

    def test_hooks(self, model: HookedTransformer) -> None:
        """So does whatever names points; a real name wins."""
        names = ["blocks.0.attn.hook_attn_scores", "blocks.*.mlp.hook_mlp_post"]
        _, cache = model.run_with_cache(TEXT, names_filter=names[0])
        assert list(cache) == ["blocks.0.attn.hook_scores"]
        _, cache = model.run_with_cache(TEXT, names_filter=names)
        assert len(cache) == 5
        with pytest.raises(UnknownHookPoint, match=r"blocks\.9\.attn\.hook_attn_scores"):
            model.add_hook("blocks.9.attn.hook_attn_scores", lambda tensor, hook: None)

    @pytest.mark.parametrize(
        ("args", "name"),
        [
            (("q", 3), "blocks.3.attn.hook_q"),
            (("resid_post", 0), "blocks.0.hook_resid_post"),
            (("mlp_out", 0), "blocks.0.hook_mlp_out"),
            (("attn", 2), "blocks.2.attn.hook_pattern"),
            (("mlp_post", 2), "blocks.2.mlp.hook_post"),
            (("post", 2), "blocks.2.mlp.hook_post"),
            (("pre", 2, "m"), "blocks.2.mlp.hook_pre"),
            (("scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
            (("scale",), "ln_final.hook_scale"),
            (("embed",), "hook_embed"),
            (("blocks.1.attn.hook_q",), "blocks.1.attn.hook_q"),
        ],
    )
    def test_get_act_name(self, args: Any, name: str) -> None:
        """The full name of a short one."""
        assert get_act_name(*args) == name

    def test_every_name_it_gives_is_there(self, model: HookedTransformer) -> None:
        """Of the names of a block, each is one of the model's."""
        for name in ("q", "k", "v", "z", "attn_scores", "pattern", "result", "pre", "mlp_post"):
            assert get_act_name(name, 1) in model.hook_dict


def test_copies_of_a_cache(model: HookedTransformer) -> None:
    """A copy knows the model; a pickle and a deep copy hold tensors alone."""
    _, cache = model.run_with_cache(TEXT)
    assert cache.copy().model is copy.copy(cache).model is model
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert isinstance(other, ActivationCache)
        assert other.model is None
        assert other.names == cache.names
    assert len(pickle.dumps(cache)) < 2 * sum(tensor.nbytes for tensor in cache.values()) + 20_000


def test_heads_and_tokens_of_patterns(lm: Any) -> None:
    """Selections know the axes of points: of two texts, as long as each is."""
    part: dict[str, Any] = {"tokens": ":", "heads": [2, 0]}
    pattern, z = "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z"
    ids = lm.tokenize([TEXT, OTHER])
    with torch.no_grad(), lm.capture(pattern, z, **part) as captured:
        lm(**ids)
    for row, text in enumerate((TEXT, OTHER)):
        _, cache = lm.module.run_with_cache(lm.tokenize([text])["input_ids"])
        alone = cache[pattern][0, [2, 0]].transpose(0, 1)
        assert torch.allclose(captured.by_row(pattern)[row], alone, atol=1e-5)
        assert torch.allclose(captured.by_row(z)[row], cache[z][0][:, [2, 0]], atol=1e-5)
    with torch.no_grad(), lm.steer(z, torch.zeros_like, heads=1), lm.capture(z) as after:
        lm(**ids)
    assert not after.last(z)[:, :, 1].any()
    assert after.last(z)[:, :, 0].any()
