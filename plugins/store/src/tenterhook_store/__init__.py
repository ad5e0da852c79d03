"""Stores: tensors by name, and runs, which are the rows that a model made of documents.

`LocalStore(folder)` opens the default store, and `open_store(place)` is the same by another name;
the stores of installed plugins are here too, by class name. Importing this imports neither torch
nor a plugin; type checkers read the `.pyi` beside it.
"""

import importlib
from typing import Any

from tenterhook.plugins import load_store
from tenterhook_store.default import LocalStore, open_store
from tenterhook_store.errors import (
    AmbiguousRun,
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
    UnknownFormat,
    UnknownRun,
    UnknownTensor,
    Unreachable,
    WrongIndex,
    WrongRows,
)
from tenterhook_store.finding import find_run, find_runs, natural_order
from tenterhook_store.names import (
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
    fold,
    is_reserved,
)
from tenterhook_store.plan import CODECS, ROW_ARRAYS, LayerArray, RunPlan, Unit
from tenterhook_store.protocols import Problem, RowBlock, RunWriter, Store, UnitWriter
from tenterhook_store.row_ranges import RANGES, RowRanges, ranges

__all__ = [
    "CODECS",
    "RANGES",
    "REDUCTIONS",
    "ROW_ARRAYS",
    "SCALE",
    "AmbiguousRun",
    "BadName",
    "BadSetting",
    "CannotKeep",
    "DamagedStore",
    "DeletedRun",
    "DocumentMap",
    "ErrorMeter",
    "ExportFolder",
    "Exporter",
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
    "Readable",
    "Reducing",
    "Reduction",
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
    "UnknownFormat",
    "UnknownRun",
    "UnknownTensor",
    "Unreachable",
    "WrongIndex",
    "WrongRows",
    "check_attribute",
    "check_free",
    "check_run_id",
    "check_tensor_name",
    "dequantize",
    "dtype_name",
    "export_folder",
    "find_exporter",
    "find_run",
    "find_runs",
    "flat_bytes",
    "fold",
    "is_reserved",
    "natural_order",
    "open_store",
    "plain_tensor",
    "quantize",
    "ranges",
    "to_datasets",
    "to_npy",
    "to_safetensors",
    "torch_dtype",
]

# Names that need torch, by the module that has them.
_IMPORT_TORCH = {
    "REDUCTIONS": "reductions",
    "SCALE": "int8",
    "DocumentMap": "document_map",
    "ErrorMeter": "int8",
    "ExportFolder": "exports",
    "Exporter": "exports",
    "Int8Error": "int8",
    "MemoryStore": "memory",
    "Readable": "readable",
    "Reducing": "reductions",
    "Reduction": "reductions",
    "RowDataset": "dataset",
    "RowLoader": "loader",
    "Rows": "rows",
    "Run": "run",
    "TopTokens": "statistics",
    "dequantize": "int8",
    "dtype_name": "tensors",
    "export_folder": "exports",
    "find_exporter": "exports",
    "flat_bytes": "tensors",
    "plain_tensor": "tensors",
    "quantize": "int8",
    "to_datasets": "exports",
    "to_npy": "exports",
    "to_safetensors": "exports",
    "torch_dtype": "tensors",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch, or the store of a plugin, when it is asked for."""
    if name in _IMPORT_TORCH:
        module = importlib.import_module(f"{__name__}.{_IMPORT_TORCH[name]}")
        return getattr(module, name)
    return load_store(name)
