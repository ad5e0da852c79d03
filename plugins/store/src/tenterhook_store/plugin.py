"""What this distribution offers to tenterhook; imports nothing heavy."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_stores() -> Sequence[Extension]:
    """Declare the store that needs no other distribution."""
    return [
        Extension(
            "MemoryStore",
            "tenterhook_store.memory:MemoryStore",
            "Tensors and runs in memory, for as long as the store lives.",
            example="tenterhook_store.examples:memory",
        )
    ]


@hookimpl
def tenterhook_exporters() -> Sequence[Extension]:
    """Declare the formats that runs are exported in."""
    package = "tenterhook_store.exports"
    return [
        Extension(
            "csv",
            f"{package}.csv:to_csv",
            "A CSV file, with a column for each feature.",
            needs="pyarrow",
        ),
        Extension(
            "datasets",
            f"{package}.datasets:to_datasets",
            "A data set of Hugging Face, which maps the rows.",
            needs="datasets",
        ),
        Extension("npy", f"{package}.npy:to_npy", "An npy file for each array, which numpy maps."),
        Extension(
            "parquet",
            f"{package}.parquet:to_parquet",
            "A Parquet file, with a list of numbers for each layer.",
            needs="pyarrow",
        ),
        Extension(
            "safetensors",
            f"{package}.safetensors:to_safetensors",
            "Safetensors files of some of the rows each, bit for bit.",
        ),
        Extension(
            "webdataset",
            f"{package}.webdataset:to_webdataset",
            "Tar files with a sample for each document, which WebDataset reads.",
        ),
    ]
