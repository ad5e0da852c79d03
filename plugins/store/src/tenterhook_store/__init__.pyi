"""The static types of what `tenterhook_store` hands out, and of the store that zarr brings."""

from typing import Any

from tenterhook_store.aligning.aligned import AlignedRuns, align
from tenterhook_store.aligning.keeping import AlignmentFacts, list_alignments
from tenterhook_store.aligning.opening import find_alignment, open_alignment
from tenterhook_store.aligning.texts import TEXTS
from tenterhook_store.capture_budget import CaptureBudget
from tenterhook_store.comparing import (
    LayerComparison,
    RunComparison,
    RunDifference,
    compare,
)
from tenterhook_store.dataset import RowDataset
from tenterhook_store.default import LocalStore, open_store
from tenterhook_store.document_map import DocumentMap
from tenterhook_store.errors import (
    AmbiguousRun,
    BadName,
    BadSetting,
    CannotAlign,
    CannotDrop,
    CannotKeep,
    DamagedStore,
    DeletedRun,
    DroppedRows,
    IncompleteRun,
    MissingRows,
    NameTaken,
    NoDocumentField,
    NoSpans,
    NoStore,
    NotAStore,
    NotCaptured,
    NotKept,
    NoTokenizer,
    NotReduced,
    NotWritable,
    OtherAlignment,
    OtherLoader,
    OtherRun,
    OverBudget,
    PlaceTaken,
    ReplacedRun,
    RowOutOfRange,
    UnitHeldBack,
    UnknownAlignment,
    UnknownFormat,
    UnknownRun,
    UnknownTensor,
    Unreachable,
    WrongIndex,
    WrongRows,
)
from tenterhook_store.exports import (
    Exporter,
    ExportFolder,
    export_folder,
    find_exporter,
    to_csv,
    to_datasets,
    to_npy,
    to_parquet,
    to_safetensors,
    to_webdataset,
)
from tenterhook_store.finding import find_run, find_runs, natural_order
from tenterhook_store.following import DropsUnits, Follower, followers, unfollow
from tenterhook_store.int8 import ErrorMeter, dequantize, quantize
from tenterhook_store.int8_error import SCALE, Int8Error
from tenterhook_store.loader import RowLoader
from tenterhook_store.memory import MemoryStore
from tenterhook_store.names import (
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
    fold,
    is_reserved,
)
from tenterhook_store.narrowing import OUT_OF_RANGE, RangeMeter, is_narrower, out_of_range
from tenterhook_store.norm_bounds import (
    NORM_CHUNK,
    NORM_ROWS,
    NormBound,
    NormBounds,
    NormMeter,
)
from tenterhook_store.plan import CODECS, ROW_ARRAYS, LayerArray, RunPlan, Unit
from tenterhook_store.problem import Problem
from tenterhook_store.protocols import RowBlock, RunWriter, Store, UnitWriter
from tenterhook_store.readable import Readable
from tenterhook_store.reductions import REDUCTIONS, Reducing, Reduction
from tenterhook_store.row_ranges import RANGES, RowRanges, ranges
from tenterhook_store.rows import Rows
from tenterhook_store.run import Run
from tenterhook_store.search import Hit, Hits
from tenterhook_store.shared_tensors import SharedTensors, SharesTensors, check_shared_name
from tenterhook_store.spans import NOWHERE, SPANS
from tenterhook_store.statistics import TopTokens
from tenterhook_store.tensors import dtype_name, flat_bytes, plain_tensor, torch_dtype
from tenterhook_zarr import ZarrStore

__all__ = [
    "CODECS",
    "NORM_CHUNK",
    "NORM_ROWS",
    "NOWHERE",
    "OUT_OF_RANGE",
    "RANGES",
    "REDUCTIONS",
    "ROW_ARRAYS",
    "SCALE",
    "SPANS",
    "TEXTS",
    "AlignedRuns",
    "AlignmentFacts",
    "AmbiguousRun",
    "BadName",
    "BadSetting",
    "CannotAlign",
    "CannotDrop",
    "CannotKeep",
    "CaptureBudget",
    "DamagedStore",
    "DeletedRun",
    "DocumentMap",
    "DroppedRows",
    "DropsUnits",
    "ErrorMeter",
    "ExportFolder",
    "Exporter",
    "Follower",
    "Hit",
    "Hits",
    "IncompleteRun",
    "Int8Error",
    "LayerArray",
    "LayerComparison",
    "LocalStore",
    "MemoryStore",
    "MissingRows",
    "NameTaken",
    "NoDocumentField",
    "NoSpans",
    "NoStore",
    "NoTokenizer",
    "NormBound",
    "NormBounds",
    "NormMeter",
    "NotAStore",
    "NotCaptured",
    "NotKept",
    "NotReduced",
    "NotWritable",
    "OtherAlignment",
    "OtherLoader",
    "OtherRun",
    "OverBudget",
    "PlaceTaken",
    "Problem",
    "RangeMeter",
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
    "RunComparison",
    "RunDifference",
    "RunPlan",
    "RunWriter",
    "SharedTensors",
    "SharesTensors",
    "Store",
    "TopTokens",
    "Unit",
    "UnitHeldBack",
    "UnitWriter",
    "UnknownAlignment",
    "UnknownFormat",
    "UnknownRun",
    "UnknownTensor",
    "Unreachable",
    "WrongIndex",
    "WrongRows",
    "ZarrStore",
    "align",
    "check_attribute",
    "check_free",
    "check_run_id",
    "check_shared_name",
    "check_tensor_name",
    "compare",
    "dequantize",
    "dtype_name",
    "export_folder",
    "find_alignment",
    "find_exporter",
    "find_run",
    "find_runs",
    "flat_bytes",
    "fold",
    "followers",
    "is_narrower",
    "is_reserved",
    "list_alignments",
    "natural_order",
    "open_alignment",
    "open_store",
    "out_of_range",
    "plain_tensor",
    "quantize",
    "ranges",
    "to_csv",
    "to_datasets",
    "to_npy",
    "to_parquet",
    "to_safetensors",
    "to_webdataset",
    "torch_dtype",
    "unfollow",
]

def __getattr__(name: str) -> Any: ...
