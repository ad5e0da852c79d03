"""Files of records, compressed ones and folders of them: which documents, and what is said."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_capture import BadArgument
from tenterhook_capture.documents import (
    DataName,
    Documents,
    NoDocuments,
    UnknownField,
    UnreadableData,
    read_documents,
)

ROWS: list[dict[str, Any]] = [
    {"text": f'number {at}, "quoted"\nand on', "label": at % 3, "ok": at % 2 == 0, "note": None}
    for at in range(150)
]
ROWS[7]["note"] = "a note"


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_table(rows: list[dict[str, Any]], separator: str = ",") -> bytes:
    """Return records as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Return records as Parquet, in groups of rows."""
    pyarrow = pytest.importorskip("pyarrow")
    library = pytest.importorskip("pyarrow.parquet")
    into = io.BytesIO()
    library.write_table(pyarrow.Table.from_pylist(rows), into, row_group_size=40)
    return into.getvalue()


def zstd(content: bytes) -> bytes:
    """Return bytes compressed by zstd."""
    compressed: bytes = pytest.importorskip("numcodecs.zstd").compress(content, 3)
    return compressed


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": json_lines,
    ".json": lambda rows: json.dumps(rows).encode(),
    ".csv": csv_table,
    ".tsv": lambda rows: csv_table(rows, "\t"),
    ".parquet": parquet,
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("ending", FORMATS)
def test_files(tmp_path: Path, ending: str, packed: str) -> None:
    """The same documents and fields, however they are written and compressed."""
    path = tmp_path / f"data{ending}{packed}"
    path.write_bytes(PACKED[packed](FORMATS[ending](ROWS)))
    found = read_documents(str(path), keep_fields=["label", "note"])
    texts = [row["text"] for row in ROWS]
    assert list(found) == texts
    assert (found.field, found[140], found[-1]) == ("text", texts[140], texts[-1])
    as_text = ending in (".csv", ".tsv")
    labels = [str(row["label"]) if as_text else row["label"] for row in ROWS]
    assert list(found.fields["label"]) == labels
    assert found.fields["note"][7] == "a note"
    assert found.fields["note"][8] == ("" if as_text else None)
    assert found.fingerprint == Documents(texts).fingerprint
    assert found.first(90).fields["label"][80:] == labels[80:90]
    assert repr(found.texts) == "LazyTexts(150)"


@pytest.mark.parametrize("packed", PACKED)
def test_text_that_is_compressed(tmp_path: Path, packed: str) -> None:
    """It is cut as other text is."""
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(PACKED[packed](b"one\r\n\r\ntwo\nthree\n"))
    assert list(read_documents(str(path))) == ["one", "two", "three"]
    assert list(read_documents(str(path), sample_by="paragraph")) == ["one", "two\nthree\n"]


@pytest.mark.parametrize("packed", [each for each in PACKED if each])
def test_compressed_files_that_are_damaged(tmp_path: Path, packed: str) -> None:
    """The file is named, and the place."""
    rows = [{"text": f"{at} {at * 7919 % 1013}"} for at in range(20_000)]
    whole = PACKED[packed](json_lines(rows))
    path = tmp_path / f"a.jsonl{packed}"
    for content in (whole[: len(whole) // 2], b"no such thing" * 9):
        path.write_bytes(content)
        with pytest.raises(UnreadableData, match=r"it is damaged after [\d,]+ bytes.*in line \d+"):
            read_documents(str(path))


def test_one_column_of_a_csv_file(tmp_path: Path) -> None:
    """It need not be called text; a byte order mark is no part of its name."""
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfverse\none\n\n"two, and\n\nthree"\n')
    found = read_documents(str(path))
    assert (list(found), found.field) == (["one", "two, and\n\nthree"], "verse")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text(alphabet='a," \n\r\té', min_size=1, max_size=9), min_size=2, max_size=2),
        min_size=1,
        max_size=80,
    )
)
def test_any_csv_is_read_as_python_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    """Wherever its rows begin and end."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "other"], *rows])
    kept = [row for row in rows if row[0].strip()]
    if not kept:
        with pytest.raises(NoDocuments):
            read_documents(str(path))
        return
    found = read_documents(str(path), keep_fields=["other"])
    assert list(found) == [row[0] for row in kept]
    assert list(found.fields["other"]) == [row[1] for row in kept]


BAD = (
    b'{"text": "a", "label": 1}\n'
    b'{"text": "half \\ud83d", "label": 2}\n'
    b"\n"
    b'{"text": "b", "label": [3]}\n'
    b'{"text": \n'
    b"3\n"
    b'{"text": "\xff", "label": 4}\n'
    b'{"text": "", "label": 5}\n'
    b'{"label": 6}\n'
    b'{"text": 7}\n'
    b'{"text": null}\n'
    b'{"text": "c", "label": 8}\n'
)


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    """They are left out if asked, counted, and said which; empty ones are none of them."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(BAD)
    found = read_documents(str(path), skip_bad_records=True, keep_fields=["label"])
    assert (list(found), list(found.fields["label"])) == (["a", "c"], [1, 8])
    assert (list(found.bad), list(found.empty)) == ([1, 2, 3, 4, 5, 7, 8], [6, 9])
    about = found.describe()
    assert (about["skipped_bad"], about["bad_records"]) == (7, [[1, 5], [7, 8]])
    assert (list(found.first(1).bad), list(found.first(1).empty)) == ([], [])
    assert found.origin == DataName(str(path), skip_bad_records=True, keep_fields=("label",))
    assert found.origin.read().fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("line", "keep", "match"),
    [
        (1, [], r"line 2: character 5 is \\ud83d, half of a surrogate .*--skip-bad-records"),
        (3, ["label"], r"line 2: field 'label' holds a list; text, numbers"),
        (4, [], r"line 2: this is no JSON"),
        (5, [], r"line 2: this is a int"),
        (6, [], r"line 2: byte 36 is not UTF-8"),
        (8, [], r"line 2 has no field 'text'"),
        (9, [], r"line 2: field 'text' holds a int"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, line: int, keep: list[str], match: str) -> None:
    """By its file and its line, and the file may be compressed."""
    lines = BAD.split(b"\n")
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines[0] + b"\n" + lines[line] + b"\n"))
    with pytest.raises((UnreadableData, UnknownField), match=match) as caught:
        read_documents(str(path), keep_fields=keep)
    assert "a.jsonl.gz" in str(caught.value)


def test_nothing_but_bad_records(tmp_path: Path) -> None:
    """What is wrong with the first is said, as a field that is misspelt is in every record."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(ROWS))
    with pytest.raises(UnknownField, match=r"line 1 has no field 'txet'.*Did you mean 'text'"):
        read_documents(str(path), field="txet", skip_bad_records=True)
    with pytest.raises(UnknownField, match=r"no field 'lable'; it has .* Did you mean 'label'"):
        read_documents(str(path), keep_fields=["lable"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a,a\n1,2\n", "line 1: the first row names 'a' twice"),
        ("", "line 1: the first row names no fields"),
        ("text,b\none\n", "line 2: this row has 1 fields, and the first row names 2"),
        ('text,b\none,x\n"two\n', "line 3: this is no CSV: unexpected end of data"),
        ("text,b\n\udcff,x\n", "line 2: field 'text' is not UTF-8"),
        ("one,two\na,b\n", "line 2 has no field 'text'; it has 'one', 'two'"),
    ],
    ids=["twice", "empty", "short", "quote", "bytes", "fields"],
)
def test_csv_that_is_none(tmp_path: Path, content: str, match: str) -> None:
    """It says where."""
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises((UnreadableData, UnknownField), match=match):
        read_documents(str(path))


def test_parquet_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged, and one that nothing is there to read."""
    content = parquet(ROWS)
    path = tmp_path / "a.parquet"
    path.write_bytes(content[:-9])
    with pytest.raises(UnreadableData, match=r"a\.parquet: this is no Parquet file"):
        read_documents(str(path))
    path.write_bytes(b"\0" * 300 + content[300:])
    with pytest.raises(UnreadableData, match=r"a\.parquet: it is damaged"):
        read_documents(str(path))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'tenterhook-capture\[parquet\]'"):
        read_documents(str(path))


def test_zstd_by_either_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that zarr brings where the one that streams is missing; or the way out is said."""
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd(json_lines(ROWS)))
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "pyarrow", None)
    assert len(read_documents(str(path))) == 150
    monkeypatch.setitem(modules, "numcodecs.zstd", None)
    with pytest.raises(ImportError, match=r"pip install 'tenterhook-capture\[zst\]'"):
        read_documents(str(path))


def test_conversations_and_token_ids_in_files(tmp_path: Path) -> None:
    """By the names of the columns, or by what they hold; padding is left out."""
    chat = [{"role": "user", "content": "hi"}]
    rows: list[dict[str, Any]] = [
        {"messages": chat, "input_ids": [5, 9, 0], "attention_mask": [1, 1, 0], "ids": [1, 2]},
        {"messages": chat, "input_ids": [7, 3, 2], "attention_mask": [1, 1, 1], "ids": []},
    ]
    for ending in (".jsonl", ".parquet"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(FORMATS[ending](rows))
        assert read_documents(str(path)).are_messages
        found = read_documents(str(path), field="input_ids")
        assert found.are_token_ids
        assert list(found) == ["[5,9]", "[7,3,2]"]
        other = read_documents(str(path), field="ids")
        assert (other.are_token_ids, list(other), list(other.empty)) == (True, ["[1,2]"], [1])
    path = tmp_path / "a.csv"
    path.write_text('input_ids\n"[5, 9]"\n')
    assert list(read_documents(str(path))) == ["[5,9]"]
    path.write_text("input_ids\nfive\n")
    with pytest.raises(UnreadableData, match=r"line 2: field 'input_ids' is no JSON"):
        read_documents(str(path))


def test_folders(tmp_path: Path) -> None:
    """All files of data in it, those inside folders too, in the order of their names."""
    for name, first, packed in (
        ("b/2.jsonl", 2, ""),
        ("b/10.jsonl.gz", 10, ".gz"),
        ("c.csv", 30, ""),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        rows = [{"text": f"{first} {at}", "label": at} for at in range(70)]
        make = FORMATS[".csv" if name.endswith("csv") else ".jsonl"]
        path.write_bytes(PACKED[packed](make(rows)))
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS", "image.png"):
        (tmp_path / "data" / name).write_bytes(b"\x89")
    found = read_documents(str(tmp_path / "data"), keep_fields=["label"])
    assert len(found) == 210
    assert [found[at] for at in (0, 69, 70, 140, 209)] == ["10 0", "10 69", "2 0", "30 0", "30 69"]
    assert found.fields["label"][139:142] == [69, "0", "1"]  # a table in CSV has text alone
    assert found.source.endswith("data (3 files)")
    (tmp_path / "data" / "c.csv").write_text("text,label\nchanged,1\n")
    assert found[3] == "10 3"
    with pytest.raises(UnreadableData, match=r"c\.csv: it was changed since"):
        found[140]


def test_a_folder_of_text(tmp_path: Path) -> None:
    """Lines of one file after those of another."""
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    assert list(read_documents(str(tmp_path))) == ["one", "two", "three"]
    whole = read_documents(str(tmp_path), sample_by="document")
    assert list(whole) == ["one\ntwo\n", "three\n"]
    with pytest.raises(UnreadableData, match="a text file has no field 'label'"):
        read_documents(str(tmp_path), keep_fields=["label"])


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
@pytest.mark.parametrize("odd", ["pipe", "device", "circle", "nowhere"])
def test_what_is_no_file_in_a_folder(tmp_path: Path, odd: str) -> None:
    """It is named: its documents would be lacking, and a pipe would be waited for."""
    (tmp_path / "a.jsonl").write_bytes(json_lines(ROWS))
    path = tmp_path / "b.jsonl"
    if odd == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "circle": str(path), "nowhere": "none"}[odd])
    with pytest.raises(UnreadableData, match=r"b\.jsonl: this is no file; mend it, or take it out"):
        read_documents(str(tmp_path))
    path.rename(tmp_path / ".b.jsonl")
    assert len(read_documents(str(tmp_path))) == len(ROWS)


def test_an_option_that_does_not_apply(tmp_path: Path) -> None:
    """How text is cut says nothing of records."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(ROWS))
    with pytest.raises(BadArgument, match=r"sample_by='line' must be left out \(--sample-by\)"):
        read_documents(str(path), sample_by="line")
    assert len(DataName(str(path), sample_by="line").read()) == 150  # as every recipe says


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have temporary files in a folder of the test's."""
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_is_unpacked_leaves_nothing(temporary: Path, tmp_path: Path) -> None:
    """The file has no name, so that nothing is left of a process that is killed."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(ROWS)))
    found = read_documents(str(path))
    assert found[3] == ROWS[3]["text"]
    assert list(temporary.iterdir()) == []
