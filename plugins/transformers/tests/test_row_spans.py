"""Each row's characters in its document: what the tokenizer says, in the text that was given."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tenterhook_capture import CaptureOptions, prepare_capture
from tenterhook_store import MemoryStore, NoSpans, Run
from tenterhook_transformers import LanguageModel

Make = Callable[..., Any]

KINDS: dict[str, Any] = {
    "byte level": lambda fast: None,
    "lower case": lambda fast: normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    ),
    "composed": lambda fast: normalizers.NFKC(),
}


@pytest.fixture
def make_lm(make_model: Make, make_tokenizer: Make) -> Make:
    """Return a function that makes a small GPT-2 whose tokenizer normalises texts, or does not."""
    module = make_model()

    def make(kind: str = "byte level", **how: Any) -> LanguageModel:
        tokenizer = make_tokenizer(**how)
        if (normalizer := KINDS[kind](tokenizer)) is not None:
            tokenizer.backend_tokenizer.normalizer = normalizer
        return LanguageModel(module, tokenizer, MemoryStore())

    return make


def save(lm: LanguageModel, documents: Any, **how: Any) -> Run:
    """Return a run of the first layer over the documents."""
    assert lm.store is not None
    return lm.store.run(lm.activations.save("layer_0", documents, run_name="run", **how))


def told(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return what the tokenizer says of a text by itself, token by token."""
    found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    return [
        (-1, -1) if added else tuple(span)
        for span, added in zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
    ]


def check(run: Run, tokenizer: Any, texts: list[str]) -> None:
    """Compare the span of each row with what the tokenizer says of its document."""
    for document, text in enumerate(texts):
        rows = run.documents.rows(document)
        spans = [(start, stop) for start, stop in run.spans[rows].tolist()]
        wanted = told(tokenizer, text)
        assert spans == [wanted[at] for at in run.documents.position[rows].tolist()]


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=6
    ),
    how=st.fixed_dictionaries(
        {
            "rows_per_unit": st.sampled_from([1, 7, 32]),
            "bucket": st.booleans(),
            "tokens": st.sampled_from([None, "0,-1", "1:"]),
            "long_documents": st.sampled_from(["split", "truncate"]),
        }
    ),
)
def test_spans_are_the_tokenizers(
    make_lm: Make, kind: str, texts: list[str], how: dict[str, Any]
) -> None:
    """Any texts, cut or split, in any batches: the span of each row is that of its token.

    The characters are those of the document that was given, whatever the tokenizer makes of it
    first, and the spans of the tokens that no template adds lie inside it.
    """
    lm = make_lm(kind)
    texts = [*texts, "a long one, é and 😀, " * 5]
    run = save(lm, texts, **how)
    check(run, lm.tokenizer, texts)
    inside = run.spans[:][run.spans[:, 0] >= 0]
    lengths = torch.tensor([len(text) for text in texts])[
        run.documents.index[:][run.spans[:, 0] >= 0]
    ]
    assert (inside[:, 0] <= inside[:, 1]).all()
    assert (inside[:, 1] <= lengths).all()


def test_tokens_of_one_character_have_all_of_it(make_lm: Make) -> None:
    """A character that is cut in bytes is the span of each; what is added at the front has none."""
    run = save(make_lm(), ["é😀!"])
    spans = run.spans[:].tolist()
    assert spans == [[-1, -1], [0, 1], [0, 1], *[[1, 2]] * 4, [2, 3]]
    assert run.spans[0].tolist() == [-1, -1]
    assert (run.spans.shape, run.spans.dtype) == ((8, 2), torch.int32)


def test_split_documents_go_on_counting(make_lm: Make) -> None:
    """The second window of a document has the characters of the document, not its own."""
    lm, text = make_lm(), "word by word, " * 20
    run = save(lm, [text], long_documents="split")
    assert len(run) > (lm.max_tokens or 0)
    check(run, lm.tokenizer, [text])
    start, stop = run.spans[-2].tolist()
    assert text[start:stop]
    assert start > len(text) - 20


def test_conversations_are_counted_in_their_text(make_model: Make, chat_tokenizer: Make) -> None:
    """The spans of messages are those of the text that the chat template makes of them."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}"
    )
    tokenizer = chat_tokenizer(template)
    lm = LanguageModel(make_model(vocab_size=400), tokenizer, MemoryStore())
    messages = [{"role": "user", "content": "Héllo"}, {"role": "assistant", "content": "Oh"}]
    run = save(lm, [messages])
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = run.spans[:].tolist()
    assert text[slice(*spans[0])] == "<|im_start|>"
    wanted = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert spans == [list(span) for span in wanted["offset_mapping"]]


def test_a_loader_gives_them_beside_the_rows(make_lm: Make) -> None:
    """`also=["spans"]` has the span of each row of a shuffled batch, and so has a data set."""
    texts = ["hello there", "é", "and good bye"]
    run = save(make_lm(), texts, rows_per_unit=4)
    seen = 0
    for batch in run.loader(["layer_0"], 5, also=["spans", "rows"], seed=3):
        assert torch.equal(batch["spans"], run.spans[batch["rows"]])
        seen += len(batch["rows"])
    assert seen == len(run)
    assert torch.equal(run.dataset(["layer_0"], also=["spans"])[[2, 0]]["spans"], run.spans[[2, 0]])


def test_tokenizers_that_do_not_tell(make_model: Make, make_lm: Make) -> None:
    """A tokenizer written in Python has no spans, and asking for them says how to have them."""
    fast = make_lm().tokenizer

    class Slow:
        padding_side, is_fast, pad_token_id = "right", False, 0

        def get_vocab(self) -> dict[str, int]:
            return dict(fast.get_vocab())

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {"input_ids": fast(texts)["input_ids"]}

    run = save(LanguageModel(make_model(), Slow(), MemoryStore()), ["hello"])
    assert "spans" not in run.unit_tensors(0)
    assert run.metadata["spans"] is False
    with pytest.raises(NoSpans, match=r"Run 'run' has no spans.*return_offsets_mapping=True"):
        _ = run.spans
    with pytest.raises(LookupError, match="has no spans"):
        run.loader("layer_0", 4, also=["spans"])


def test_a_run_that_was_begun_without_goes_on_without(make_lm: Make) -> None:
    """A run of an earlier version is finished as it was begun: no unit of it has spans."""
    lm, texts = make_lm(), ["hello", "there"]
    options = CaptureOptions(rows_per_unit=4)
    plan = prepare_capture(lm, "layer_0", texts, options=options).plan
    about = {name: value for name, value in plan.about.items() if name != "spans"}
    assert lm.store is not None
    lm.store.write_run("run", attrs.evolve(plan, about=about))
    run = save(lm, texts, rows_per_unit=4)
    assert run.is_complete
    assert "spans" not in run.unit_tensors(0)
    with pytest.raises(NoSpans, match="it was begun before runs had them"):
        _ = run.spans


def test_words_are_whole(make_model: Make) -> None:
    """Of a tokenizer of words, each span is its word."""
    words = Tokenizer(models.WordLevel(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(["one two three"], trainers.WordLevelTrainer(special_tokens=["?"]))
    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=words, unk_token="?", pad_token="?")
    run = save(LanguageModel(make_model(), tokenizer, MemoryStore()), [" one  twö three"])
    assert [" one  twö three"[a:b] for a, b in run.spans[:].tolist()] == ["one", "twö", "three"]
