"""The text: what is in the file, and reading it as documents."""

import json
import pickle
from pathlib import Path

import pytest

from tenterhook_capture.documents import UnknownField
from tenterhook_tiny import NoRevisions, UnknownName, read, sample_path


@pytest.fixture(scope="module")
def lines() -> list[dict[str, str]]:
    """The lines of the file."""
    text = sample_path().read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_file_holds_text_and_source(lines: list[dict[str, str]]) -> None:
    """Each line has a text and a source, no source comes twice, and the whole is a fair amount."""
    assert all(set(line) == {"text", "source"} for line in lines)
    assert len({line["source"] for line in lines}) == len(lines)
    assert 200_000 <= sum(len(line["text"]) for line in lines) <= 600_000
    assert 200_000 <= sample_path().stat().st_size <= 600_000


def test_sources_count_the_verses(lines: list[dict[str, str]]) -> None:
    """A source like "Genesis 10:1-6" has as many lines of text as verses."""
    for line in lines:
        first, _, last = line["source"].rpartition(":")[2].partition("-")
        assert len(line["text"].splitlines()) == int(last or first) - int(first) + 1
    assert lines[0]["source"].startswith("Genesis 10:1-")


def test_documents_are_the_texts(lines: list[dict[str, str]]) -> None:
    """`tiny:sample` reads as the texts of the file, in order, and says where they are from."""
    documents = read("sample")
    assert list(documents.texts) == [line["text"] for line in lines]
    assert documents.source == "tiny:sample"
    assert documents.field == "text"


def test_another_field(lines: list[dict[str, str]]) -> None:
    """The other field is where each text stands."""
    assert list(read("sample", field="source").texts) == [line["source"] for line in lines]


@pytest.mark.parametrize("name", ["", "smaple"])
def test_unknown_name(name: str) -> None:
    """A name that is not there is an error that says which is."""
    with pytest.raises(UnknownName, match=rf"no data set 'tiny:{name}', only 'tiny:sample'"):
        read(name)


def test_unknown_field() -> None:
    """A field that is not there is an error that names those that are."""
    with pytest.raises(UnknownField, match=r"no field 'txt'; it has 'text', 'source'.*'text'\?"):
        read("sample", field="txt")


def test_hint_names_what_was_meant() -> None:
    """A slip of the keyboard is answered with the name that was meant."""
    with pytest.raises(UnknownName, match=r"Did you mean 'tiny:sample'\?"):
        read("smaple")


@pytest.mark.parametrize(
    "error", [UnknownName("model", "tiny:x", ["tiny:", "tiny:kjv"]), NoRevisions("main")], ids=repr
)
def test_errors_pickle(error: Exception) -> None:
    """The errors survive the trip from a worker process."""
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_paths_are_in_the_package() -> None:
    """The file lies beside the code, so that a wheel carries it."""
    assert isinstance(sample_path(), Path)
    assert sample_path().parent.name == "tenterhook_tiny"
