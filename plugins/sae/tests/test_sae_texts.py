"""The texts that activate each latent most, against a search through everything."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DynamicCache, MambaConfig, MambaForCausalLM

import tenterhook
import tenterhook_tiny
from tenterhook.hooks import HookWarning
from tenterhook_sae import L1Sae, NoTexts, Sae, TopKSae

LAYER = "transformer.h.1"
TEXTS = [str(text)[:200] for text in tenterhook_tiny.read("sample").texts[:24]]


def expected(lm: Any, sae: Sae, texts: list[str]) -> list[dict[str, tuple[float, int]]]:
    """Of each latent, every text's highest score and its position; one text after the other."""
    found: list[dict[str, tuple[float, int]]] = [{} for _ in range(sae.n_latents)]
    for text in texts:
        with lm.capture(LAYER) as captured:
            lm.inference.execute_inference([text])
        latents = sae.encode(captured.last(LAYER))[0].detach()
        latents[0] = 0  # the special token that begins a text
        scores, places = latents.max(0)
        for latent in (scores > 0).nonzero().reshape(-1).tolist():
            found[latent][text] = float(scores[latent]), int(places[latent])
    return found


@pytest.mark.parametrize("kind", [TopKSae, L1Sae])
@pytest.mark.parametrize("batch", [1, 7])
def test_the_best_of_everything_run(lm: Any, kind: Any, batch: int) -> None:
    """Over all batches, texts that were run twice counted once, padding and specials not."""
    torch.manual_seed(0)
    sae = TopKSae(64, 128, 4) if kind is TopKSae else L1Sae(64, 128)
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=5)
    for at in range(0, len(TEXTS), batch):
        lm.inference.execute_inference(TEXTS[at : at + batch])
    lm.inference.execute_inference(TEXTS[:3])
    lm.detach_sae()

    for latent, wanted in enumerate(expected(lm, sae, TEXTS)):
        best = sae.concepts.get_top_texts(latent)
        scores = sorted((score for score, _ in wanted.values()), reverse=True)[:5]
        assert [each.score for each in best] == pytest.approx(scores, rel=1e-4)
        assert len({each.text for each in best}) == len(best)
        for each in best:  # of equal beginnings, any
            assert each.score == pytest.approx(wanted[each.text][0], rel=1e-4)
            assert each.position == wanted[each.text][1]
            assert each.token == lm.tokenizer.decode([each.token_id])
            assert each.token_ids[each.position] == each.token_id


def test_tracking_changes_nothing(lm: Any, sae: Sae) -> None:
    """Output and latents are what they are without."""
    plain, _ = lm.inference.execute_inference(TEXTS[:3])
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking()
    tracked, _ = lm.inference.execute_inference(TEXTS[:3])

    assert torch.equal(tracked.logits, plain.logits)


def test_a_generation_without_a_cache_is_one_text(lm: Any, sae: Sae) -> None:
    """Each step reads all again and one token more; the scores are those of the whole text."""
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=50)
    prompts = ["And God said,", "The LORD"]
    made = lm.generate(prompts, max_new_tokens=8, do_sample=False, use_cache=False)
    sae.concepts.disable_text_tracking()
    lm.inference.execute_inference([made.texts[0]])
    latents = sae.latents
    assert latents is not None
    ids = tuple(made.token_ids[0])

    found = [sae.concepts.get_top_texts(latent) for latent in range(sae.n_latents)]
    assert {len(texts) for texts in found} <= {0, 1, 2}
    entries = [(n, top) for n, texts in enumerate(found) for top in texts]
    first = [(n, top) for n, top in entries if top.token_ids[1] == ids[1]]
    assert any(top.position >= made.prompt_lengths[0] for _, top in first)
    for latent, top in first:
        assert top.token_ids == ids[: len(top.token_ids)]
        assert top.score == pytest.approx(float(latents[0, top.position, latent]), rel=1e-3)


def test_a_generation_is_one_text(lm: Any, sae: Sae) -> None:
    """Steps that see one token each go on with the text of the steps before."""
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=50)
    made = lm.generate(["And God said,", "The LORD"], max_new_tokens=12, do_sample=False)
    with lm.capture(LAYER) as captured:
        lm.inference.execute_inference([made.texts[0]], with_controllers=False)
    latents = sae.encode(captured.last(LAYER))[0].detach()
    latents[0] = 0

    ids = tuple(made.token_ids[0])
    seen = 0
    for latent in range(sae.n_latents):
        texts = [t for t in sae.concepts.get_top_texts(latent) if t.token_ids[1] == ids[1]]
        assert len(texts) <= 2  # the generation, and the text run again
        for each in texts:
            if each.position >= made.prompt_lengths[0]:
                seen += 1
                assert each.token_ids[: each.position + 1] == ids[: each.position + 1]
                assert each.score == pytest.approx(
                    float(latents[: len(each.token_ids), latent].max()), rel=1e-3
                )
    assert seen


def assert_scores_are_those_of_the_texts(lm: Any, sae: Sae) -> int:
    """Read every top text again, alone: the latent is as active there; return how many there are.

    A text without its beginning, or with another's, gives other numbers.
    """
    sae.concepts.disable_text_tracking()
    entries = [
        (latent, top)
        for latent in range(sae.n_latents)
        for top in sae.concepts.get_top_texts(latent)
    ]
    latents: dict[tuple[int, ...], Tensor] = {}
    for latent, top in entries:
        if top.token_ids not in latents:
            with lm.capture(LAYER) as captured, torch.no_grad():
                lm.module(torch.tensor([top.token_ids]))
            latents[top.token_ids] = sae.encode(captured.last(LAYER))[0].detach()
        again = float(latents[top.token_ids][top.position, latent])
        assert again == pytest.approx(top.score, rel=1e-2, abs=1e-2), top
    return len(entries)


@pytest.mark.parametrize(
    "more",
    [
        {"num_beams": 4},
        {"num_beams": 4, "use_cache": False},
        {"num_beams": 3, "num_return_sequences": 3, "do_sample": True},
        {"num_return_sequences": 3, "do_sample": True},
        {"num_beams": 3, "cache_implementation": "static"},
    ],
    ids=["beams", "beams, no cache", "sampled beams", "samples", "static cache"],
)
def test_the_texts_of_beams_are_their_own(lm: Any, more: dict[str, Any]) -> None:
    """Beams come, split and go between two steps; each score is of the text that it names."""
    torch.manual_seed(0)
    sae = L1Sae(64, 128)
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=20)
    asked = {"do_sample": False, "max_new_tokens": 12, **more}
    # A static cache is given its mask in a form that does not show padding.
    prompts = ["And God said,", "The LORD"][: 1 if "cache_implementation" in more else 2]
    made = lm.generate(prompts, **asked)

    longest = [
        top
        for latent in range(64)
        for top in sae.concepts.get_top_texts(latent)
        if top.position >= max(made.prompt_lengths)
    ]
    assert longest
    assert assert_scores_are_those_of_the_texts(lm, sae)


def test_conversations_that_take_turns_keep_their_texts(lm: Any) -> None:
    """Each has a cache of its own, and both are as long; a call goes on with what its cache has."""
    torch.manual_seed(0)
    sae = L1Sae(64, 128)
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=20)
    generator = torch.Generator().manual_seed(0)
    caches = [DynamicCache(), DynamicCache()]
    spoken = [torch.zeros(2, 0, dtype=torch.int64) for _ in caches]
    with torch.no_grad():
        for turn in range(6):
            for at, cache in enumerate(caches):
                new = torch.randint(5, 1000, (2, 4 if turn == 0 else 1), generator=generator)
                spoken[at] = torch.cat([spoken[at], new], 1)
                lm.module(new, past_key_values=cache)

    texts = {top.token_ids for n in range(64) for top in sae.concepts.get_top_texts(n)}
    assert texts <= {tuple(row) for ids in spoken for row in ids.tolist()}
    assert assert_scores_are_those_of_the_texts(lm, sae)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_state_that_stands_for_all_tokens_shows_its_text(beams: int) -> None:
    """A state-space model keeps no keys, and does not say how much it read before."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    mamba: Any = MambaForCausalLM(config)
    mamba.eval()
    model = tenterhook.attach(mamba)
    sae = L1Sae(8, 16)
    model.layers.register_hook("backbone.layers.0", sae)
    sae.concepts.enable_text_tracking(top_k=20)
    more = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "num_beams": beams}
    mamba.generate(torch.randint(5, 50, (2, 4)), **more)

    found = [(n, top) for n in range(8) for top in sae.concepts.get_top_texts(n)]
    model.layers.clear()
    assert max(len(top.token_ids) for _, top in found) == 9  # nobody reads the last token
    for latent, top in found:
        with torch.no_grad(), model.capture("backbone.layers.0") as captured:
            mamba(torch.tensor([top.token_ids]))
        latents = sae.encode(captured.last("backbone.layers.0"))[0].detach()
        assert float(latents[top.position, latent]) == pytest.approx(top.score, rel=1e-2)


class Remembering(nn.Module):
    """A model with a cache of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)

    def forward(self, input_ids: Tensor, state: Tensor | None = None) -> Tensor:
        """Add what is remembered."""
        found: Tensor = self.embedding(input_ids)
        return found if state is None else found + state


def test_a_cache_that_shows_nothing_is_warned_of() -> None:
    """Its calls are not counted: nobody knows how their texts begin."""
    model = tenterhook.attach(Remembering())
    sae = L1Sae(5, 3)
    model.layers.register_hook("output", sae)
    sae.concepts.enable_text_tracking(top_k=20)
    first = torch.tensor([[1, 2, 3], [4, 5, 0]])
    model(first)
    with pytest.warns(HookWarning, match=r"its cache does not show.*use_cache=False"):
        model(torch.tensor([[1], [2]]), state=torch.ones(2, 1, 3))

    texts = {top.token_ids for latent in range(5) for top in sae.concepts.get_top_texts(latent)}
    assert texts <= {tuple(row) for row in first.tolist()}
    model.layers.clear()


@pytest.mark.parametrize("stopped", [False, True])
def test_other_text_within_a_generation(lm: Any, sae: Sae, stopped: bool) -> None:
    """What a hook runs between the layers of a step is a text of its own, also one that stops."""
    prompts, aside = ["And God said,", "The LORD"], ["In the beginning", "Let there be light"]
    steps = iter(range(100))

    def look(t: Tensor) -> None:
        if next(steps) % 2 == 0:  # its own forward comes by here, too
            stop = LAYER if stopped else None
            lm.inference.execute_inference(aside, stop_after_layer=stop)

    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=50)
    with lm.steer("transformer.h.0", look):
        made = lm.generate(prompts, max_new_tokens=6, do_sample=False)
    wanted = {tuple(ids) for ids in [*made.token_ids, *lm.tokenizer(aside)["input_ids"]]}
    found = {
        tuple(each.token_ids)
        for latent in range(sae.n_latents)
        for each in sae.concepts.get_top_texts(latent)
    }
    assert found
    assert all(any(whole[: len(ids)] == ids for whole in wanted) for ids in found)
    assert any(len(ids) > max(map(len, lm.tokenizer(prompts)["input_ids"])) for ids in found)


def test_memory_is_bounded(lm: Any) -> None:
    """Texts that no latent names any more are dropped."""
    sae = L1Sae(4, 128)
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=2)
    model = lm.module
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(60):
            model(torch.randint(2000, (40, 4), generator=generator))

    texts = sae.concepts._texts
    assert texts is not None
    assert len(texts._ids) <= 1100
    assert len(texts._numbers) <= 1100
    assert all(len(sae.concepts.get_top_texts(latent)) == 2 for latent in range(4))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    batches=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=5),
    top_k=st.integers(1, 4),
    n_latents=st.sampled_from([5, 40]),
    asking=st.booleans(),
)
def test_any_batches(
    seed: int, batches: list[tuple[int, int]], top_k: int, n_latents: int, asking: bool
) -> None:
    """Of a model without a tokenizer, with equal scores and equal texts among them.

    What reached a score first comes first, and asking in between changes nothing.
    """
    torch.manual_seed(seed)
    runs = [torch.randint(6, shape) for shape in batches]
    for last, ids in pairwise(runs):  # these would be a generation without a cache
        assume(any(row not in last.tolist() for row in ids[:, :-1].tolist()))
    whole = torch.randint(-3, 4, (6, 3)).float()  # so that nothing is rounded
    model = tenterhook.attach(nn.Embedding(6, 3, _weight=whole))
    sae = L1Sae(n_latents, 3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randint(-3, 4, (3, n_latents)))
    model.layers.register_hook("output", sae)
    sae.concepts.enable_text_tracking(top_k)
    best: list[dict[tuple[int, ...], float]] = [{} for _ in range(n_latents)]
    for ids in runs:
        model(ids)
        latents: Tensor = sae.encode(model.module(ids)).detach()
        for row, scores in zip(ids, latents, strict=True):
            for latent, score in enumerate(scores.amax(0).tolist()):
                if score > 0:  # of equal texts the first; the same tokens have the same scores
                    best[latent].setdefault(tuple(row.tolist()), score)
        if asking:
            sae.concepts.get_top_texts(0)
    for latent in range(n_latents):
        found = sae.concepts.get_top_texts(latent)
        wanted = sorted(best[latent].items(), key=lambda item: -item[1])[:top_k]
        assert [each.token_ids for each in found] == [ids for ids, _ in wanted]
        assert [each.score for each in found] == [score for _, score in wanted]
        for each in found:
            assert each.text == " ".join(map(str, each.token_ids))
    model.layers.clear()


def test_disabled_it_keeps_what_it_found(lm: Any, sae: Sae) -> None:
    """And enabled again it begins anew."""
    lm.attach_sae(sae, LAYER)
    sae.concepts.enable_text_tracking(top_k=3)
    lm.inference.execute_inference(TEXTS[:4])
    assert sae.latents is not None
    latent = int(sae.latents.amax((0, 1)).argmax())
    found = sae.concepts.get_top_texts(latent)
    sae.concepts.disable_text_tracking()
    lm.inference.execute_inference(TEXTS)

    assert not sae.concepts.tracks_texts
    assert sae.concepts.get_top_texts(latent) == found
    assert not lm.module._forward_pre_hooks
    sae.concepts.enable_text_tracking(top_k=3)
    assert sae.concepts.get_top_texts(latent) == []


def test_without_tracking_there_are_no_texts(sae: Sae) -> None:
    """The error says how to have them."""
    with pytest.raises(NoTexts, match=r"enable_text_tracking\(top_k=10\)"):
        sae.concepts.get_top_texts(3)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_top_k_that_cannot_be(sae: Sae, top_k: Any) -> None:
    """The value."""
    with pytest.raises(ValueError, match=f"top_k={top_k} must be a whole number, 1 or more"):
        sae.concepts.enable_text_tracking(top_k=top_k)


def test_calls_without_token_ids_are_warned_of(sae: Sae) -> None:
    """Once; they are not counted."""
    model = tenterhook.attach(nn.Linear(3, 128))
    model.layers.register_hook("output", sae)
    sae.concepts.enable_text_tracking()
    with pytest.warns(HookWarning, match="the model was given no token ids"):
        model(torch.randn(2, 3))
    model(torch.randn(2, 3))

    assert sae.concepts.get_top_texts(0) == []
    model.layers.clear()


def test_a_notebook_shows_a_sae_and_its_texts(lm: Any, sae: Sae) -> None:
    """Escaped and bounded, with nothing computed."""
    sae.about = {"layer": "<b>", "data": "x" * 10**6}
    markup = sae._repr_html_()
    assert "<td>256</td>" in markup
    assert "&lt;b&gt;" in markup
    assert len(markup.encode()) <= 64_000

    lm.attach_sae(sae, layer_signature="layer_1")
    sae.concepts.enable_text_tracking(3)
    lm.inference.execute_inference(["In the <beginning>", "And God said"])
    assert sae.latents is not None
    latent = int(sae.latents.amax((0, 1)).argmax())
    found = sae.concepts.get_top_texts(latent)
    shown = found._repr_html_()
    assert shown.count("<tr>") == len(found) + 1
    assert "<beginning>" not in shown
    assert found[0]._repr_html_().count("<tr>") == 2
    assert isinstance(found, list)
