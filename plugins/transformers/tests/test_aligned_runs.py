"""Runs of models with other tokenizers are aligned by the characters of their tokens."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tenterhook_store import MemoryStore, Run
from tenterhook_transformers import LanguageModel

LETTERS = "aab bé\u0301ß😀日\n."
TEXTS = st.lists(st.text(st.sampled_from(LETTERS), max_size=24), min_size=1, max_size=4).filter(any)


def tokenizer(learned_from: list[str], size: int, *, begins: bool) -> Any:
    """Return a byte-level BPE that has learned its merges from some texts."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=begins)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(learned_from, trainer)
    if begins:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=inner, bos_token="<s>", eos_token="<s>", pad_token="<s>")


@pytest.fixture
def module(make_model: Callable[..., Any]) -> Any:
    """Return a small model."""
    return make_model()


def spans_of(run: Run) -> dict[tuple[int, int, int], list[int]]:
    """Return the rows of each span of each document."""
    found = defaultdict(list)
    spans, documents = run.spans[:].tolist(), run.documents.index[:].tolist()
    for row, ((start, stop), document) in enumerate(zip(spans, documents, strict=True)):
        if start >= 0:
            found[document, start, stop].append(row)
    return found


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=TEXTS, learned=TEXTS, sizes=st.tuples(st.integers(258, 290), st.integers(258, 320)))
def test_every_equal_span_is_paired_and_none_other(
    module: Any, texts: list[str], learned: list[str], sizes: tuple[int, int]
) -> None:
    """Of two byte-level tokenizers that learned other merges; one begins texts with a token."""
    store = MemoryStore()
    one, other = (
        store.run(
            LanguageModel(module, tokenizer(learned, size, begins=begins), store).activations.save(
                "layer_0", texts, run_name=name
            )
        )
        for name, size, begins in (("one", sizes[0], True), ("other", sizes[1], False))
    )
    theirs = spans_of(other)
    wanted = [
        (row, partner)
        for span, rows in spans_of(one).items()
        for row, partner in zip(reversed(rows), reversed(theirs.get(span, [])), strict=False)
    ]
    assert [*map(tuple, one.align(other).pairs[:].tolist())] == sorted(wanted)
