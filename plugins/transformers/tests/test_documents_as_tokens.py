"""The tokens of documents: as the tokenizer cuts them, with special tokens once, or as ids."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from tenterhook_capture import BadArgument, CaptureOptions, prepare_capture
from tenterhook_capture.documents import Documents, UnreadableData
from tenterhook_capture.special_tokens import DoubledSpecialToken, SpecialTokens
from tenterhook_store import MemoryStore, OtherRun, Run
from tenterhook_transformers import LanguageModel

Make = Callable[..., Any]
LONG = "The quick brown fox jumps over the lazy dog. " * 12
KINDS = {"begins": "<s> $A", "both": "<s> $A </s>", "ends": "$A </s>", "neither": "$A"}


@pytest.fixture
def make(make_model: Make, trained: Tokenizer) -> Make:
    """Return a function that makes a model of a family whose tokenizer has special tokens."""

    def make(kind: str = "both", family: str = "llama", side: str = "right") -> LanguageModel:
        import transformers

        inner = Tokenizer.from_str(trained.to_str())
        template: Any = processors.TemplateProcessing
        inner.post_processor = template(
            single=KINDS[kind], special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        fast: Any = transformers.PreTrainedTokenizerFast
        tokenizer = fast(
            tokenizer_object=inner,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            truncation_side=side,
        )
        return LanguageModel(make_model(family), tokenizer, MemoryStore())

    return make


def saved(lm: LanguageModel, data: Any, **options: Any) -> Run:
    """Save a layer and return the run."""
    assert lm.store is not None
    return lm.store.run(lm.activations.save("layer_1", data, **options))


def alone(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Return what the layer gives for one document by itself."""
    with lm.capture("layer_1") as captured:
        lm(input_ids=torch.tensor([ids]))
    return captured.last("layer_1")[0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_long_document_is_cut_as_the_tokenizer_cuts(
    family: str, kind: str, side: str, make: Make
) -> None:
    """The same tokens, and the same rows, as `truncation=True` gives."""
    lm = make(kind, family, side)
    wanted = lm.tokenizer(LONG, truncation=True, max_length=64)["input_ids"]
    run = saved(lm, [LONG, "Short."])
    rows = run.documents.rows(0)
    assert run.tokens[rows].tolist() == wanted
    assert torch.allclose(run["layer_1"][rows], alone(lm, wanted), atol=1e-5)
    assert run.metadata["counts"]["tokens_cut"] == len(lm.token_ids([LONG])[0]) - 64
    changed = kind in ("both", "ends") or side == "left"
    assert run.plan.spec.get("cut") == ("tokenizer" if changed else None)
    first = saved(lm, [LONG, "Short."], long_documents="head")
    assert first.tokens[first.documents.rows(0)].tolist() == lm.token_ids([LONG])[0][:64]
    assert (first.id == run.id) is not changed
    assert first.plan.spec["long_documents"] == "truncate"  # as earlier versions called it


def test_a_run_of_an_earlier_version_says_how_to_go_on(make: Make) -> None:
    """It cut to the first tokens; the same call says so, and the way goes on with it."""
    lm = make("both")
    saved(lm, [LONG], run_name="old", long_documents="head")
    with pytest.raises(OtherRun, match="cut is nothing there and 'tokenizer' here") as told:
        saved(lm, [LONG], run_name="old")
    assert any("--long-documents head" in note for note in told.value.__notes__)
    assert saved(lm, [LONG], run_name="old", long_documents="head").is_complete


@pytest.mark.parametrize("kind", KINDS)
def test_windows_with_special_tokens(kind: str, make: Make) -> None:
    """They are the windows that the tokenizer gives with `return_overflowing_tokens`."""
    lm = make(kind)
    wanted = lm.tokenizer(LONG, truncation=True, max_length=64, return_overflowing_tokens=True)
    run = saved(lm, [LONG, "Short."], long_documents="split", window_special_tokens=True)
    rows = run.documents.rows(0)
    assert run.tokens[rows].tolist() == [id for ids in wanted["input_ids"] for id in ids]
    assert run.documents.position[rows].tolist() == [*range(rows.stop)]
    last = slice(rows.stop - len(wanted["input_ids"][-1]), rows.stop)
    assert torch.allclose(run["layer_1"][last], alone(lm, wanted["input_ids"][-1]), atol=1e-5)
    without = saved(lm, [LONG, "Short."], long_documents="split")
    assert without.id != run.id
    assert without.tokens[without.documents.rows(0)].tolist() == lm.token_ids([LONG])[0]


def test_what_is_around_a_text(make: Make) -> None:
    """It is read off the tokenizer, whatever that is."""
    assert make("both").special_tokens == SpecialTokens(before=[0], after=[2])
    assert make("ends", side="left").special_tokens == SpecialTokens(after=[2], keeps="end")
    assert LanguageModel(make().module).special_tokens == SpecialTokens()


def test_a_special_token_that_is_doubled(make: Make) -> None:
    """It is said once, with the way out, which is another run."""
    lm = make("begins")
    texts = ["<s>hi", "plain", "<s>there"]
    match = r"2 of 3 documents, document 0 first, begin with .*'<s>' twice.*--no-special-tokens"
    with pytest.warns(DoubledSpecialToken, match=match) as said:
        run = saved(lm, texts)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = saved(lm, texts, no_special_tokens=True)
        saved(lm, ["plain"])
    assert once.id != run.id
    assert once.tokens[once.documents.rows(0)].tolist() == lm.token_ids([texts[0]])[0][1:]
    assert once.plan.spec["no_special_tokens"] is True


SOURCES: dict[str, Callable[[list[list[int]]], Any]] = {
    "lists": lambda ids: ids,
    "tuples": lambda ids: tuple(map(tuple, ids)),
    "tensors": lambda ids: [torch.tensor(each) for each in ids],
    "arrays": lambda ids: [np.array(each) for each in ids],
    "numbers of numpy": lambda ids: [list(np.array(each)) for each in ids],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_token_ids_are_documents(source: Callable[[Any], Any], make: Make) -> None:
    """They are run as they are, whatever the tokenizer would add."""
    lm = make("both")
    ids = [[5, 9, 7], [3], [], [4] * 5]
    run = saved(lm, source(ids), batch_size=2)
    assert [run.tokens[run.documents.rows(at)].tolist() for at in range(4)] == ids
    assert torch.allclose(run["layer_1"][run.documents.rows(3)], alone(lm, ids[3]), atol=1e-5)
    assert saved(lm, ids, batch_size=2).id == run.id
    assert saved(lm, [str(each) for each in ids], batch_size=2).id != run.id  # texts


@pytest.mark.parametrize("make_rows", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_rows_of_a_tensor(make_rows: Callable[..., Any], make: Make) -> None:
    """A tensor is a document a row."""
    run = saved(make(), make_rows([[5, 9], [3, 4]]))
    assert run.tokens[:].tolist() == [5, 9, 3, 4]


def test_a_model_without_a_tokenizer(make_model: Make) -> None:
    """It takes token ids; texts are refused with the way out."""
    lm = LanguageModel(make_model(), store=MemoryStore())
    run = saved(lm, [[5, 9], [3]])
    assert run.tokens[:].tolist() == [5, 9, 3]
    with pytest.raises(ValueError, match=r"no tokenizer.*Give token ids"):
        saved(lm, ["a text"])


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([[1], [1, 320]], r"document 1: token id 320 is none of the model's.* 0 to 319"),
        ([[1], [-1]], r"document 1: token 0 is -1, and a token id is a whole number from 0"),
        ([[2**31]], r"token 0 is 2147483648"),
        ([1, 5, 9], r"document 0: it is a int.*a list of token ids"),
        ([[1], "a"], r"document 0: it is a list"),
        ([[1.5]], r"document 0: it is a list"),
    ],
    ids=["too large", "negative", "huge", "flat", "mixed", "floats"],
)
def test_ids_that_are_none(ids: Any, match: str, make: Make) -> None:
    """The document is named, and what is wrong with it."""
    with pytest.raises(UnreadableData, match=match):
        saved(make(), ids)


def test_ids_of_a_file_that_the_model_does_not_have(make: Make, tmp_path: Path) -> None:
    """The line is named; with `skip_bad_records` they are left out, and counted."""
    path = tmp_path / "ids.jsonl"
    lists = [[320], [1, 5], [], [7], [2, 999], [9], [3]]
    lines = [f'{{"input_ids": {ids}, "at": {at}}}\n' for at, ids in enumerate(lists)]
    lm, store = make(), MemoryStore()
    some: dict[str, Any] = {"skip_bad_records": True, "keep_fields": ["at"], "store": store}

    path.write_text("".join(lines[1:]))
    with pytest.raises(UnreadableData, match=r"ids\.jsonl, line 4: token id 999 is none of the"):
        saved(lm, str(path))
    path.write_text("".join([*lines[:3], "no JSON\n", *lines[3:]]))
    run = store.run(lm.activations.save("layer_1", str(path), **some))
    found = [run.tokens[run.documents.rows(at)].tolist() for at in range(len(run.documents))]
    assert found == [[1, 5], [7], [9], [3]]
    assert list(run.documents["at"]) == [1, 3, 5, 6]
    about = run.metadata["documents"]
    assert (about["skipped_bad"], about["bad_records"]) == (3, [[0, 0], [3, 3], [5, 5]])
    first = store.run(lm.activations.save("layer_1", str(path), sample_limit=2, **some))
    assert list(first.documents["at"]) == [1, 3]
    assert first.metadata["documents"]["bad_records"] == [[0, 0], [3, 3]]


def test_ids_of_a_list_that_the_model_does_not_have(make: Make) -> None:
    """They are left out where that is asked for, and named where none is any good."""
    lm = make()
    run = saved(lm, [[1, 5], [320], [7]], skip_bad_records=True, sample_limit=2)
    assert run.tokens[:].tolist() == [1, 5, 7]
    with pytest.raises(UnreadableData, match=r"document 0: token id 320 is none"):
        saved(lm, [[320], [400]], skip_bad_records=True)


def test_roles_go_with_messages(make: Make) -> None:
    """Token ids have none."""
    with pytest.raises(BadArgument, match="these documents are token ids, and messages alone"):
        saved(make(), [[1, 2]], tokens="user")


def test_roles_in_windows(
    make_model: Make, chat_tokenizer: Make, tmp_path: Path, trained: Tokenizer
) -> None:
    """What is put before a window has no role; the conversation's tokens keep theirs."""
    template = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
    tokenizer = chat_tokenizer(template)
    lm = LanguageModel(make_model("llama", vocab_size=340), tokenizer, MemoryStore())
    chat = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "Yes, it is."}]
    for windows in (False, True):
        how: dict[str, Any] = {"long_documents": "split", "window_special_tokens": windows}
        run = saved(lm, [chat], tokens="assistant", **how)
        assert tokenizer.decode(run.tokens[:].tolist()) == "Yes, it is."


def test_progress_of_tokenizing(make: Make) -> None:
    """How many documents are tokenized is said as it goes."""
    seen: list[tuple[int, int]] = []
    texts = Documents(["a text"] * 100)
    options = CaptureOptions()

    def note(done: int, count: int) -> None:
        seen.append((done, count))

    prepare_capture(make(), "layer_1", texts, options=options, on_documents=note)
    assert seen == [(64, 100), (100, 100)]
