"""Batches that nobody asked for: a budget of tokens, documents by length, runs that go on."""

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tenterhook_capture import (
    CaptureOptions,
    CaptureRecipe,
    Progress,
    as_begun,
    begin_run,
    estimate,
    prepare_capture,
    save_activations,
)
from tenterhook_capture import batches as batches_module
from tenterhook_capture.batches import batches
from tenterhook_capture.batching import EARLIER, Batching
from tenterhook_capture.budget import LEAST_TOKENS, MOST_TOKENS_ON_CPU, token_budget
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_capture.token_rows import Piece, Window
from tenterhook_store import LayerArray, MemoryStore, OtherRun, Run, RunPlan
from tenterhook_store.testing import same_bits

LAYERS = ["embed", "blocks.0"]


def passages(count: int, longest: int = 256, seed: int = 0) -> list[str]:
    """Return texts of 1 word to so many, in no order."""
    numbers = random.Random(seed)
    return [
        " ".join(f"w{at}.{word}" for word in range(numbers.randint(1, longest)))
        for at in range(count)
    ]


TEXTS = passages(30, 16)


def captured(
    texts: Sequence[str] = TEXTS,
    *,
    model: WordModel | None = None,
    store: MemoryStore | None = None,
    **how: Any,
) -> Run:
    """Capture and open the run."""
    store = store or MemoryStore()
    return store.run(save_activations(model or WordModel(), LAYERS, list(texts), store, **how))


def computed(batch: Sequence[int]) -> int:
    """Return the tokens of a forward, padding counted."""
    return len(batch) * max(batch)


# --- what is computed


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_little_is_padding(threads: int) -> None:
    """600 passages of 1 to 256 tokens: at most 1.1 tokens are computed for each that is kept."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = WordModel(max_tokens=1024)
        run = captured(passages(600), model=model)
    finally:
        torch.set_num_threads(before)
    tokens = sum(map(computed, model.batches))
    assert tokens <= 1.1 * len(run)
    noted = sum(unit["tokens_computed"] for unit in run.metadata["units"])
    assert noted == sum(map(computed, model.batches[2:]))  # two show what layers give


@pytest.mark.parametrize("budget", [1024, 2048, 4096, 8192])
def test_little_is_padding_with_any_budget(budget: int) -> None:
    """An accelerator that takes more tokens at once does not pay for it in padding."""
    numbers = random.Random(1)
    lengths = [numbers.randint(1, 256) for _ in range(20_000 // 128 * 3)]
    found = grouped(lengths, Batching(batch_size=None, batch_tokens=budget, bucket=True))
    assert sum(batch.tokens_computed for batch in found) <= 1.1 * sum(lengths)


def grouped(lengths: Sequence[int], how: Batching, row_bytes: int = 0) -> Any:
    """Return the batches of documents of these lengths, all tokens kept."""
    starts = itertools.accumulate(lengths, initial=0)
    pieces = [
        Piece(Window(start, number, 0, [1] * length, [1] * length), start, range(length))
        for number, (length, start) in enumerate(zip(lengths, starts, strict=False))
    ]
    return list(batches(pieces, how, row_bytes=row_bytes))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    budget=st.integers(1, 200),
    bucket=st.booleans(),
    row_bytes=st.sampled_from([0, 1 << 24, 1 << 26, 1 << 40]),
)
def test_each_row_once_and_stretches_in_order(
    lengths: list[int], budget: int, bucket: bool, row_bytes: int
) -> None:
    """Rows that wait are those of one stretch, which ends before the next begins."""
    how = Batching(batch_size=None, batch_tokens=budget, bucket=bucket)
    done, waiting = 0, list[int]()
    for batch in grouped(lengths, how, row_bytes):
        assert batch.tokens_computed <= budget or len(batch.documents) == 1
        if batch.stretch is None:
            assert batch.places(done).tolist() == list(range(len(batch)))
            assert waiting == []
            done += len(batch)
            continue
        assert batch.stretch.start == done
        assert batch.stretch.rows <= batches_module.stretch_rows(row_bytes)
        waiting += batch.places(done).tolist()
        if batch.is_last:
            assert sorted(waiting) == list(range(batch.stretch.rows))
            done, waiting = done + batch.stretch.rows, []
    assert (done, waiting) == (sum(lengths), [])


@pytest.mark.matrix(sample=4)
@pytest.mark.parametrize("writing", ["inline", "thread"])
@pytest.mark.parametrize("how", [{}, {"tokens": "0,-1"}, {"dtype": "int8"}, {"bucket": False}])
def test_rows_are_in_the_order_of_the_documents(
    monkeypatch: pytest.MonkeyPatch, writing: str, how: dict[str, Any]
) -> None:
    """Through stretches smaller than a unit and units smaller than a document."""
    texts = [*passages(40, 20), "one two " * 30]
    plain = captured(texts, model=WordModel(max_tokens=99), batch_size=1, **how)
    for rows in (3, 50, 10_000):
        monkeypatch.setattr(batches_module, "STRETCH_BYTES", plain.plan.row_bytes * rows)
        for rows_per_unit in (17, 120, 32_768):
            model = WordModel(max_tokens=99)
            more: dict[str, Any] = {"rows_per_unit": rows_per_unit, "writing": writing, **how}
            run = captured(texts, model=model, batch_tokens=32, **more)
            assert run.tokens[:].tolist() == plain.tokens[:].tolist()
            assert run.documents.index[:].tolist() == plain.documents.index[:].tolist()
            assert run.documents.position[:].tolist() == plain.documents.position[:].tolist()
            assert same_bits(run["embed"][:], plain["embed"][:])
            torch.testing.assert_close(run["blocks.0"][:], plain["blocks.0"][:])
            assert [60] in model.batches  # longer than the budget: alone
            fits = [len(each) == 1 or computed(each) <= 32 for each in model.batches[2:]]
            assert all(fits)


def test_statistics_are_those_of_the_rows() -> None:
    """Whatever the stretches."""
    run = captured(passages(60, 30), model=WordModel(max_tokens=99), reduce="mean,topk")
    rows = captured(passages(60, 30), model=WordModel(max_tokens=99), batch_size=1)
    mean = run.reduced("blocks.0", "mean")
    torch.testing.assert_close(mean.float(), rows["blocks.0"][:].mean(0), rtol=1e-4, atol=1e-5)


# --- what was asked for


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (None, 512, True)),
        ({"bucket": True}, (None, 512, True)),
        ({"bucket": False}, (None, 512, False)),
        ({"batch_tokens": 64}, (None, 64, True)),
        ({"batch_tokens": 64, "bucket": False}, (None, 64, False)),
        ({"batch_size": 4}, (4, None, False)),
        ({"batch_size": 4, "bucket": True}, (4, None, True)),
        ({"batch_size": 4, "batch_tokens": 64}, (4, 64, False)),
        ({"batch_size": 32, "batch_tokens": 64, "bucket": True}, (32, 64, True)),
    ],
    ids=str,
)
def test_what_options_mean(given: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    """A number of documents means just that; a budget goes with bucketing."""
    found = Batching.wanted(CaptureOptions(**given), lambda: 512)
    assert attrs.astuple(found) == wanted


def test_batches_of_a_number_of_documents_are_as_they_were() -> None:
    """In order, so many in each, whatever their lengths."""
    model = WordModel()
    captured(model=model, batch_size=4)
    lengths = [len(text.split()) for text in TEXTS]
    assert model.batches[2:] == [lengths[at : at + 4] for at in range(0, len(TEXTS), 4)]


# --- the budget


class Wide(nn.Module):
    """A table of many words, a block, and logits."""

    def __init__(self, width: int, words: int = 1000) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 8, device="meta")
        self.inner = nn.Linear(8, width, device="meta")
        self.head = nn.Linear(8, words, device="meta")


def budget_of(module: nn.Module, *features: int, runs_whole: bool = False) -> int:
    """Return the budget for a model that keeps layers of such widths."""
    model = WordModel()
    model.layers.index.module = module
    layers = [LayerArray(f"h.{at}", width, "float32") for at, width in enumerate(features)]
    return token_budget(model, layers, runs_whole=runs_whole)


def test_the_budget_follows_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a power of two: less for wider models and for more layers, more for more cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert budget_of(Wide(768), 768) == 2048
    assert budget_of(Wide(768), *[4096] * 16) == 1024
    assert budget_of(Wide(30_000), 768) == 1024
    assert budget_of(Wide(10**6), 768) == LEAST_TOKENS
    assert budget_of(Wide(768, words=10**5), 768) == 2048
    assert budget_of(Wide(768, words=10**5), 768, runs_whole=True) == LEAST_TOKENS
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert budget_of(Wide(768), 768) == 1024
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert budget_of(Wide(768), 768) == MOST_TOKENS_ON_CPU


# --- runs that go on


def budget_is(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Have this machine choose so many."""
    monkeypatch.setattr("tenterhook_capture.prepare.token_budget", lambda *_, **__: tokens)


def stop(progress: Progress) -> None:
    """Stop once some rows are there."""
    if progress.rows >= 40:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", [None, "mine"])
def test_another_machine_goes_on(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """With the number of tokens that the run was begun with, whatever it would choose itself."""
    store = MemoryStore()
    budget_is(monkeypatch, 32)
    how: dict[str, Any] = {"rows_per_unit": 40, "run_name": name}
    whole = captured(**how)
    with pytest.raises(KeyboardInterrupt):
        captured(store=store, progress=stop, **how)
    budget_is(monkeypatch, 64)
    model = WordModel()
    run = captured(store=store, model=model, **how)
    assert store.runs() == [run.id] == [whole.id]
    assert run.plan.spec["batch_tokens"] == 32
    assert max(map(computed, model.batches[2:])) <= 32
    assert same_bits(run["blocks.0"][:], whole["blocks.0"][:])
    other = captured(store=store, batch_tokens=64, rows_per_unit=40)
    assert other.id != run.id  # asked for, so part of the id


def test_two_machines_begin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one takes the number of the one that was first."""

    def prepared() -> Any:
        return prepare_capture(WordModel(), LAYERS, TEXTS, options=CaptureOptions())

    budget_is(monkeypatch, 64)
    late = prepared()
    store = MemoryStore()
    looked, asked = store.run, list[str]()

    def run(run_id: str) -> Run:
        asked.append(run_id)
        if len(asked) == 2:  # both ids were looked up, and nothing was there
            try:
                return looked(run_id)
            finally:
                budget_is(monkeypatch, 32)
                store.write_run(prepared().spec.run_id(), prepared().plan)
        return looked(run_id)

    monkeypatch.setattr(store, "run", run)
    writer = begin_run(store, late)
    assert writer.plan.spec["batch_tokens"] == 32


EARLIER_OPTIONS: list[dict[str, Any]] = [{}, {"bucket": True}, {"batch_tokens": 24}]


@pytest.mark.parametrize("given", EARLIER_OPTIONS, ids=str)
@pytest.mark.parametrize("name", [None, "mine"])
def test_runs_of_earlier_versions_go_on(given: dict[str, Any], name: str | None) -> None:
    """The same call, in the batches that it meant when the run was begun."""
    store = MemoryStore()
    how: dict[str, Any] = {"rows_per_unit": 40, "run_name": name}
    meant: dict[str, Any] = {**Batching.earlier(CaptureOptions(**given)).values(), **how}
    whole = captured(**meant)
    with pytest.raises(KeyboardInterrupt):
        captured(store=store, progress=stop, **meant)
    model = WordModel()
    run = captured(store=store, model=model, **given, **how)
    assert store.runs() == [run.id] == [whole.id]
    assert same_bits(run["blocks.0"][:], whole["blocks.0"][:])
    capture = prepare_capture(
        WordModel(), LAYERS, TEXTS, options=CaptureOptions(rows_per_unit=40, **given)
    )
    assert estimate(store, capture, run.id).rows_missing == 0
    assert as_begun(store, capture, name)[0] == run.id


@pytest.mark.parametrize("left_out", ["batch_size", "batch_tokens", "bucket"])
def test_recipes_that_leave_it_out(left_out: str) -> None:
    """Of a run that is there, what is left out is what it was begun with."""
    store = MemoryStore()
    options = CaptureOptions(rows_per_unit=40, **EARLIER.values())
    plan = prepare_capture(WordModel(), LAYERS, TEXTS, options=options).plan
    about = json.loads(json.dumps(plan.about))
    del about["recipe"]["options"][left_out]
    spec = {key: value for key, value in plan.spec.items() if key != left_out}
    store.write_run("old", attrs.evolve(plan, about=about, spec=spec))
    recipe = CaptureRecipe.of_run(store.run("old"))
    assert Batching.wanted(recipe.options, lambda: 1) == EARLIER


def test_another_run_of_that_name() -> None:
    """What was asked for is not what the run has: the options that it has are said."""
    captured(store=(store := MemoryStore()), run_name="mine", batch_size=3)
    with pytest.raises(OtherRun, match="batch_size is 3 there and None here"):
        captured(store=store, run_name="mine")


def test_plans_of_a_run_have_the_number() -> None:
    """Its recipe too, so that other processes need not choose."""
    capture = prepare_capture(WordModel(), LAYERS, TEXTS, options=CaptureOptions())
    plan: RunPlan = capture.plan
    assert isinstance(plan.spec["batch_tokens"], int)
    assert plan.about["recipe"]["options"]["batch_tokens"] == plan.spec["batch_tokens"]
    assert "budget_chosen" not in plan.spec
