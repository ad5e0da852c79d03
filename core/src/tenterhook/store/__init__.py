"""Stores: tensors by name, and runs, which are the rows that a model made of documents.

`LocalStore(folder)` opens the default store; the stores of installed plugins are here too, by
class name. Importing this imports neither torch nor a plugin.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tenterhook.plugins import load_store
from tenterhook.store._errors import (
    BadName,
    CannotKeep,
    DamagedStore,
    DeletedRun,
    IncompleteRun,
    NameTaken,
    NoStore,
    NotAStore,
    NotCaptured,
    NotKept,
    NotWritable,
    OtherRun,
    RowOutOfRange,
    UnknownRun,
    UnknownTensor,
    WrongIndex,
    WrongRows,
)
from tenterhook.store._local import LocalStore
from tenterhook.store._names import (
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
    fold,
    is_reserved,
)
from tenterhook.store._plan import ROW_ARRAYS, LayerArray, RunPlan, Unit
from tenterhook.store._problems import Problem
from tenterhook.store._protocols import RowBlock, RunWriter, Store, UnitWriter

if TYPE_CHECKING:
    from tenterhook.store._dtypes import dtype_name, torch_dtype
    from tenterhook.store._memory import MemoryStore
    from tenterhook.store._rows import Rows
    from tenterhook.store._run import DocumentMap, Run
    from tenterhook.store._tensors import flat_bytes, plain_tensor
    from tenterhook_zarr import ZarrStore as ZarrStore

__all__ = [
    "ROW_ARRAYS",
    "BadName",
    "CannotKeep",
    "DamagedStore",
    "DeletedRun",
    "DocumentMap",
    "IncompleteRun",
    "LayerArray",
    "LocalStore",
    "MemoryStore",
    "NameTaken",
    "NoStore",
    "NotAStore",
    "NotCaptured",
    "NotKept",
    "NotWritable",
    "OtherRun",
    "Problem",
    "RowBlock",
    "RowOutOfRange",
    "Rows",
    "Run",
    "RunPlan",
    "RunWriter",
    "Store",
    "Unit",
    "UnitWriter",
    "UnknownRun",
    "UnknownTensor",
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
    "plain_tensor",
    "torch_dtype",
]

_IMPORT_TORCH = {
    "DocumentMap": "_run",
    "MemoryStore": "_memory",
    "Rows": "_rows",
    "Run": "_run",
    "dtype_name": "_dtypes",
    "flat_bytes": "_tensors",
    "plain_tensor": "_tensors",
    "torch_dtype": "_dtypes",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch, or the store of a plugin, when it is asked for."""
    if name in _IMPORT_TORCH:
        module = importlib.import_module(f"{__name__}.{_IMPORT_TORCH[name]}")
        return getattr(module, name)
    return load_store(name)
