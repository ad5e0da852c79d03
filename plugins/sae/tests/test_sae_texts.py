"""The texts that activate each latent most, against a search through everything."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

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
)
def test_any_batches(seed: int, batches: list[tuple[int, int]], top_k: int) -> None:
    """Of a model without a tokenizer, with equal scores and equal texts among them."""
    torch.manual_seed(seed)
    model = tenterhook.attach(nn.Embedding(6, 3))
    sae = L1Sae(5, 3)
    model.layers.register_hook("output", sae)
    sae.concepts.enable_text_tracking(top_k)
    runs = [torch.randint(6, shape) for shape in batches]
    best: list[dict[tuple[int, ...], float]] = [{} for _ in range(5)]
    for ids in runs:
        model(ids)
        latents: Tensor = sae.encode(model.module(ids)).detach()
        for row, scores in zip(ids, latents, strict=True):
            for latent in range(5):
                if scores[:, latent].max() > 0:
                    best[latent][tuple(row.tolist())] = float(scores[:, latent].max())
    for latent in range(5):
        found = sae.concepts.get_top_texts(latent)
        wanted = sorted(best[latent].values(), reverse=True)[:top_k]
        assert [each.score for each in found] == pytest.approx(wanted)
        assert len({each.token_ids for each in found}) == len(found)
        for each in found:
            assert best[latent][each.token_ids] == pytest.approx(each.score)
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
    with pytest.raises(ValueError, match=f"top_k={top_k} is not a whole number, 1 or more"):
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
