"""Runs as the files of other tools: one file a format, and each format an exporter of a plugin."""

from tenterhook_store.exports.arrays import Narrow, Progress
from tenterhook_store.exports.csv import to_csv
from tenterhook_store.exports.datasets import to_datasets
from tenterhook_store.exports.exporter import Exporter, find_exporter
from tenterhook_store.exports.folder import ExportFolder, export_folder
from tenterhook_store.exports.npy import to_npy
from tenterhook_store.exports.parquet import to_parquet
from tenterhook_store.exports.safetensors import to_safetensors
from tenterhook_store.exports.webdataset import to_webdataset

__all__ = [
    "ExportFolder",
    "Exporter",
    "Narrow",
    "Progress",
    "export_folder",
    "find_exporter",
    "to_csv",
    "to_datasets",
    "to_npy",
    "to_parquet",
    "to_safetensors",
    "to_webdataset",
]
