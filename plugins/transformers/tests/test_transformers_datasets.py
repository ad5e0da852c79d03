"""Data sets of Hugging Face as documents: fields, splits, and what is said when they fail."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenterhook_capture.documents import Documents, NoDocuments, UnknownField, UnreadableData
from tenterhook_store import MemoryStore
from tenterhook_transformers import LanguageModel, UnknownDataset, read

datasets = pytest.importorskip("datasets")

Make = Callable[..., Any]
ROWS: dict[str, Any] = {"text": ["one", "two words", "three of them"], "number": [1, 2, 3]}


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep progress bars out of the tests, and what is cached in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Return a function that saves a data set, or several splits, and returns the folder."""

    def save(rows: dict[str, list[Any]] | None = None, splits: tuple[str, ...] = ()) -> str:
        one = datasets.Dataset.from_dict(rows or ROWS)
        found = datasets.DatasetDict(dict.fromkeys(splits, one)) if splits else one
        found.save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    return save


def test_saved_folder(save: Make) -> None:
    """The texts of a saved data set are documents, in order."""
    folder = save()
    found = read(folder)
    assert list(found.texts) == ROWS["text"]
    assert found.source == folder
    assert found.field == "text"


def test_only_field_of_text(save: Make) -> None:
    """Where there is one field of text it need not be named."""
    assert list(read(save({"verse": ["a", "b"], "n": [1, 2]})).texts) == ["a", "b"]


def test_field_that_is_named(save: Make) -> None:
    """A field that is named is taken."""
    assert list(read(save({"text": ["a"], "title": ["b"]}), field="title").texts) == ["b"]


def test_several_fields(save: Make) -> None:
    """Where there are several and none is called text, the error names them."""
    with pytest.raises(UnreadableData, match=r"which field is the text.*'question', 'answer'"):
        read(save({"question": ["a"], "answer": ["b"]}))


def test_wrong_field(save: Make) -> None:
    """A field that is not there is an error that names those that are."""
    with pytest.raises(UnknownField, match=r"no field 'txet'; it has 'text', 'number'.*'text'"):
        read(save(), field="txet")


def test_field_without_text(save: Make) -> None:
    """A field of numbers is no text."""
    with pytest.raises(UnreadableData, match="field 'number' holds no text; 'text' do"):
        read(save(), field="number")


def test_empty_texts(save: Make) -> None:
    """Empty and missing texts are left out and counted; nothing but those is an error."""
    found = read(save({"text": ["a", "", None, " \n"]}))
    assert list(found.texts) == ["a"]
    assert found.skipped == 3
    with pytest.raises(NoDocuments):
        read(save({"text": ["", None]}))


def test_splits(save: Make) -> None:
    """`train` is taken and said, another is named after a colon."""
    folder = save(splits=("train", "test"))
    assert read(folder).source == f"{folder}:train"
    assert read(f"{folder}:test").source == f"{folder}:test"


def test_unknown_split(save: Make) -> None:
    """A split that is not there is an error that names those that are."""
    with pytest.raises(UnknownDataset, match=r"no such split.*'train', 'test'"):
        read(f"{save(splits=('train', 'test'))}:dev")


def test_no_train_split(save: Make) -> None:
    """Several splits without train are an error that shows how to name one."""
    folder = save(splits=("dev", "test"))
    with pytest.raises(UnknownDataset, match=f"'hf:{folder}:dev'"):
        read(folder)


def test_folder_of_files(tmp_path: Path) -> None:
    """A folder of data files is read as `datasets` reads it."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert list(read(str(tmp_path / "files")).texts) == ["a", "b"]


def test_folder_of_nothing(tmp_path: Path) -> None:
    """A folder that holds no data is one error."""
    with pytest.raises(UnknownDataset, match=r"cannot be read.*name one file\.") as caught:
        read(str(tmp_path))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere"])
def test_missing_folder(name: str) -> None:
    """A path that is not there is an error that does not ask the hub."""
    with pytest.raises(UnknownDataset, match="there is no such folder"):
        read(name)


def test_unknown_name_offline() -> None:
    """A name on the hub fails at once where the hub may not be asked."""
    with pytest.raises(UnknownDataset, match="not in the cache, and the hub is out of reach"):
        read("someone/some-data:train")


def test_too_many_parts() -> None:
    """A name with four parts is an error that says what they are."""
    with pytest.raises(UnknownDataset, match="name:config:split"):
        read("some:b:c:d")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `datasets` the error is the command that installs it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'tenterhook-transformers\[datasets\]'"):
        read("x")


# --- data sets given as objects


@pytest.fixture
def lm(make_model: Make, tokenizer: Any) -> LanguageModel:
    """A small GPT-2 with a store."""
    return LanguageModel(make_model(), tokenizer, MemoryStore())


def test_save_of_a_data_set(lm: LanguageModel, save: Make) -> None:
    """A data set, its stream, its folder, its documents and its texts give the same rows."""
    table = datasets.Dataset.from_dict(ROWS)
    given: list[tuple[Any, dict[str, Any]]] = [
        (table, {"field": "text"}),
        (table, {}),
        (table.to_iterable_dataset(), {}),
        (Path(save()), {"field": "text"}),
        (Documents(ROWS["text"]), {}),
        (tuple(ROWS["text"]), {}),
        (iter(ROWS["text"]), {}),
    ]
    assert lm.store is not None
    for number, (dataset, options) in enumerate(given):
        run = lm.store.run(lm.activations.save("layer_0", dataset, f"r{number}", 2, **options))
        expected = [id for ids in lm.token_ids(ROWS["text"][:2]) for id in ids]
        assert run.tokens[:].tolist() == expected


def test_infer_a_data_set(lm: LanguageModel, save: Make) -> None:
    """A data set, its stream and its folder are run in batches."""
    table = datasets.Dataset.from_dict(ROWS)
    for dataset in (table, table.to_iterable_dataset(), save()):
        batches = list(lm.inference.infer_dataset(dataset, batch_size=2))
        assert [encodings["input_ids"].shape[0] for _, encodings in batches] == [2, 1]


def test_several_splits_given(lm: LanguageModel) -> None:
    """Several splits at once are an error that says how to pass one."""
    table = datasets.DatasetDict(train=datasets.Dataset.from_dict(ROWS))
    with pytest.raises(UnreadableData, match=r"dataset\['train'\]"):
        lm.activations.save("layer_0", table)


def test_limit_counts_texts(lm: LanguageModel, save: Make) -> None:
    """Of a data set, its stream, or its name, a limit takes so many texts that are not empty."""
    table = datasets.Dataset.from_dict({"text": ["", "one", None, "two", "", "three", ""]})
    given = [table, table.to_iterable_dataset(), save({"text": list(table["text"])})]
    for number, dataset in enumerate(given):
        run = lm.activations.save("layer_0", dataset, f"run-{number}", sample_limit=2)
        assert lm.store is not None
        about = lm.store.run(run).metadata["documents"]
        assert about["count"] == 2
        assert (about["skipped_empty"], about["skipped_records"]) == (2, [[0, 0], [2, 2]])


def test_limit_reads_no_more(lm: LanguageModel) -> None:
    """Of a stream, only what the limit asks for is read."""
    taken = []

    def rows() -> Any:
        for number in range(1000):
            taken.append(number)
            yield {"text": f"number {number}"}

    lm.activations.save("layer_0", datasets.IterableDataset.from_generator(rows), sample_limit=3)
    assert max(taken) < 10


def test_fields_and_tables(lm: LanguageModel, save: Make) -> None:
    """Labels are kept of every kind of table, of its folder too; bad records are left out."""
    pandas = pytest.importorskip("pandas")
    rows: dict[str, list[Any]] = {
        "text": ["one", "", "half \ud83d", "four"],
        "number": [1, 2, 3, 4],
    }
    good = {name: [values[0], values[1], values[3]] for name, values in rows.items()}
    table = datasets.Dataset.from_dict(good)  # arrow holds no half of a pair
    records = [dict(zip(rows, each, strict=True)) for each in zip(*rows.values(), strict=True)]
    assert lm.store is not None
    for number, data in enumerate((table, save(good), table.to_iterable_dataset(), records)):
        options: dict[str, Any] = {"keep_fields": ["number"], "skip_bad_records": True}
        run = lm.store.run(lm.activations.save("layer_0", data, f"f{number}", **options))
        assert run.documents["number"] == [1, 4]
        assert run.metadata["documents"]["skipped_bad"] == (1 if data is records else 0)
    with pytest.raises(UnreadableData, match="row 2: character 5 is"):
        lm.activations.save("layer_0", records)
    batches = list(lm.inference.infer_dataset(pandas.DataFrame(good), field="text", sample_limit=1))
    assert batches[0][1]["input_ids"].tolist() == lm.token_ids(["one"])
    with pytest.raises(TypeError, match="These are token ids, and inference runs texts"):
        lm.inference.infer_dataset(datasets.Dataset.from_dict({"input_ids": [[1, 2]]}))
