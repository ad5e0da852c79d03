"""Token ids that whoever begins a run works out, and nobody after it."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import tenterhook_capture.shared_tokens
from tenterhook import Extension, hookimpl
from tenterhook.plugins import default_manager
from tenterhook_capture import (
    CaptureOptions,
    CaptureRecipe,
    ChangedSince,
    WorkerFactory,
    begin_run,
    prepare_capture,
    resume_run,
    save_activations,
)
from tenterhook_capture.documents import Documents, read_documents
from tenterhook_capture.loading import load_model
from tenterhook_capture.shared_tokens import SHARED, TOKENS
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import DamagedStore, MemoryStore, OtherRun, Run, RunPlan, Store
from tenterhook_store.testing import same_bits
from tenterhook_zarr import ZarrStore

TEXTS = [
    *("a b c", "d e", "", " ".join(f"w{at}" for at in range(40)), "f g h i j"),
    *(" ".join(f"v{i}" for i in range(1 + at % 7)) for at in range(12)),
]
SETTINGS: dict[str, Any] = {"batch_size": 2, "rows_per_unit": 8}


class Counting(WordModel):
    """Counts the texts that it makes tokens of; the rest is as ever."""

    texts = 0
    shift = 0
    """Added to each id: what another version of a tokenizer's library might do."""

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return an id per word."""
        Counting.texts += len(texts)
        return [[each + Counting.shift for each in ids] for ids in super().token_ids(texts)]

    def token_ids_and_spans(self, texts: Sequence[str]) -> tuple[list[list[int]], Any]:
        """Return them, and two characters for each."""
        found = self.token_ids(texts)
        return found, [[(2 * at, 2 * at + 1) for at, _ in enumerate(ids)] for ids in found]


class Words:
    """A plugin with the model."""

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare it."""
        return [Extension("words", "here:load", "A model of words.")]


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the plugin while a test runs, and count from zero."""
    real = Extension.load
    here = {"here:load": lambda name, **_: Counting()}
    monkeypatch.setattr(Extension, "load", lambda self: here.get(self.target) or real(self))
    monkeypatch.setattr(Counting, "texts", 0)
    monkeypatch.setattr(Counting, "shift", 0)
    default_manager().register(Words(), "words-here")
    yield
    default_manager().unregister("words-here")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a file of the texts, each with a label."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps({'text': t, 'at': n})}\n" for n, t in enumerate(TEXTS)))
    return path


def begin(store: Store, data: Path, name: str = "run", **options: Any) -> Run:
    """Begin a run, of which nothing is done."""
    kept = options.pop("keep_fields", ())
    chosen = CaptureOptions(**SETTINGS | options)
    documents = read_documents(str(data), keep_fields=kept)
    begin_run(store, prepare_capture(load_model("words:"), "head", documents, options=chosen), name)
    Counting.texts = 0
    return store.run(name)


def all_of(run: Run) -> list[Any]:
    """Return all that a run has of its rows."""
    spans = [run.spans[:]] if run.plan.about.get("spans") else []
    return [
        run["head"][:],
        run.tokens[:],
        run.documents.index[:],
        run.documents.position[:],
        *spans,
    ]


WAYS: dict[str, dict[str, Any]] = {
    "all tokens": {},
    "some tokens": {"tokens": "0,-1"},
    "split": {"long_documents": "split"},
    "split, some": {"long_documents": "split", "tokens": "1:"},
    "fields": {"keep_fields": ("at",)},
}


@pytest.mark.parametrize("piece", [3, 1 << 18], ids=["in pieces", "in one"])
@pytest.mark.parametrize("way", WAYS)
def test_nobody_tokenizes_twice(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, way: str, piece: int
) -> None:
    """Workers elsewhere and who resumes read what is shared, and give the same rows."""
    monkeypatch.setattr(tenterhook_capture.shared_tokens, "PIECE", piece)
    store = ZarrStore(tmp_path / "store")
    run = begin(store, data, **WAYS[way])
    shared = run.shared(SHARED)
    assert shared is not None
    assert (len(shared) == 1) == (piece > 3)
    worker = WorkerFactory(store, "run", CaptureRecipe.of_run(run))()
    for unit in [*run.plan.units()][::-2]:
        worker(unit)
    resume_run(store, "run")
    assert Counting.texts == 0
    assert store.verify_run("run") == []
    done, kept = store.run("run"), WAYS[way].get("keep_fields", ())
    options = {key: value for key, value in WAYS[way].items() if key != "keep_fields"}
    documents = read_documents(str(data), keep_fields=kept)
    model, plain = load_model("words:"), MemoryStore()
    save_activations(model, "head", documents, plain, run_name="run", **SETTINGS, **options)
    alone = plain.run("run")
    assert all(same_bits(*each) for each in zip(all_of(done), all_of(alone), strict=True))
    assert [done.documents[each] for each in kept] == [alone.documents[each] for each in kept]


def test_the_texts_are_not_needed_by_workers(tmp_path: Path, data: Path) -> None:
    """A worker of an engine works where the data is not; who resumes by hand is told."""
    store = ZarrStore(tmp_path / "store")
    run = begin(store, data)
    data.unlink()
    WorkerFactory(store, "run", CaptureRecipe.of_run(run))()(run.plan.unit(0))
    assert store.run("run").committed == {0}
    with pytest.raises(Exception, match="There is no file"):
        resume_run(store, "run")
    data.write_text(json.dumps({"text": "other"}))
    with pytest.raises(ChangedSince, match="documents not the same"):
        resume_run(store, "run")
    assert Counting.texts == 0


def piece_of(store: ZarrStore, run: str = "run") -> Path:
    """Return the file of the first piece."""
    return Path(store.location) / "runs" / run / "shared" / SHARED / "000000.safetensors"


def flip(store: ZarrStore) -> None:
    """Change a bit of the ids."""
    content = bytearray(piece_of(store).read_bytes())
    content[-3] ^= 1
    piece_of(store).write_bytes(content)


def lose(store: ZarrStore) -> None:
    """Remove a piece."""
    piece_of(store).unlink()


def take_piece(store: ZarrStore) -> None:
    """Put another run's piece in its place."""
    shutil.copy(piece_of(store, "other"), piece_of(store))


def take_all(store: ZarrStore) -> None:
    """Put all that another run shares in its place."""
    shared = piece_of(store).parent.parent
    shutil.rmtree(shared)
    shutil.copytree(piece_of(store, "other").parent.parent, shared)


def break_record(store: ZarrStore) -> None:
    """Cut the record short."""
    record = piece_of(store).parent.with_suffix(".json")
    record.write_bytes(record.read_bytes()[:40])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, r"000000\.safetensors.*its checksum says that it is not what was written"),
        (lose, r"000000\.safetensors.*this file is gone"),
        (take_piece, r"000000\.safetensors"),
        (take_all, r"tokens\.json.*it was made with another plan\.json"),
        (break_record, r"tokens\.json"),
    ],
)
def test_what_is_damaged_or_anothers_is_never_used(
    tmp_path: Path, data: Path, change: Callable[[ZarrStore], None], said: str
) -> None:
    """It is an error that names the file, for readers and for `verify`; no row is made of it."""
    store = ZarrStore(tmp_path / "store")
    begin(store, data)
    turned = tmp_path / "turned.jsonl"
    turned.write_text(json.dumps({"text": "z y x w"}))
    begin(store, turned, "other")
    change(store)
    with pytest.raises(DamagedStore, match=said):
        resume_run(store, "run")
    assert store.run("run").committed == frozenset()
    assert any(said.partition("\\")[0] in str(each) for each in store.verify_run("run"))
    assert Counting.texts == 0


class Other:
    """Pieces that a store which checks nothing gives for those of a run."""

    def __init__(self, real: Any, **facts: Any) -> None:
        self._real = real
        self.facts = {**real.facts, **facts}

    def __len__(self) -> int:
        return len(self._real)

    def load(self, piece: int) -> Any:
        """Return the ids, one of them another."""
        found = self._real.load(piece)
        found["ids"][0] += 1
        return found


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "piece 0 is not what the run was begun with"),
        ({"rows": 3}, "they are not those that the run was begun with"),
        ({"rows": "3"}, r"they cannot be read \(.*rows"),
        ({"lengths": {"ids": 3}}, "they cannot be read"),
    ],
)
def test_a_store_without_checksums_is_not_believed(
    data: Path, monkeypatch: pytest.MonkeyPatch, facts: Mapping[str, Any], said: str
) -> None:
    """The plan's fingerprint tells."""
    store = MemoryStore()
    run = begin(store, data)
    real = run.shared(SHARED)
    monkeypatch.setattr(Run, "shared", lambda *_: Other(real, **facts))
    with pytest.raises(DamagedStore, match=f"the shared tokens of run run.*{said}"):
        resume_run(store, "run")


def test_another_tokenizer_is_another_run(data: Path) -> None:
    """Where the documents give other tokens, the run does not go on, though its rows fit."""
    store = MemoryStore()
    begin(store, data)
    Counting.shift = 1
    documents = read_documents(str(data))
    with pytest.raises(OtherRun, match=r"token 0 of document 0 is \d+ there and \d+ here"):
        save_activations(load_model("words:"), "head", documents, store, run_name="run", **SETTINGS)
    assert store.run("run").committed == frozenset()


class Stranger(MemoryStore):
    """A store whose writers share nothing, as those of others."""

    def write_run(self, run_id: str, plan: RunPlan) -> Any:
        """Return a writer without the method."""
        real = super().write_run(run_id, plan)
        own = ("run_id", "plan", "committed", "open_unit", "note_session", "finish")
        found = type("Writer", (), {})()
        for name in own:
            setattr(found, name, getattr(real, name))
        return found


def test_a_store_that_shares_nothing(data: Path) -> None:
    """Each process tokenizes, as before."""
    store = Stranger()
    run = begin(store, data)
    assert run.shared(SHARED) is None
    resume_run(store, "run")
    assert Counting.texts == len(read_documents(str(data)))
    assert store.run("run").is_complete


def test_a_run_of_an_earlier_version(tmp_path: Path, data: Path) -> None:
    """It says nothing of its tokens, and goes on as before; nothing is shared."""
    store = ZarrStore(tmp_path / "store")
    capture = prepare_capture(
        load_model("words:"), "head", read_documents(str(data)), options=CaptureOptions(**SETTINGS)
    )
    about = {key: value for key, value in capture.plan.about.items() if key != TOKENS}
    store.write_run("run", attrs.evolve(capture.plan, about=about))
    resume_run(store, "run")
    run = store.run("run")
    assert (run.is_complete, run.shared(SHARED)) == (True, None)


def test_killed_before_anything_was_shared(tmp_path: Path, data: Path) -> None:
    """The next who tokenizes shares it."""
    store = ZarrStore(tmp_path / "store")
    capture = prepare_capture(
        load_model("words:"), "head", read_documents(str(data)), options=CaptureOptions(**SETTINGS)
    )
    store.write_run("run", capture.plan)
    resume_run(store, "run")
    run = store.run("run")
    assert (run.is_complete, run.shared(SHARED) is None) == (True, False)
    Counting.texts = 0
    WorkerFactory(store, "run", CaptureRecipe.of_run(run))()
    assert Counting.texts == 0


def test_documents_that_were_given(data: Path) -> None:
    """What has no name shares its tokens too."""
    store = MemoryStore()
    save_activations(Counting(), "head", Documents(TEXTS), store, run_name="run", **SETTINGS)
    assert store.run("run").shared(SHARED) is not None
