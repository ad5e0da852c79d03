"""What every exporter of runs does: a contract to inherit.

class TestMyExporter(ExporterContract):
    def export(self, run, folder, **settings):
        return my_package.export(run, folder, **settings)

    def read(self, folder, layer):
        return torch.from_numpy(...)  # what other tools read of a layer there
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_store import MemoryStore, NotCaptured, PlaceTaken, Run
from tenterhook_store.testing.small_runs import a_plan, assert_whole, rows_of, write

__all__ = ["ExporterContract"]


class ExporterContract:
    """Inherit and give `export`; `read` too, where what was written is to be compared."""

    @abstractmethod
    def export(self, run: Run, folder: Path, **settings: Any) -> object:
        """Call the exporter."""

    def read(self, folder: Path, layer: str) -> Tensor:
        """Return the rows of a layer of an export, `[rows, features]`, in any float dtype."""
        pytest.skip("`read(folder, layer)` is not given, so what was written is not compared")

    @pytest.fixture
    def run(self) -> Run:
        """Return a run of 20 rows of two layers, `h.0` of float32 and `h.1` of bfloat16."""
        plan, store = a_plan(), MemoryStore()
        write(store.write_run("one", plan), plan.units())
        return store.run("one")

    @pytest.fixture
    def with_a_gap(self) -> Run:
        """Return the run without its second unit, rows 8 to 15."""
        plan, store = a_plan(), MemoryStore()
        write(store.write_run("one", plan), [plan.unit(0), plan.unit(2)])
        return store.run("one")

    def test_it_makes_the_folder(self, run: Run, tmp_path: Path) -> None:
        """One that is not there yet, or is empty; the run stays as it is."""
        tmp_path.joinpath("empty").mkdir()
        for name in ("new", "empty"):
            self.export(run, tmp_path / name)
            assert list(tmp_path.joinpath(name).iterdir())
        assert_whole(run)

    def test_rows_come_back(self, run: Run, tmp_path: Path) -> None:
        """Of every layer, as other tools read them."""
        self.export(run, tmp_path / "out")
        for layer, rows in rows_of(a_plan(), 0, 20).layers.items():
            assert torch.equal(self.read(tmp_path / "out", layer).float(), rows.float())

    def test_layers_are_chosen(self, run: Run, tmp_path: Path) -> None:
        """By one name, or a list of names."""
        for name, layers in (("one", "h.1"), ("list", ["h.1"])):
            self.export(run, tmp_path / name, layers=layers)
            found = self.read(tmp_path / name, "h.1").float()
            assert torch.equal(found, run["h.1"][:].float())

    def test_an_unknown_layer_leaves_nothing(self, run: Run, tmp_path: Path) -> None:
        """It is named, and there is no half of an export."""
        with pytest.raises(NotCaptured, match=r"'h\.9'"):
            self.export(run, tmp_path / "out", layers=["h.0", "h.9"])
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_holds_something_is_left_alone(self, run: Run, tmp_path: Path) -> None:
        """With `overwrite` too, where that is no export."""
        tmp_path.joinpath("out").mkdir()
        mine = tmp_path / "out" / "mine.txt"
        mine.write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(PlaceTaken, match="out"):
                self.export(run, tmp_path / "out", overwrite=overwrite)
            assert mine.read_text() == "mine"
            assert list(tmp_path.joinpath("out").iterdir()) == [mine]

    def test_an_earlier_export_is_replaced_when_asked(self, run: Run, tmp_path: Path) -> None:
        """And not before."""
        self.export(run, tmp_path / "out", layers="h.0")
        with pytest.raises(PlaceTaken, match="out"):
            self.export(run, tmp_path / "out")
        self.export(run, tmp_path / "out", overwrite=True)
        assert list(tmp_path.iterdir()) == [tmp_path / "out"]
        assert torch.equal(self.read(tmp_path / "out", "h.1").float(), run["h.1"][:].float())

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_a_run_that_lacks_units(self, with_a_gap: Run, tmp_path: Path) -> None:
        """The rows before the first that is missing, or with `"skip"` all that are there."""
        rows = rows_of(a_plan(), 0, 20).layers["h.0"]
        expected = {None: rows[:8], "stop": rows[:8], "skip": torch.cat([rows[:8], rows[16:]])}
        for missing, wanted in expected.items():
            folder = tmp_path / str(missing)
            self.export(with_a_gap, folder, missing=missing)
            assert torch.equal(self.read(folder, "h.0").float(), wanted)

    def test_rows_that_are_left_out_are_a_warning(self, with_a_gap: Run, tmp_path: Path) -> None:
        """Where nobody said what is to become of them."""
        with pytest.warns(UserWarning, match="missing"):
            self.export(with_a_gap, tmp_path / "out")
