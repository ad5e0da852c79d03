"""Tables as documents: of pandas, pyarrow and lists of records; and the fields that are kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_capture import CaptureRecipe, save_activations
from tenterhook_capture.documents import Documents, NoDocuments, UnknownField, UnreadableData
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, MissingRows, NoDocumentField, OtherRun, to_npy

ROWS: list[dict[str, Any]] = [
    {"id": at, "text": f"text {at}" if at % 7 else None, "name": f"n{at}" if at % 2 else None}
    for at in range(100)
]
TEXTS = [row["text"] for row in ROWS if row["text"]]


def frame(rows: Sequence[Mapping[Any, Any]]) -> Any:
    """Make a table of pandas."""
    return pytest.importorskip("pandas").DataFrame(rows)


def arrow(rows: list[dict[str, Any]]) -> Any:
    """Make a table of pyarrow."""
    return pytest.importorskip("pyarrow").Table.from_pylist(rows)


TABLES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "pandas": frame,
    "pandas, its rows numbered anew": lambda rows: frame(rows).set_index("id", drop=False),
    "pyarrow": arrow,
    "large strings": lambda rows: _large(arrow(rows)),
    "a batch of pyarrow": lambda rows: arrow(rows).combine_chunks().to_batches()[0],
    "records": lambda rows: rows,
}


def _large(table: Any) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    at = table.column_names.index("text")
    return table.set_column(at, "text", table["text"].cast(pyarrow.large_string()))


@pytest.mark.parametrize("make", TABLES.values(), ids=list(TABLES))
def test_tables(make: Callable[..., Any]) -> None:
    """Never the names of their columns: `text`, or the column that is asked for."""
    found = Documents.of(make(ROWS))
    assert list(found) == TEXTS
    assert (found.field, len(found.empty)) == ("text", 15)
    kept = Documents.of(make(ROWS), field="name", keep_fields=["id", "text"], limit=20)
    assert list(kept) == [f"n{at}" for at in range(1, 40, 2)]
    assert list(kept.fields["id"]) == [*range(1, 40, 2)]
    assert all(type(each) is int for each in kept.fields["id"])
    assert kept.fields["text"][3] is None  # that of row 7
    with pytest.raises(UnknownField, match="no field 'txet'"):
        Documents.of(make(ROWS), field="txet")
    with pytest.raises(UnknownField, match="no field 'ids'"):
        Documents.of(make(ROWS), keep_fields=["ids"])
    with pytest.raises(UnreadableData, match="field 'id' holds no text; 'text', 'name' do"):
        Documents.of(make(ROWS), field="id")


@pytest.mark.parametrize("make", [frame, arrow, lambda rows: rows], ids=["pandas", "arrow", "list"])
def test_tables_of_conversations_and_ids(make: Callable[..., Any]) -> None:
    """By name, or by what a column holds."""
    chat = [{"role": "user", "content": "hi"}]
    rows = [{"messages": chat, "input_ids": [5, 9]}, {"messages": chat, "input_ids": [3]}]
    assert Documents.of(make(rows)).are_messages
    assert list(Documents.of(make(rows), field="input_ids")) == ["[5,9]", "[3]"]
    assert list(Documents.of(make([{"tokens": [4, 2], "n": 1}]), field="tokens")) == ["[4,2]"]


def test_columns() -> None:
    """A column is its values."""
    table, data = arrow(ROWS), frame([{"text": "a"}, {"text": "b"}])
    assert list(Documents.of(table["name"].drop_null())) == [f"n{at}" for at in range(1, 100, 2)]
    assert list(Documents.of(data["text"])) == ["a", "b"]
    assert list(Documents.of(data["text"].to_numpy())) == ["a", "b"]


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow", None])
def test_data_sets_in_any_format(kind: str | None) -> None:
    """Their rows are read as values of Python."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 2]}).with_format(kind)
    found = Documents.of(data, keep_fields="label")
    assert (list(found), list(found.fields["label"])) == (["a", "b"], [1, 2])
    ids = datasets.Dataset.from_dict({"input_ids": [[5, 9], [3]]}).with_format(kind)
    assert list(Documents.of(ids)) == ["[5,9]", "[3]"]


def test_token_ids_in_a_nested_tensor() -> None:
    """Rows of their own lengths."""
    rows = [torch.tensor([5, 9]), torch.tensor([3])]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    assert list(Documents.of(nested)) == ["[5,9]", "[3]"]


def test_columns_that_are_numbers() -> None:
    """A DataFrame made without names has them."""
    table = frame([{0: "a", 1: "x"}, {0: "b", 1: "y"}])
    assert list(Documents.of(table, field=0)) == ["a", "b"]  # type: ignore[arg-type]
    with pytest.raises(UnknownField, match="no field '2'; it has '0', '1'"):
        Documents.of(table, field=2)  # type: ignore[arg-type]


def test_what_a_tokenizer_returns() -> None:
    """Token ids with a mask of real tokens: padding is none of the document."""
    batch = {"input_ids": [[5, 9, 0], [3, 4, 2]], "attention_mask": [[1, 1, 0], [1, 1, 1]]}
    assert list(Documents.of(batch)) == ["[5,9]", "[3,4,2]"]


def test_what_is_no_table() -> None:
    """It is refused, not taken for the names in it."""
    with pytest.raises(UnreadableData, match="a mapping is no data set; give one of its columns"):
        Documents.of({"text": ["one"]})
    with pytest.raises(UnreadableData, match="document 0: it is a tuple"):
        Documents.of(frame(ROWS).groupby("id"))
    with pytest.raises(ValueError, match="field='text': list has no fields"):
        Documents.of(["a"], field="text")
    with pytest.raises(UnreadableData, match="two of its columns have one name"):
        Documents.of(frame(ROWS).rename(columns={"name": "text"}))

    with pytest.raises(NoDocuments, match="holds no document"):
        Documents.of(frame([{"text": "a"}]).iloc[:0])
    for nothing in (None, 5):
        with pytest.raises(UnreadableData, match=r"documents: a (NoneType|int) is none; give tex"):
            Documents.of(nothing)  # type: ignore[arg-type]

    class Frame:
        columns = ("a", "b")

        def __iter__(self) -> Any:
            return iter(self.columns)

    with pytest.raises(
        UnreadableData, match="a Frame is no table that is read; give one of pandas"
    ):
        Documents.of(Frame())


def test_bad_values_of_a_list() -> None:
    """They are left out if asked, and counted."""
    found = Documents.of(["a", "\ud83d", "b"], skip_bad_records=True)
    assert (list(found), list(found.bad)) == (["a", "b"], [1])
    chats = [[{"role": "user", "content": each}] for each in ("a", "\ud83d", "b")]
    found = Documents.of([chats[0], [], *chats[1:]], skip_bad_records=True)
    assert (len(found), list(found.empty), list(found.bad)) == (2, [1], [2])
    assert found.are_messages
    assert len(Documents.of([chats[1]], skip_bad_records=True)) == 1  # tokenizing names it


# --- fields that are kept with a run


def documents() -> Documents:
    """Documents of which some have no token and some are of several units."""
    rows = [
        {"text": " ".join(["w"] * (1 + at * 5 % 17)), "label": [1, "a", True, None, 0.1][at % 5]}
        for at in range(40)
    ]
    rows[0]["text"] = rows[20]["text"] = rows[21]["text"] = rows[39]["text"] = "\u200b"
    return Documents.of(rows, keep_fields=["label"])


class Words(WordModel):
    """A model that makes nothing of some texts."""

    def token_ids(self, texts: Any) -> list[list[int]]:
        """Return no id for a text without a visible letter."""
        return super().token_ids([text.replace("\u200b", "") for text in texts])


@pytest.mark.parametrize("how", [{}, {"tokens": "5"}, {"tokens": "last"}, {"bucket": True}])
@pytest.mark.parametrize("rows_per_unit", [3, 7, 32_768])
def test_one_value_a_document(rows_per_unit: int, how: dict[str, Any]) -> None:
    """Whatever units its rows are in, and where it has none."""
    store, given = MemoryStore(), documents()
    run = store.run(
        save_activations(Words(), "head", given, store, rows_per_unit=rows_per_unit, **how)
    )
    assert run.documents.fields == ("label",)
    assert "label" in run.documents
    found = run.documents["label"]
    assert found == list(given.fields["label"])
    assert [type(each) for each in found[:5]] == [int, str, bool, type(None), float]


def test_a_field_that_is_not_kept() -> None:
    """The nearest is named, or how fields are kept."""
    store = MemoryStore()
    run = store.run(save_activations(Words(), "head", documents(), store))
    with pytest.raises(NoDocumentField, match=r"no field 'lable' .* Did you mean 'label'"):
        run.documents["lable"]
    other = store.run(save_activations(Words(), "head", ["a"], store))
    with pytest.raises(KeyError, match="It keeps none"):
        other.documents["label"]


def test_fields_are_part_of_what_a_run_is() -> None:
    """Other values are another run; the names go with the recipe."""
    store = MemoryStore()
    first = save_activations(Words(), "head", documents(), store, run_name="r")
    assert store.run(first).plan.spec["keep_fields"] == ["label"]
    rows = [{"text": text, "label": 1} for text in documents()]
    with pytest.raises(OtherRun, match="fields not the same"):
        save_activations(
            Words(), "head", Documents.of(rows, keep_fields=["label"]), store, run_name="r"
        )
    with pytest.raises(OtherRun, match="keep_fields is"):
        save_activations(Words(), "head", Documents.of(rows), store, run_name="r")
    assert CaptureRecipe.of_run(store.run("r")).data is None


def test_fields_of_a_run_that_lacks_units() -> None:
    """What is missing is named."""
    store = MemoryStore()

    def stop(progress: Any) -> None:
        if progress.rows > 20:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"rows_per_unit": 8, "run_name": "r", "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        save_activations(Words(), "head", documents(), store, progress=stop, **settings)
    with pytest.raises(MissingRows, match="which is missing"):
        store.run("r").documents["label"]
    save_activations(Words(), "head", documents(), store, **settings)
    assert store.run("r").documents["label"] == list(documents().fields["label"])


def test_fields_are_exported(tmp_path: Path) -> None:
    """In every format, a line for each document; none where units are missing."""
    store = MemoryStore()
    run = store.run(save_activations(Words(), "head", documents(), store))
    to_npy(run, tmp_path / "npy")
    lines = (tmp_path / "npy" / "documents.jsonl").read_text().splitlines()
    labels = run.documents["label"]
    assert [json.loads(line) for line in lines] == [
        {"document": at, "fields": {"label": label}} for at, label in enumerate(labels)
    ]
    assert json.loads((tmp_path / "npy" / "run.json").read_bytes())["documents"] == (
        "documents.jsonl"
    )
    other = store.run(save_activations(Words(), "head", ["a"], store))
    to_npy(other, tmp_path / "other")
    assert not (tmp_path / "other" / "documents.jsonl").exists()
