"""Documents from data sets of Hugging Face, in a folder that `datasets` wrote or on the hub."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenterhook_capture.documents import Documents, UnreadableData, read_table
from tenterhook_capture.tables import as_table
from tenterhook_transformers.errors import UnknownDataset
from tenterhook_transformers.hub import folders_like, hub_is_out_of_reach


def read(
    name: str,
    *,
    field: str | None = None,
    keep_fields: Sequence[str] = (),
    skip_bad_records: bool = False,
) -> Documents:
    """Read the documents of a data set.

    `name` is a folder that `save_to_disk` wrote, a folder of data files, or a name on the hub;
    `name:split` and `name:config:split` choose a part. Without a split `train` is read, or the
    only one. `field` names what holds the documents: without it `text`, or `messages`, or
    `input_ids`, or the only field of text. Empty ones are left out and counted, and with
    `skip_bad_records` those that cannot be read. `keep_fields` are kept beside them.

    Raises `ImportError` where `datasets` is not installed, `UnknownDataset` (an `OSError` and a
    `LookupError`), `UnknownField`, `UnreadableData`.
    """
    datasets = _datasets()
    base, config, split = _parts(name)
    found = _load(datasets, base, config)
    if hasattr(found, "keys"):
        split, found = _choose(found, split, base)
        name = ":".join(part for part in (base, config, split) if part)
    elif split is not None and split != str(found.split):
        splits = "one split" if found.split is None else f"the split {str(found.split)!r}"
        raise UnknownDataset(name, f"it holds {splits}", f"Name it as {base!r}.")
    table = as_table(found)
    assert table is not None
    table.name = name
    return read_table(
        table, field=field, keep_fields=keep_fields, skip_bad_records=skip_bad_records
    )


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ImportError(
            "Data sets of Hugging Face need the library `datasets`. Install it: "
            "`pip install 'tenterhook-transformers[datasets]'`.",
            name="datasets",
        ) from None


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """Return the name, the configuration and the split."""
    if Path(name).expanduser().is_dir():
        return name, None, None
    base, *rest = re.split(r":(?![\\/])", name)
    if len(base) == 1 and rest:  # `C:` is a drive
        base, rest = f"{base}:{rest[0]}", rest[1:]
    match rest:
        case []:
            return base, None, None
        case [split]:
            return base, None, split
        case [config, split]:
            return base, config, split
    raise UnknownDataset(
        name, "this has too many parts", "Write name, name:split or name:config:split."
    )


def _load(datasets: Any, base: str, config: str | None) -> Any:
    path = Path(base).expanduser()
    try:
        if path.is_dir() and _was_saved(path):
            return datasets.load_from_disk(str(path))
        if not path.is_dir():
            _check_name(datasets, base, path)
        return datasets.load_dataset(str(path) if path.is_dir() else base, config)
    except (UnknownDataset, UnreadableData):
        raise
    except Exception as error:  # noqa: BLE001 - the library raises anything, from pyarrow's errors to the hub's
        raise _unknown(base, path, error) from None


def _was_saved(path: Path) -> bool:
    return any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json"))


def _check_name(datasets: Any, name: str, path: Path) -> None:
    """Raise `UnknownDataset` where it is plain, without asking the hub, that there is none."""
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        raise UnknownDataset(name, "there is no such folder", folders_like(path))
    cached = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if hub_is_out_of_reach() and not cached.exists():
        raise _out_of_reach(name, path)


def _unknown(name: str, path: Path, error: Exception) -> UnknownDataset:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if path.is_dir():
        reason = f"the folder cannot be read as one: {lines[0]}"
        return UnknownDataset(name, reason, "Of a folder of text files name one file.")
    if "Config name is missing" in str(error):
        reason = " ".join(line.strip() for line in lines[:2])
        return UnknownDataset(name, reason, f"Name one, as '{name}:CONFIG:SPLIT'.")
    if hub_is_out_of_reach():
        return _out_of_reach(name, path)
    return UnknownDataset(name, lines[0].rstrip("."), folders_like(path))


def _out_of_reach(name: str, path: Path) -> UnknownDataset:
    return UnknownDataset(
        name,
        "there is no such folder, it is not in the cache, and the hub is out of reach",
        "Give a file or a folder, or use 'tiny:sample', which needs no network. "
        f"{folders_like(path)}",
    )


def _choose(found: Any, split: str | None, name: str) -> tuple[str, Any]:
    splits = list(found)
    if split is None:
        split = "train" if "train" in splits else splits[0]
        if split != "train" and len(splits) > 1:
            shown = ", ".join(f"'hf:{name}:{each}'" for each in splits)
            raise UnknownDataset(
                name, "it has several splits and none is train", f"One of {shown}."
            )
    if split not in splits:
        shown = ", ".join(map(repr, splits))
        raise UnknownDataset(f"{name}:{split}", "there is no such split", f"Its splits: {shown}.")
    return split, found[split]
