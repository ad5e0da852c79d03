"""The logit lens, against final norm and unembedding called by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook.hooks import LayerActivationDetector
from tenterhook_analysis import AnalysisWarning, LogitLens, NoReadout, WrongWidth, logit_lens
from tenterhook_transformers import LanguageModel
from tenterhook_zarr import ZarrStore

Make = Callable[..., LanguageModel]
TEXT = "In the beginning God created the heaven"


def by_hand(lm: LanguageModel, streams: list[Tensor]) -> Tensor:
    """Return probabilities `[layer, position, vocabulary]` by the model's own last modules."""
    model: Any = lm.module
    norm = getattr(model.base_model, "ln_f", None) or getattr(
        model.base_model, "final_layer_norm", None
    )
    norm = norm or model.base_model.norm
    with torch.no_grad():
        logits = model.get_output_embeddings()(norm(torch.stack(streams)))
        if hasattr(model.config, "logits_scaling"):
            logits = logits / model.config.logits_scaling
        if cap := getattr(model.config, "final_logit_softcapping", None):
            logits = cap * (logits / cap).tanh()
    found: Tensor = logits.softmax(-1)
    return found


def streams_of(lm: LanguageModel, text: str) -> list[Tensor]:
    """Return what the blocks return of one text, `[tokens, features]` each."""
    with torch.no_grad():
        output = lm.module(**lm.tokenize(text), output_hidden_states=True)
    found: list[Tensor] = []
    blocks = lm.layers.index.blocks()
    with lm.capture(*blocks) as captured:
        lm.inference.execute_inference([text])
    found = [captured.last(name)[0] for name in blocks]
    assert torch.allclose(found[0], output.hidden_states[1][0], atol=1e-5)
    return found


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-bias", "gemma2", "granite", "neox"])
def test_it_is_the_models_own_reading(make_lm: Make, family: str) -> None:
    """Final norm, unembedding and what comes after it, tied or not."""
    lm = make_lm(family)

    lens = logit_lens(lm, TEXT, k=5)

    top = by_hand(lm, streams_of(lm, TEXT)).topk(5)
    assert torch.allclose(lens.probabilities, top.values, atol=1e-5)
    assert torch.equal(lens.token_ids, top.indices)
    assert lens.layers == tuple(lm.layers.index.blocks())


def test_the_last_layer_is_what_the_model_says(tiny: LanguageModel) -> None:
    """Tokens are given as text, too."""
    with torch.no_grad():
        logits = tiny.module(**tiny.tokenize(TEXT)).logits[0]

    lens = logit_lens(tiny, TEXT)

    assert torch.allclose(
        lens.probabilities[-1], logits.softmax(-1).topk(10).values, rtol=1e-4, atol=1e-6
    )
    assert [each[0] for each in lens.tokens[-1]] == tiny.token_strings(logits.argmax(-1).tolist())
    assert lens.input_tokens == tuple(tiny.token_strings(TEXT))


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_of_unequal_length(make_lm: Make, side: str) -> None:
    """Each has its own lens, the same as alone, and none of the padding."""
    lm = make_lm("llama", side=side)
    texts = [TEXT, "And God said", "Let there be light: and there was light."]

    lenses = logit_lens(lm, texts)

    for text, lens in zip(texts, lenses, strict=True):
        alone = logit_lens(lm, text)
        assert lens.input_tokens == alone.input_tokens
        assert torch.allclose(lens.probabilities, alone.probabilities, atol=1e-5)


def test_chosen_layers(tiny: LanguageModel) -> None:
    """By any of their names; the stream inside a block, too."""
    lens = logit_lens(tiny, TEXT, ["layer_3", "resid_post.1"], k=1)

    whole = logit_lens(tiny, TEXT, k=1)
    assert lens.layers == ("transformer.h.3", "transformer.h.1")
    assert torch.equal(lens.token_ids[0], whole.token_ids[3])
    assert torch.equal(lens.token_ids[1], whole.token_ids[1])


def test_a_stored_run(tiny: LanguageModel, tmp_path: Path) -> None:
    """The same as of the text, in the run's own names, and no forward of the blocks."""
    tiny.store = ZarrStore(tmp_path)
    run = tiny.activations.save(["layer_1", "layer_3"], [TEXT, "And God said"], dtype="float32")
    stored = ZarrStore(tmp_path).run(run)
    with tiny.capture("layer_0", missing="ignore") as ran:
        lens = logit_lens(tiny, stored, rows=stored.documents.rows(0))

    whole = logit_lens(tiny, TEXT, ["layer_1", "layer_3"])
    assert not ran["layer_0"]
    assert lens.layers == whole.layers
    assert lens.input_tokens == whole.input_tokens
    assert torch.allclose(lens.probabilities, whole.probabilities, atol=1e-5)
    some = logit_lens(tiny, stored, ["layer_3"], k=2, rows=slice(0, 9, 4))
    assert torch.equal(some.token_ids[0], lens.token_ids[1, 0:9:4, :2])


def test_hooks_do_not_see_it(make_lm: Make) -> None:
    """A detector sees the forward of the text, and no rows that no block returned."""
    lm = make_lm("gpt2")
    detector = LayerActivationDetector("layer_2")
    lm.layers.register_hook("layer_2", detector)

    logit_lens(lm, TEXT)

    captured = detector.get_captured()
    assert captured is not None
    assert captured.shape[-2:] == (len(lm.token_strings(TEXT)), 32)


def test_controllers_change_what_is_read(make_lm: Make) -> None:
    """The forward is the model's as it stands, edits included, and they are made once."""
    lm = make_lm("llama")
    with lm.steer("layer_0", lambda y: y * 2):
        streams = streams_of_hooked(lm)
        lens = logit_lens(lm, TEXT)

    assert torch.allclose(
        lens.probabilities, by_hand(lm, streams).topk(10).values, rtol=1e-4, atol=1e-6
    )


def streams_of_hooked(lm: LanguageModel) -> list[Tensor]:
    """Return what the blocks return with the scopes that are open."""
    blocks = lm.layers.index.blocks()
    with lm.capture(*blocks) as captured:
        lm.inference.execute_inference([TEXT])
    return [captured.last(name)[0] for name in blocks]


def test_a_change_after_the_last_block_is_reported(make_lm: Make) -> None:
    """The lens does not have it."""
    lm = make_lm("llama")

    with lm.steer("model.norm", lambda y: -y), pytest.warns(AnalysisWarning, match="A hook stands"):
        logit_lens(lm, TEXT)


def test_what_is_no_stream(make_lm: Make) -> None:
    """A layer of another width, rows of a text, and a model without logits are refused."""
    lm = make_lm("gpt2")
    with pytest.raises(WrongWidth, match=r"'transformer.h.1.mlp.c_fc' has 128 features, and"):
        logit_lens(lm, TEXT, ["transformer.h.1.mlp.c_fc"])
    with pytest.raises(ValueError, match="rows are those of a stored run"):
        logit_lens(lm, TEXT, rows=slice(3))
    bare = LanguageModel(lm.module.get_submodule("transformer"), lm.tokenizer)
    with pytest.raises(NoReadout, match="No logits follow from what the blocks of GPT2Model"):
        logit_lens(bare, TEXT)


def test_as_a_table_and_on_a_page(tiny: LanguageModel) -> None:
    """Axes have names, and text that is code does nothing."""
    lens = logit_lens(tiny, "<script>alert(1)</script>", k=2)
    table = lens.to_pandas()

    assert list(table.columns) == [
        "layer",
        "position",
        "rank",
        "input_token",
        "token_id",
        "token",
        "probability",
    ]
    assert len(table) == lens.token_ids.numel()
    row = table[(table.layer == "transformer.h.2") & (table.position == 3) & (table["rank"] == 1)]
    assert row.token_id.item() == int(lens.token_ids[2, 3, 1])
    assert "<script" not in lens._repr_html_()
    assert repr(lens).startswith("LogitLens(layers=['transformer.h.0'")
    assert isinstance(lens, LogitLens)


def test_a_picture(tiny: LanguageModel) -> None:
    """By matplotlib: tokens below, layers at the side, the likeliest token in each cell."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")

    ax = logit_lens(tiny, "$x^2$ is\na square", layers=["layer_0", "layer_3"]).plot()

    ax.figure.canvas.draw()
    rows, columns = (
        [each.get_text() for each in ticks()] for ticks in (ax.get_yticklabels, ax.get_xticklabels)
    )
    assert sorted(rows) == ["transformer.h.0", "transformer.h.3"]
    assert any("↵" in each for each in columns)
    assert len(ax.texts) == 2 * len(columns)
