"""Captures: which rows a run has, in which order, and what happens when one is stopped."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook.errors import UnknownLayer
from tenterhook_capture import (
    BadArgument,
    NothingToCapture,
    NotPerToken,
    Progress,
    WrongMask,
    save_activations,
)
from tenterhook_capture.documents import Documents, NoDocuments, UnreadableData
from tenterhook_capture.engine import LocalEngine, UnitEvent, Worker
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import BadName, MemoryStore, OtherRun, Run, Unit
from tenterhook_store.testing import same_bits

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]
LAYERS = ["blocks.0", "blocks.1.mlp", "head"]


def captured(
    texts: Sequence[str] | Documents = TEXTS,
    layers: Any = LAYERS,
    *,
    model: WordModel | None = None,
    **settings: Any,
) -> Run:
    """Capture into a new store in memory and open the run."""
    store = MemoryStore()
    return store.run(save_activations(model or WordModel(), layers, texts, store, **settings))


def alone(text: str, layer: str, model: WordModel | None = None) -> Tensor:
    """Return what a bare torch hook sees at a layer when the document is run by itself."""
    model = model or WordModel()
    seen: list[Any] = []
    module = model.module.get_submodule(layer)
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    model.run_token_ids(model.token_ids([text]))
    handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    rows: Tensor = output[0].detach()
    return rows


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("rows_per_unit", [1, 4, 5, 1000])
def test_rows_are_those_of_each_document_alone(
    padding: Any, batch_size: int, rows_per_unit: int
) -> None:
    """Whatever the batches, the padding and the units, a row is what its document alone gives."""
    model = WordModel(padding=padding)
    run = captured(model=model, batch_size=batch_size, rows_per_unit=rows_per_unit)
    for number, text in enumerate(TEXTS):
        rows = run.documents.rows(number)
        assert run.tokens[rows].tolist() == model.token_ids([text])[0]
        assert run.documents.position[rows].tolist() == list(range(len(text.split())))
        for layer in LAYERS:
            torch.testing.assert_close(run[layer][rows], alone(text, layer))
    assert len(run) == sum(len(text.split()) for text in TEXTS)


def test_rows_are_exact_for_the_same_batch() -> None:
    """With the same batch composition rows are equal to the bit to a bare hook's."""
    model = WordModel(padding="left")
    seen: list[Tensor] = []
    module = model.module.get_submodule("blocks.1.mlp")
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    mask = model.run_token_ids(model.token_ids(TEXTS))
    handle.remove()
    run = captured(model=model, layers="blocks.1.mlp", batch_size=len(TEXTS))
    assert same_bits(run["blocks.1.mlp"][:], seen[0][mask])


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any),
    batch_size=st.integers(1, 4),
    rows_per_unit=st.integers(1, 30),
    padding=st.sampled_from(["left", "right"]),
    long_documents=st.sampled_from(["truncate", "split"]),
)
def test_every_token_has_its_row(
    lengths: list[int], batch_size: int, rows_per_unit: int, padding: Any, long_documents: Any
) -> None:
    """For any documents, a run has the tokens that are kept, in order, and their own rows."""
    model = WordModel(padding=padding, max_tokens=16)
    texts = [" ".join(f"w{i}.{at}" for at in range(n)) for i, n in enumerate(lengths)]
    run = captured(
        texts,
        "blocks.0",
        model=model,
        batch_size=batch_size,
        rows_per_unit=rows_per_unit,
        long_documents=long_documents,
    )
    kept = [n if long_documents == "split" else min(n, 16) for n in lengths]
    ids = model.token_ids(texts)
    assert run.tokens[:].tolist() == [t for one, n in zip(ids, kept, strict=True) for t in one[:n]]
    assert run.documents.index[:].tolist() == [i for i, n in enumerate(kept) for _ in range(n)]
    assert run.documents.position[:].tolist() == [at for n in kept for at in range(n)]
    for number, text in enumerate(texts):
        rows = run.documents.rows(number)
        for start in range(0, kept[number], 16):
            window = " ".join(text.split()[start : start + 16])
            own = run["blocks.0"][rows][start : start + 16]
            torch.testing.assert_close(own, alone(window, "blocks.0", model))


def test_units_do_not_change_what_is_computed_where_they_meet_documents() -> None:
    """A document that crosses a boundary is run by both units; each keeps its own rows."""
    model = WordModel()
    run = captured(["a b c d e f"], "head", model=model, rows_per_unit=4)
    assert model.batches == [[6], [6], [6]]  # the probe, and once for each unit
    assert same_bits(run["head"][:], alone("a b c d e f", "head"))


def test_order_and_spelling_of_layers_do_not_matter() -> None:
    """A layer asked for twice, by other names, in another order, is the same run."""
    store = MemoryStore()
    first = save_activations(WordModel(), ["head", "blocks.1", "blocks.0"], TEXTS, store)
    names = ["layer_0", "blocks.1", "head", "blocks.0", "blocks.?"]
    second = save_activations(WordModel(), names, TEXTS, store)
    assert first == second
    assert store.run(first).layers == ("blocks.0", "blocks.1", "head")


def test_a_block_and_a_leaf_inside_it() -> None:
    """Both are kept, each its own."""
    run = captured(layers=["blocks.1", "blocks.1.mlp", "output"])
    assert run.layers == ("blocks.1", "blocks.1.mlp", "output")
    rows = run.documents.rows(2)
    torch.testing.assert_close(run["blocks.1.mlp"][rows], alone(TEXTS[2], "blocks.1.mlp"))
    torch.testing.assert_close(run["output"][rows], alone(TEXTS[2], ""))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_models(dtype: torch.dtype) -> None:
    """Rows are kept in the dtype that the layer gives, bit for bit."""
    model = WordModel(dtype=dtype)
    run = captured(["a b c"], "blocks.0", model=model)
    assert same_bits(run["blocks.0"][:], alone("a b c", "blocks.0", model))


def test_cast() -> None:
    """Rows are cast where a dtype is asked for."""
    run = captured(["a b c"], "blocks.0", dtype=torch.bfloat16)
    assert same_bits(run["blocks.0"][:], alone("a b c", "blocks.0").bfloat16())
    assert run.plan.layer("blocks.0").dtype == "bfloat16"


def test_documents_without_tokens() -> None:
    """They have no rows, keep their number, and are counted."""
    run = captured(["", "a b", "   ", "c"])
    assert run.documents.index[:].tolist() == [1, 1, 3]
    assert run.documents.rows(2) == slice(2, 2)
    assert run.metadata["counts"]["documents_without_tokens"] == 2


def test_long_documents_are_cut_and_counted() -> None:
    """By default a document longer than the model takes loses its end, and the run says so."""
    run = captured(["x " * 20, "a"])
    assert len(run) == 17
    assert run.metadata["counts"] == {
        "documents": 2,
        "documents_without_tokens": 0,
        "documents_too_long": 1,
        "tokens": 17,
        "tokens_cut": 4,
    }


def test_long_documents_are_split() -> None:
    """Split, all its tokens have rows; positions go on from part to part."""
    run = captured(["x " * 35, "a"], long_documents="split")
    assert run.documents.position[:].tolist() == [*range(35), 0]
    assert run.metadata["counts"]["tokens_cut"] == 0


def test_sample_limit() -> None:
    """So many documents are taken, and no more."""
    run = captured(sample_limit=2)
    assert run.documents.index[:].tolist() == [0, 0, 0, 1]
    assert run.metadata["documents"]["count"] == 2


def test_layer_that_changes_its_output_later() -> None:
    """An in-place layer after the captured one does not change what was kept."""
    model = WordModel()
    model.module.get_submodule("blocks.0.mlp").add_module("1", nn.ReLU(inplace=True))
    run = captured(["a b c"], "blocks.0.mlp.0", model=model)
    assert (run["blocks.0.mlp.0"][:] < 0).any()


# --- what made it


def test_metadata_says_what_made_it() -> None:
    """Spec, model, documents, versions, times and counts are there."""
    run = captured(Documents(TEXTS, source="some texts"), batch_size=2)
    found = run.metadata
    assert found["spec"]["batch_size"] == 2
    assert found["model"]["class"] == "WordLM"
    assert "device" not in found["model"]
    assert found["documents"]["source"] == "some texts"
    assert found["documents"]["fingerprint"] == found["spec"]["documents_fingerprint"]
    assert found["layers"]["head"] == {"features": 97, "dtype": "float32"}
    assert found["start"] <= found["end"]
    (session,) = found["sessions"]
    assert session["outcome"] == "done"
    assert session["versions"]["torch"] == torch.__version__
    assert session["numerics"]["threads"] == torch.get_num_threads()
    assert session["model"]["device"] == "cpu"
    (unit,) = found["units"]
    assert (unit["rows"], unit["documents"], unit["batches"]) == (22, 6, 3)


def test_rows_under_autocast_do_not_join_others() -> None:
    """Where operations are cast the rows are others, and so is the run."""
    store, model = MemoryStore(), WordModel()
    exact = store.run(save_activations(model, "blocks.1", TEXTS, store))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = store.run(save_activations(model, "blocks.1", TEXTS, store))
        with pytest.raises(OtherRun, match="autocast"):
            save_activations(model, "blocks.1", TEXTS, store, run_name=exact.id)
    assert cast.plan.spec["changes"] == ["torch.autocast(cpu, bfloat16)"]
    assert not torch.equal(exact["blocks.1"][:].float(), cast["blocks.1"][:].float())


def test_run_id_follows_from_what_is_captured() -> None:
    """Whatever changes the bytes changes the id; what does not, does not."""
    store = MemoryStore()

    def run_id(model: WordModel | None = None, texts: Any = TEXTS, **settings: Any) -> str:
        layers = settings.pop("layers", LAYERS)
        return save_activations(model or WordModel(), layers, texts, store, **settings)

    same = run_id()
    assert same.startswith("words-0-")
    assert run_id(texts=Documents(TEXTS, source="elsewhere")) == same
    assert run_id(dtype="float32") == same
    assert run_id(sample_limit=100) == same
    assert run_id(top_k=7) == same
    assert run_id(reduce="topk", top_k=7) != run_id(reduce="topk")
    others = [
        run_id(WordModel(seed=1)),
        run_id(WordModel(padding="left")),
        run_id(texts=TEXTS[:-1]),
        run_id(layers=["head"]),
        run_id(batch_size=2),
        run_id(dtype="bfloat16"),
        run_id(sample_limit=3),
        run_id(long_documents="split"),
        run_id(rows_per_unit=64),
    ]
    assert len({same, *others}) == 10


def test_run_name() -> None:
    """A name takes the place of the id, for that one capture."""
    store = MemoryStore()
    assert save_activations(WordModel(), "head", TEXTS, store, run_name="mine") == "mine"
    with pytest.raises(OtherRun, match=r"batch_size is None there and 3 here"):
        save_activations(WordModel(), "head", TEXTS, store, run_name="mine", batch_size=3)


# --- stopping and going on


class Stopping:
    """Progress that raises when so many rows are computed."""

    def __init__(self, rows: int, error: BaseException) -> None:
        self.rows, self.error = rows, error

    def __call__(self, progress: Progress) -> None:
        """Raise once it is so far."""
        if progress.rows >= self.rows:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()], ids=repr)
def test_stopped_and_resumed(error: BaseException) -> None:
    """What stops a run is raised as it is, says how to resume, and loses no committed unit."""
    store, model = MemoryStore(), WordModel()
    settings: dict[str, Any] = {"batch_size": 1, "rows_per_unit": 5}
    with pytest.raises(type(error)) as caught:
        save_activations(model, LAYERS, TEXTS, store, progress=Stopping(13, error), **settings)
    assert any("has 10 of 22 rows; the same command" in note for note in caught.value.__notes__)
    (run_id,) = store.runs()
    assert len(store.run(run_id)) == 10
    assert store.run(run_id).metadata["end"] is None

    model.batches.clear()
    assert save_activations(model, LAYERS, TEXTS, store, **settings) == run_id
    assert len(model.batches) < 10
    whole = captured(**settings)
    for layer in LAYERS:
        assert same_bits(store.run(run_id)[layer][:], whole[layer][:])
    outcomes = [session["outcome"] for session in store.run(run_id).metadata["sessions"]]
    assert sorted(outcomes) == ["done", f"stopped by {type(error).__name__}"]


def test_complete_run_is_left_alone() -> None:
    """The same call again runs two forwards, and notes no session.

    One shows what the layers give, and the other is of a batch of the run.
    """
    store, model = MemoryStore(), WordModel()
    run_id = save_activations(model, LAYERS, TEXTS, store)
    model.batches.clear()
    seen: list[Progress] = []
    assert save_activations(model, LAYERS, TEXTS, store, progress=seen.append) == run_id
    assert len(model.batches) == 2
    assert [(each.rows, each.rows_new) for each in seen] == [(22, 0)]
    assert len(store.run(run_id).metadata["sessions"]) == 1


def test_progress() -> None:
    """Progress counts rows and bytes, and knows what is left."""
    seen: list[Progress] = []
    captured(layers="blocks.0", batch_size=2, rows_per_unit=5, progress=seen.append)
    assert seen[0].rows == 0
    assert seen[0].seconds_left is None
    assert [each.rows for each in seen] == sorted(each.rows for each in seen)
    assert (seen[-1].rows, seen[-1].rows_total, seen[-1].bytes_new) == (22, 22, 22 * 12 * 4)
    assert seen[-1].rows_per_second > 0
    assert seen[-1].seconds_left == 0


def test_engine_of_ones_own() -> None:
    """An engine decides in which order units are done."""

    class Backwards(LocalEngine):
        def run(self, units: Sequence[Unit], make_worker: Any) -> Iterator[UnitEvent]:
            self.units = [unit.number for unit in units]
            return super().run(units[::-1], make_worker)

    engine = Backwards()
    run = captured(rows_per_unit=5, engine=engine)
    assert engine.units == [0, 1, 2, 3, 4]
    assert same_bits(run["head"][:], captured(rows_per_unit=5)["head"][:])


def test_local_engine_goes_on_after_a_failure() -> None:
    """A unit that raises is an event; the next one is done."""

    def work(unit: Unit) -> dict[str, Any]:
        if unit.number == 1:
            raise ValueError("this one")
        return {"rows": unit.rows}

    def make() -> Worker:
        return work

    events = list(LocalEngine().run([Unit(n, n, n + 1) for n in range(3)], make))
    assert [type(event).__name__ for event in events] == ["UnitDone", "UnitFailed", "UnitDone"]


# --- bad input: an error, and nothing was made


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"layers": "blocks.0.mpl"}, UnknownLayer, r"blocks\.0\.mlp"),
        ({"layers": []}, BadArgument, "one layer at least"),
        ({"layers": "pooled"}, NotPerToken, r"'pooled' gave float32 \[2, 3\]"),
        ({"layers": "input"}, NotPerToken, r"'input' gave int64"),
        ({"texts": ["", " "]}, NothingToCapture, "None of the 2 documents"),
        ({"texts": []}, NoDocuments, "holds no document"),
        ({"texts": "a b"}, UnreadableData, "give a list of texts"),
        ({"texts": ["a", 3]}, UnreadableData, "document 1: it is a int"),
        ({"run_name": "../x"}, BadName, "it has a slash"),
        ({"run_name": "/x"}, BadName, "slash"),
        ({"run_name": "a\0"}, BadName, "control character"),
        ({"run_name": "x" * 300}, BadName, "300 bytes"),
        ({"batch_size": 0}, BadArgument, "batch_size=0"),
        ({"sample_limit": -1}, BadArgument, "sample_limit=-1"),
        ({"dtype": "int3"}, BadArgument, "dtype='int3' must be one of"),
        ({"long_documents": "drop"}, BadArgument, "'truncate', 'split' or 'head'"),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_input_makes_nothing(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    """What makes no sense is refused, with the way out, before anything is in the store."""
    store, model = MemoryStore(), WordModel()
    given = {"layers": "head", "texts": TEXTS, **arguments}
    layers, texts = given.pop("layers"), given.pop("texts")
    with pytest.raises(error, match=match):
        save_activations(model, layers, texts, store, **given)
    assert store.runs() == []
    tenterhook.assert_clean(model)


def test_layer_that_never_runs() -> None:
    """A layer that a forward does not call is an error that names it."""
    model = WordModel()
    model.module.add_module("unused", nn.Linear(1, 1))
    with pytest.raises(NotPerToken, match="'unused' gave no tensor"):
        captured(layers="unused", model=model)


def test_model_whose_mask_is_wrong() -> None:
    """A model that pads and says it did not is found out."""

    class Careless(WordModel):
        def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
            return torch.ones_like(super().run_token_ids(documents))

    with pytest.raises(WrongMask, match="one True per token"):
        captured(model=Careless(), batch_size=2)


def test_nothing_is_left_on_the_model() -> None:
    """After a capture no hook is left, nor after one that failed."""
    model = WordModel()
    captured(model=model)
    tenterhook.assert_clean(model)
    with pytest.raises(RuntimeError):
        captured(model=model, progress=Stopping(5, RuntimeError()))
    tenterhook.assert_clean(model)
