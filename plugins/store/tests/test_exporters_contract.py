"""The exporters of this distribution do what every exporter does."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_store import (
    Run,
    to_csv,
    to_datasets,
    to_npy,
    to_parquet,
    to_safetensors,
    to_webdataset,
)
from tenterhook_store.testing.exporters import ExporterContract


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


class TestNpy(ExporterContract):
    """An npy file for each array."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as npy."""
        return to_npy(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as numpy does."""
        np = pytest.importorskip("numpy")
        return torch.from_numpy(np.load(folder / facts_of(folder)["files"][layer]))


class TestSafetensors(ExporterContract):
    """Safetensors files of some rows each."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as safetensors."""
        pytest.importorskip("safetensors")
        return to_safetensors(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as safetensors does."""
        from safetensors.torch import load_file

        files = sorted(folder.glob("*.safetensors"))
        return torch.cat([load_file(file)[layer] for file in files])


class TestDatasets(ExporterContract):
    """A data set of Hugging Face."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as a data set."""
        pytest.importorskip("datasets")
        return to_datasets(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as datasets does."""
        found = pytest.importorskip("datasets").load_from_disk(str(folder))
        return torch.tensor(found[layer][:])


class TestParquet(ExporterContract):
    """A Parquet file."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as Parquet."""
        pytest.importorskip("pyarrow")
        return to_parquet(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as pyarrow does."""
        parquet = pytest.importorskip("pyarrow.parquet")
        return torch.tensor(parquet.read_table(folder / "rows.parquet")[layer].to_pylist())


class TestCsv(ExporterContract):
    """A CSV file."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as CSV."""
        pytest.importorskip("pyarrow")
        return to_csv(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as Python does."""
        with (folder / "rows.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        names = [name for name in lines[0] if name.startswith(f"{layer}[")]
        return torch.tensor([[float(line[name]) for name in names] for line in lines])


class TestWebDataset(ExporterContract):
    """Tar files with a sample for each document."""

    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Export as tar files."""
        pytest.importorskip("numpy")
        return to_webdataset(run, folder, **settings)

    def read(self, folder: Path, layer: str) -> Tensor:
        """Read as `tarfile` does, whose order is that of the documents."""
        np, found = pytest.importorskip("numpy"), []
        for shard in sorted(folder.glob("*.tar")):
            with tarfile.open(shard) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    if file and member.name.partition(".")[2] == facts_of(folder)["files"][layer]:
                        found.append(torch.from_numpy(np.load(io.BytesIO(file.read()))))
        return torch.cat(found)
