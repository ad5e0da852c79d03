"""Stores: tensors by name, and runs, which are the rows that a model made of documents.

`LocalStore(folder)` opens the default store, and `open_store(place)` is the same by another name;
the stores of installed plugins are here too, by class name. Importing this imports neither torch
nor a plugin.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tenterhook.plugins import load_store
from tenterhook.store._errors import (
    BadName,
    BadSetting,
    CannotKeep,
    DamagedStore,
    DeletedRun,
    IncompleteRun,
    MissingRows,
    NameTaken,
    NoStore,
    NotAStore,
    NotCaptured,
    NotKept,
    NoTokenizer,
    NotReduced,
    NotWritable,
    OtherLoader,
    OtherRun,
    PlaceTaken,
    ReplacedRun,
    RowOutOfRange,
    UnknownRun,
    UnknownTensor,
    Unreachable,
    WrongIndex,
    WrongRows,
)
from tenterhook.store._local import LocalStore, open_store
from tenterhook.store._names import (
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
    fold,
    is_reserved,
)
from tenterhook.store._plan import CODECS, ROW_ARRAYS, LayerArray, RunPlan, Unit
from tenterhook.store._problems import Problem
from tenterhook.store._protocols import RowBlock, RunWriter, Store, UnitWriter

if TYPE_CHECKING:
    from tenterhook.store._dataset import RowDataset
    from tenterhook.store._dtypes import dtype_name, torch_dtype
    from tenterhook.store._export import to_datasets, to_npy, to_safetensors
    from tenterhook.store._int8 import Int8Error
    from tenterhook.store._loader import RowLoader
    from tenterhook.store._memory import MemoryStore
    from tenterhook.store._ranges import RowRanges
    from tenterhook.store._reduced import TopTokens
    from tenterhook.store._rows import Rows
    from tenterhook.store._run import DocumentMap, Run
    from tenterhook.store._tensors import flat_bytes, plain_tensor
    from tenterhook_zarr import ZarrStore as ZarrStore

__all__ = [
    "CODECS",
    "ROW_ARRAYS",
    "BadName",
    "BadSetting",
    "CannotKeep",
    "DamagedStore",
    "DeletedRun",
    "DocumentMap",
    "IncompleteRun",
    "Int8Error",
    "LayerArray",
    "LocalStore",
    "MemoryStore",
    "MissingRows",
    "NameTaken",
    "NoStore",
    "NoTokenizer",
    "NotAStore",
    "NotCaptured",
    "NotKept",
    "NotReduced",
    "NotWritable",
    "OtherLoader",
    "OtherRun",
    "PlaceTaken",
    "Problem",
    "ReplacedRun",
    "RowBlock",
    "RowDataset",
    "RowLoader",
    "RowOutOfRange",
    "RowRanges",
    "Rows",
    "Run",
    "RunPlan",
    "RunWriter",
    "Store",
    "TopTokens",
    "Unit",
    "UnitWriter",
    "UnknownRun",
    "UnknownTensor",
    "Unreachable",
    "WrongIndex",
    "WrongRows",
    "check_attribute",
    "check_free",
    "check_run_id",
    "check_tensor_name",
    "dtype_name",
    "flat_bytes",
    "fold",
    "is_reserved",
    "open_store",
    "plain_tensor",
    "to_datasets",
    "to_npy",
    "to_safetensors",
    "torch_dtype",
]

_IMPORT_TORCH = {
    "DocumentMap": "_run",
    "Int8Error": "_int8",
    "MemoryStore": "_memory",
    "RowDataset": "_dataset",
    "RowLoader": "_loader",
    "RowRanges": "_ranges",
    "Rows": "_rows",
    "Run": "_run",
    "dtype_name": "_dtypes",
    "flat_bytes": "_tensors",
    "plain_tensor": "_tensors",
    "TopTokens": "_reduced",
    "to_datasets": "_export",
    "to_npy": "_export",
    "to_safetensors": "_export",
    "torch_dtype": "_dtypes",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch, or the store of a plugin, when it is asked for."""
    if name in _IMPORT_TORCH:
        module = importlib.import_module(f"{__name__}.{_IMPORT_TORCH[name]}")
        return getattr(module, name)
    return load_store(name)
