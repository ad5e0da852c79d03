"""Documents: reading them, and what is said of data that cannot be read."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
from tenterhook.plugins import default_manager
from tenterhook_capture.documents import (
    Documents,
    NoDocuments,
    NoSuchData,
    UnknownField,
    UnreadableData,
    read_documents,
)
from tenterhook_capture.loading import BadModelName, load_model
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store.schemes import MissingPlugin, UnknownScheme, split_scheme


def saved(folder: Path, name: str, content: str | bytes) -> str:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("sample_by", "texts"),
    [
        ("line", ("one", "two ", "three\x0b\u2028three", "four")),
        ("paragraph", ("one\ntwo ", "three\x0b\u2028three\nfour\n")),
        ("document", ("one\ntwo \n\nthree\x0b\u2028three\nfour\n",)),
    ],
)
def test_text(tmp_path: Path, sample_by: Any, texts: tuple[str, ...]) -> None:
    """A text file is cut into documents as Hugging Face's `text` does."""
    path = saved(tmp_path, "a.txt", "one\r\ntwo \n\nthree\x0b\u2028three\nfour\n")
    found = read_documents(path, sample_by=sample_by)
    assert found.texts == texts
    assert found.source == path
    assert found.skipped == (1 if sample_by == "line" else 0)


def test_text_without_a_last_line_end(tmp_path: Path) -> None:
    """The last line counts with and without an end; a byte order mark is no text."""
    assert read_documents(saved(tmp_path, "a.txt", b"\xef\xbb\xbfa\nb")).texts == ("a", "b")


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    """The field named holds the texts; empty and missing ones are skipped and counted."""
    lines = '{"text": "a", "body": "x"}\n\n{"text": "", "body": "y"}\n{"text": null, "body": "z"}'
    path = saved(tmp_path, name, lines)
    assert read_documents(path).texts == ("a",)
    assert read_documents(path).skipped == 2
    found = read_documents(path, field="body")
    assert (found.texts, found.field) == (("x", "y", "z"), "body")


def test_json_list(tmp_path: Path) -> None:
    """A JSON list of records is read too."""
    path = saved(tmp_path, "a.json", '[{"text": "a"}, {"text": "b"}]')
    assert read_documents(path).texts == ("a", "b")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("[[5, 9], [], [3]]", ["[5,9]", "[3]"]),
        ('[[{"role": "user", "content": "hi"}]]', ['[{"role": "user", "content": "hi"}]']),
        ('["a", {"text": "b"}]', ["a", "b"]),
    ],
)
def test_json_list_of_documents_themselves(tmp_path: Path, content: str, texts: list[str]) -> None:
    """Texts, token ids and conversations need no objects around them."""
    assert list(read_documents(str(saved(tmp_path, "a.json", content)))) == texts


def test_fingerprint() -> None:
    """It follows from the texts and their order, and from where they are cut, alone."""
    first = Documents(["ab", "c"])
    assert first.fingerprint == Documents(("ab", "c"), source="elsewhere").fingerprint
    others = [Documents(["a", "bc"]), Documents(["c", "ab"]), Documents(["abc"])]
    assert len({each.fingerprint for each in (first, *others)}) == 4
    assert Documents(["\ud800"]).fingerprint


def test_documents_are_a_sequence() -> None:
    """They have a length, come in order, and can be cut short."""
    documents = Documents(["a", "b", "c"])
    assert (len(documents), list(documents), documents[1]) == (3, ["a", "b", "c"], "b")
    assert documents.first(2).texts == ("a", "b")
    assert documents.first(None) is documents
    assert Documents.of(documents) is documents


@pytest.mark.parametrize(
    ("name", "content", "field", "error", "match"),
    [
        ("a.txt", "", None, NoDocuments, "holds no document"),
        ("a.txt", "\n \n", None, NoDocuments, r"\(2 empty ones were skipped\)"),
        ("a.txt", b"\xff\xfe\x00", None, UnreadableData, "byte 0 is not UTF-8"),
        ("a.txt", b"a\0b", None, UnreadableData, "NUL"),
        ("a.txt", "a", "text", UnreadableData, "has no field 'text'"),
        ("a.arrow", b"ARROW1", None, UnreadableData, r"\.arrow files are not read; give text"),
        ("a.jsonl", "", None, NoDocuments, "holds no document"),
        ("a.jsonl", '{"text": "a"}\n{"text"', None, UnreadableData, "line 2: this is no JSON"),
        ("a.jsonl", '{"text": "a"}\n3', None, UnreadableData, "line 2: this is a int"),
        ("a.jsonl", '{"text": 3}', None, UnreadableData, "holds a int"),
        ("a.jsonl", '{"text": "a"}\n{"txet": "b"}', None, UnknownField, "line 2 has no field"),
        ("a.jsonl", '{"body": "a", "id": 1}', "boddy", UnknownField, "'body', 'id'. Did you mean"),
    ],
    ids=ascii,
)
def test_data_that_cannot_be_read(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    field: str | None,
    error: type[Exception],
    match: str,
) -> None:
    """The error names the file, the line, and the way out; it survives pickling."""
    path = saved(tmp_path, name, content)
    with pytest.raises(error, match=match) as caught:
        read_documents(path, field=field)
    assert str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error with the nearest names in its folder."""
    saved(tmp_path, "corpus.txt", "a")
    with pytest.raises(NoSuchData, match=r"Did you mean .*corpus\.txt") as caught:
        read_documents(str(tmp_path / "corpsu.txt"))
    assert isinstance(caught.value, FileNotFoundError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(NoSuchData):
        read_documents(str(tmp_path / "nowhere" / "corpus.txt"))
    (tmp_path / "link.txt").symlink_to("gone.txt")
    with pytest.raises(NoSuchData, match=r"^(?!.*mean .*link).*$"):
        read_documents(str(tmp_path / "link.txt"))
    with pytest.raises(UnreadableData, match="cannot name data: File name too long"):
        read_documents("a" * 5000 + ".txt")


@pytest.mark.parametrize("name", ["", " ", "a\0b"], ids=ascii)
def test_names_that_name_nothing(name: str) -> None:
    """An empty name, or one with a NUL, is an error."""
    with pytest.raises(UnreadableData, match="cannot name data"):
        read_documents(name)
    with pytest.raises(BadModelName, match="cannot name a model"):
        load_model(name)


def test_sample_by_something_else(tmp_path: Path) -> None:
    """What a document is, is one of three things."""
    with pytest.raises(ValueError, match="sample_by='word'"):
        read_documents(saved(tmp_path, "a.txt", "a"), sample_by="word")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("tiny:sample", "tiny"),
        ("tiny:", "tiny"),
        ("hf:org/name", "hf"),
        ("org/name", None),
        ("gpt2", None),
        ("C:\\models\\x", None),
        ("c:/models/x", None),
        ("/a/b:c", None),
    ],
)
def test_schemes(name: str, scheme: str | None) -> None:
    """A scheme is two letters at least, so a drive is none."""
    assert split_scheme(name)[0] == scheme


def read_here(name: str, *, field: str | None = None) -> Documents:
    """Serve data in these tests."""
    return Documents([f"{name}|{field}"])


def load_here(name: str, **settings: Any) -> Any:
    """Serve models in these tests."""
    model: Any = WordModel()
    model.asked = name, settings
    return model


class Serving:
    """A plugin that serves data and models by the scheme `here`, and those without a scheme."""

    @hookimpl
    def tenterhook_datasets(self) -> list[Extension]:
        """Declare the data."""
        return [Extension(name, f"{__name__}:read_here", "Data.") for name in ("here", "hf")]

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare the models."""
        return [Extension(name, f"{__name__}:load_here", "Models.") for name in ("here", "hf")]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the plugin."""
    monkeypatch.setattr(Extension, "load", lambda self: globals()[self.target.partition(":")[2]])
    default_manager().register(Serving(), "serving")


def test_plugins_serve_names(serving: None, tmp_path: Path) -> None:
    """A scheme's plugin reads the rest of the name; folders and other names are Hugging Face's."""
    assert read_documents("here:x", field="f").texts == ("x|f",)
    assert read_documents("org/name").texts == ("org/name|None",)
    assert read_documents("hf:org/name").texts == ("org/name|None",)
    assert read_documents(str(tmp_path)).texts == (f"{tmp_path}|None",)


def test_plugins_serve_models(serving: None) -> None:
    """So it is with models."""
    loaded: Any = load_model("here:x", device="cpu")
    assert loaded.asked == ("x", {"dtype": None, "device": "cpu", "revision": None})
    loaded = load_model("org/name", revision="main")
    assert loaded.asked == ("org/name", {"dtype": None, "device": None, "revision": "main"})
    loaded = load_model("C:\\models\\x")
    assert loaded.asked[0] == "C:\\models\\x"


def test_missing_plugins() -> None:
    """A name that one of ours serves says what to install, or that its plugin was kept out."""
    kept_out = "is installed and was not loaded.*TENTERHOOK_PLUGINS"
    with pytest.raises(
        MissingPlugin, match=f"pip install tenterhook-transformers|transformers {kept_out}"
    ) as caught:
        load_model("gpt2")
    assert isinstance(caught.value, ImportError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(MissingPlugin, match=f"pip install tenterhook-tiny|tiny {kept_out}"):
        read_documents("tiny:sample")
    with pytest.raises(
        MissingPlugin, match=f"pip install tenterhook-transformers|transformers {kept_out}"
    ):
        read_documents("org/name")


def test_unknown_scheme(serving: None) -> None:
    """A scheme that nobody serves is an error with the nearest one that somebody does."""
    with pytest.raises(UnknownScheme, match="Did you mean 'here:'"):
        load_model("heer:x")
    with pytest.raises(UnknownScheme, match="'hf:wikitext:train'"):
        read_documents("wikitext:train")


# --- texts that stay in their files

LETTERS = st.text(alphabet="a \n\r\té\u2028\ufeff", max_size=40)


@settings(max_examples=300, deadline=None)
@given(content=LETTERS, mark=st.booleans())
def test_any_text_is_cut_in_the_same_places(
    tmp_path_factory: pytest.TempPathFactory, content: str, mark: bool
) -> None:
    """Whatever ends its lines, a file is cut as its whole text would be, and read so again."""
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + content.encode())
    text = content.removeprefix("\ufeff") if not mark else content
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    expected = {
        "line": lines if lines[-1] else lines[:-1],
        "paragraph": text.split("\n\n"),
        "document": [text],
    }
    for sample_by, whole in expected.items():
        kept = [each for each in whole if each.strip()]
        empty = [number for number, each in enumerate(whole) if not each.strip()]
        how: Any = sample_by
        if not kept:
            with pytest.raises(NoDocuments) as caught:
                read_documents(str(path), sample_by=how)
            assert caught.value.skipped == len(empty)
            continue
        found = read_documents(str(path), sample_by=how)
        assert list(found) == kept
        assert list(found.empty) == empty
        assert [found[at] for at in range(-len(kept), 0)] == kept
        assert list(found.texts[1:3]) == kept[1:3]
        assert found.fingerprint == Documents(kept).fingerprint


def test_texts_are_read_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay in the file, wherever the process goes; a copy for another process has them."""
    monkeypatch.chdir(tmp_path)
    lines = "".join(f'{{"text": "text {at}"}}\n' for at in range(2000))
    saved(tmp_path, "a.jsonl", lines)
    found = read_documents("a.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert repr(found.texts) == "LazyTexts(2000)"
    assert repr(found.first(700).texts) == "LazyTexts(700)"
    assert list(found.first(700)) == [f"text {at}" for at in range(700)]
    assert found.texts[5:900:300] == ["text 5", "text 305", "text 605"]
    assert found.texts[9:2] == []
    assert pickle.loads(pickle.dumps(found)).texts == tuple(found)
    with pytest.raises(IndexError):
        found[2000]
    with pytest.raises(TypeError):
        hash(found.texts)


def test_file_that_changes(tmp_path: Path) -> None:
    """Texts that are not what they were when they were found are told, and not captured."""
    path = saved(tmp_path, "a.txt", "one\ntwo\n")
    found = read_documents(path)
    assert found[1] == "two"
    saved(tmp_path, "a.txt", "one\nthree\n")
    with pytest.raises(UnreadableData, match=r"a\.txt: it was changed since its documents"):
        found[1]
    Path(path).unlink()
    with pytest.raises(UnreadableData, match=r"a\.txt: this file is gone"):
        list(found)
