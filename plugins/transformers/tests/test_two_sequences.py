"""Captures of encoder-decoder models: rows stand beside the tokens of their own sequence."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import transformers
from torch import Tensor

from tenterhook_capture import CaptureOptions, NotPerToken, SeveralCalls, prepare_capture
from tenterhook_store import MemoryStore, OtherRun, Run
from tenterhook_transformers import LanguageModel, OtherSequence

Make = Callable[..., Any]

BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 48,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}

MODELS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "Bart": ("BartForConditionalGeneration", BART, "model.encoder.layers.0", "model.decoder"),
    "BartModel": ("BartModel", BART, "encoder.layers.1", "decoder"),
    "MBart": ("MBartForConditionalGeneration", BART, "model.encoder.layers.0", "model.decoder"),
    "Marian": ("MarianMTModel", BART, "model.encoder.layers.0", "model.decoder"),
    "T5": ("T5ForConditionalGeneration", T5, "encoder.block.1", "decoder"),
    "Pegasus": ("PegasusForConditionalGeneration", BART, "model.encoder.layers.1", "model.decoder"),
}


@pytest.fixture
def make_lm(make_tokenizer: Make) -> Make:
    """Return a function that makes a small model of two sequences, with random weights."""

    def make(name: str, side: str = "right") -> LanguageModel:
        kind, sizes, _, _ = MODELS[name]
        tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        settings = {"vocab_size": 320, **sizes, **tokens, "decoder_start_token_id": 2}
        config = getattr(transformers, f"{name.removesuffix('Model')}Config")(**settings)
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return LanguageModel(model, make_tokenizer(side), MemoryStore())

    return make


def save(lm: LanguageModel, layers: Any, documents: Any, **how: Any) -> Run:
    """Return a run of the layers over the documents."""
    assert lm.store is not None
    return lm.store.run(lm.activations.save(layers, documents, **{"run_name": "run", **how}))


def bare(module: Any, layer: str, **inputs: Tensor) -> Tensor:
    """Return what a layer gives in a forward of one document, `[tokens, features]`."""
    found: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        module(**inputs)
    handle.remove()
    return found[-1][0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_is_run_by_itself(make_lm: Make, name: str, side: str, texts: list[str]) -> None:
    """Its rows are those of a bare forward, beside the tokens of the text; no decoder runs."""
    lm = make_lm(name, side)
    layer, decoder = MODELS[name][2:]
    calls: list[Any] = []
    lm.module.get_submodule(decoder).register_forward_hook(lambda *_: calls.append(_))
    run = save(lm, layer, texts, batch_size=4)
    assert not calls
    for document, ids in enumerate(lm.token_ids(texts)):
        rows = run.documents.rows(document)
        assert run.tokens[rows].tolist() == ids
        some = torch.tensor([ids])
        wanted = bare(lm.module, layer, input_ids=some, decoder_input_ids=some)
        torch.testing.assert_close(run[layer][rows], wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["Bart", "BartModel", "MBart"])
def test_a_decoders_rows_are_beside_its_own_tokens(
    make_lm: Make, name: str, side: str, texts: list[str]
) -> None:
    """Its tokens are the text's, shifted as the model does; rows are those of a forward of both."""
    lm = make_lm(name, side)
    layer = f"{MODELS[name][3]}.layers.1"
    run = save(lm, layer, texts, batch_size=4)
    for document, ids in enumerate(lm.token_ids(texts)):
        rows = run.documents.rows(document)
        first = ids[-1] if name == "MBart" else 2
        assert run.tokens[rows].tolist() == [first, *ids[:-1]]
        assert run.documents.position[rows].tolist() == list(range(len(ids)))
        wanted = bare(lm.module, layer, input_ids=torch.tensor([ids]))  # it shifts them itself
        torch.testing.assert_close(run[layer][rows], wanted, atol=2e-5, rtol=2e-5)


def test_spans_follow_the_decoders_tokens(make_lm: Make) -> None:
    """The token that begins the decoder's has no characters; each other has those of its text."""
    text = "Hé, the word."
    for name, is_last in (("Bart", False), ("MBart", True)):
        lm = make_lm(name)
        _, found = lm.token_ids_and_spans([text])
        assert found is not None
        spans = [list(span) for span in found[0]]
        run = save(lm, f"{MODELS[name][3]}.layers.0", [text])
        assert run.spans[:].tolist() == [spans[-1] if is_last else [-1, -1], *spans[:-1]]


def test_tokens_are_chosen_among_the_decoders(make_lm: Make, texts: list[str]) -> None:
    """`tokens="last"` is the last token that the decoder is given."""
    lm = make_lm("Bart")
    run = save(lm, "model.decoder.layers.0", texts, tokens="0,-1")
    ids = lm.token_ids(texts)
    assert run.tokens[:].tolist() == [each for some in ids for each in (2, some[-2])]


def test_windows_of_a_long_text_are_each_shifted(make_lm: Make) -> None:
    """A window is a forward of its own, which begins with the token that begins a decoder's."""
    lm = make_lm("Bart")
    run = save(lm, "model.decoder.layers.0", ["word by word, " * 20], long_documents="split")
    (ids,) = lm.token_ids(["word by word, " * 20])
    wanted = [token for at in range(0, len(ids), 48) for token in [2, *ids[at : at + 48][:-1]]]
    assert len(ids) > 48
    assert run.tokens[:].tolist() == wanted


def test_the_head_is_the_decoders(make_lm: Make) -> None:
    """What comes after the decoder has its tokens, and so has the whole model's output."""
    run = save(make_lm("Bart"), ["lm_head", "output"], ["hello there"])
    assert run.tokens[0].item() == 2
    assert torch.equal(run["lm_head"][0].isfinite(), run["output"][0].isfinite())


def test_layers_of_both_are_two_runs(make_lm: Make) -> None:
    """Never the one beside the other's tokens; nothing is made."""
    lm = make_lm("Bart")
    match = (
        r"BartForConditionalGeneration is an encoder-decoder model: rows of "
        r"'model.encoder.layers.0' stand beside the encoder's tokens, and those of "
        r"'model.decoder.layers.0' beside the decoder's. Capture them as two runs"
    )
    with pytest.raises(OtherSequence, match=match):
        save(lm, ["model.encoder.layers.0", "model.decoder.layers.0"], ["hello"])
    assert lm.store is not None
    assert lm.store.runs() == []


@pytest.mark.parametrize("name", ["Marian", "T5", "Pegasus"])
def test_decoders_that_are_given_no_tokens(make_lm: Make, name: str) -> None:
    """Where the model makes none of the text, the error has both ways out."""
    lm = make_lm(name)
    _, _, layer, decoder = MODELS[name]
    encoder = layer.rsplit(".", 2)[0]
    match = (
        rf"makes none of them for the decoder, where '{decoder}' is. Capture layers of "
        rf"'{encoder}', or give the decoder its tokens: .*decoder_input_ids="
    )
    with pytest.raises(OtherSequence, match=match):
        save(lm, decoder, ["hello"])


def test_keys_of_the_encoders_tokens_in_the_decoder(make_lm: Make) -> None:
    """They are the encoder's rows, though as many as the decoder's, and are refused."""
    lm = make_lm("Bart")
    layer = "model.decoder.layers.0.encoder_attn"
    for part in ("k_proj", "v_proj"):
        with pytest.raises(NotPerToken, match=f"'{layer}.{part}' gave"):
            save(lm, f"{layer}.{part}", ["hello there", "you"])
    run = save(lm, f"{layer}.q_proj", ["hello there", "you"])
    assert run.tokens[0].item() == 2


def test_what_both_share_is_the_encoders(make_lm: Make) -> None:
    """A module that both call is captured as the encoder calls it: once."""
    lm = make_lm("T5")
    module: Any = lm.module
    module.decoder.set_input_embeddings(module.encoder.embed_tokens)
    layer = "encoder.embed_tokens"
    run = save(lm, layer, ["hello there"])
    (ids,) = lm.token_ids(["hello there"])
    assert torch.equal(run[layer][:], module.encoder.embed_tokens(torch.tensor(ids)))
    with pytest.raises(SeveralCalls, match="called once in a forward, so there is no call=1"):
        save(lm, f"{layer}:call=1", ["hello there"])


def test_a_decoders_run_of_an_earlier_version_is_another(make_lm: Make) -> None:
    """Its rows are beside the text's tokens, so no new row joins it; an encoder's goes on."""
    lm = make_lm("Bart")
    assert lm.store is not None
    for part in ("decoder", "encoder"):
        layer = f"model.{part}.layers.0"
        plan = prepare_capture(lm, layer, ["hello"], options=CaptureOptions()).plan
        lm.store.write_run(part, attrs.evolve(plan, spec={**plan.spec, "algorithm": 1}))
    assert save(lm, "model.encoder.layers.0", ["hello"], run_name="encoder").is_complete
    with pytest.raises(OtherRun, match="algorithm is 1 there and 2 here"):
        save(lm, "model.decoder.layers.0", ["hello"], run_name="decoder")
