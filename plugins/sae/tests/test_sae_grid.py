"""Several SAEs from one pass: each as if alone, resumable, and none brings down the others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_sae import (
    BadSetting,
    BatchTopKSae,
    Diverged,
    JumpReLUSae,
    NoRows,
    NotFinite,
    OtherCheckpoint,
    Sae,
    SaeExists,
    TopKSae,
    TrainingProgress,
    TrainingSettings,
    TrainingsFailed,
    WrongWidth,
    combinations,
    evaluate_rows,
    load_sae,
    train_sae,
    train_saes,
)
from tenterhook_store import BadName, NotWritable

WIDTH = 24


class Rows:
    """Random rows, batch after batch; `read` counts those that were asked for."""

    width = WIDTH

    def __init__(self, end: int = 10**6) -> None:
        self.count, self.read, self.end, self.spoiled = 0, 0, end, -1

    @property
    def about(self) -> dict[str, Any]:
        """What they are."""
        return {"layer": "rows"}

    def __iter__(self) -> Iterator[Tensor]:
        while self.count < self.end:
            generator = torch.Generator().manual_seed(self.count)
            rows = torch.randn(64, WIDTH, generator=generator) ** 3 + 1
            if self.count == self.spoiled:
                rows[3, 2] = torch.nan
            self.count, self.read = self.count + 1, self.read + 1
            yield rows

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self.count = state["count"]


def made(kind: type[Sae], *args: Any) -> Sae:
    """The same one every time."""
    torch.manual_seed(0)
    return kind(48, WIDTH, *args)


def several() -> dict[str, Sae]:
    """One of each setting."""
    return {
        "k4": made(TopKSae, 4),
        "k8": made(TopKSae, 8),
        "batch": made(BatchTopKSae, 3.5),
        "jump": made(JumpReLUSae),
    }


def few(**more: Any) -> TrainingSettings:
    """A short training that uses everything."""
    chosen = {"steps": 12, "dead_after": 128, "resample_every": 4, "checkpoint_every": 5}
    return TrainingSettings(**{**chosen, "log_every": 1, **more})


SETTINGS = {
    "k4": few(),
    "k8": few(steps=9, learning_rate=3e-3),
    "batch": few(checkpoint_every=2),
    "jump": few(seed=3, sparsity=0.1),
}


class Stopped(Exception):
    """Ends trainings in the middle."""


def stopping(name: str, at: int) -> Callable[[str, TrainingProgress], None]:
    """A progress callback that raises at a step of one."""

    def progress(found: str, report: TrainingProgress) -> None:
        if (found, report.step) == (name, at):
            raise Stopped

    return progress


def same(one: Sae, other: Sae) -> None:
    """See that weights are equal to the bit."""
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each, trained by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for name, sae in several().items():
        train_sae(sae, Rows(), SETTINGS[name], out=folder / name)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(each): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


def test_each_is_what_it_is_alone(alone: Path, tmp_path: Path) -> None:
    """To the bit, in memory and in files, whatever the settings; each batch is read once."""
    rows = Rows()
    found = train_saes(several(), rows, SETTINGS, out=tmp_path)

    assert rows.read == 12
    assert list(found) == list(SETTINGS)
    for name, sae in found.items():
        same(load_sae(alone / name), sae)
        expected, written = files(alone / name), files(tmp_path / name)
        assert [*map(len, expected.values())] == [*map(len, written.values())]
        history = (tmp_path / name / "training.json").read_text()
        assert history == (alone / name / "training.json").read_text()
    for name, sae in train_saes(several(), Rows(), SETTINGS).items():  # nothing written
        same(found[name], sae)


@pytest.mark.parametrize(("name", "at"), [("k4", 3), ("jump", 7), ("batch", 10), ("k4", 12)])
def test_stopped_it_goes_on(alone: Path, tmp_path: Path, name: str, at: int) -> None:
    """From the checkpoint of each, which are of different steps; all come to the same bits."""
    with pytest.raises(Stopped):
        train_saes(several(), Rows(), SETTINGS, out=tmp_path, progress=stopping(name, at))
    rows = Rows()
    found = train_saes(several(), rows, SETTINGS, out=tmp_path)

    assert rows.read < 12 or at < 5
    for each, sae in found.items():
        same(load_sae(alone / each), sae)
        same(load_sae(tmp_path / each), sae)
    before = files(tmp_path)
    idle = Rows()
    train_saes(several(), idle, SETTINGS, out=tmp_path)
    assert idle.read == 0
    assert files(tmp_path) == before


def test_more_can_join(alone: Path, tmp_path: Path) -> None:
    """Those that are there are left, and a new one begins at the first batch."""
    first = {name: sae for name, sae in several().items() if name != "jump"}
    chosen = {name: SETTINGS[name] for name in first}
    train_saes(first, Rows(), chosen, out=tmp_path)
    found = train_saes(several(), Rows(), SETTINGS, out=tmp_path)

    same(load_sae(alone / "jump"), found["jump"])


def test_one_that_diverges_leaves_the_others(alone: Path, tmp_path: Path) -> None:
    """It is named, with the step; its latest checkpoint stays, and it holds no SAE."""
    saes = {**several(), "hot": made(TopKSae, 4)}
    hot = few(learning_rate=1e9, warm_up=0.0, normalize_decoder=False, clip=None)
    settings = {**SETTINGS, "hot": hot}
    message = r"Of 5 trainings 1 failed; done are k4, k8, batch, jump\. hot: Diverged: .* at step"
    with pytest.raises(TrainingsFailed, match=message) as caught:
        train_saes(saes, Rows(), settings, out=tmp_path)

    assert isinstance(caught.value.errors["hot"], Diverged)
    assert not tmp_path.joinpath("hot", "cfg.json").exists()
    for name in SETTINGS:
        same(load_sae(alone / name), load_sae(tmp_path / name))


def test_one_training_that_diverges(tmp_path: Path) -> None:
    """Alone too: no SAE of NaN is written."""
    settings = few(learning_rate=1e9, warm_up=0.0, normalize_decoder=False, clip=None)
    message = r"a TopKSae diverged at step \d+: the loss is (nan|inf) .*Give a lower learning_rate"
    with pytest.raises(Diverged, match=message):
        train_sae(made(TopKSae, 4), Rows(), settings, out=tmp_path)
    assert not tmp_path.joinpath("cfg.json").exists()


class Fragile(TopKSae):
    """A kind of somebody's, wrong in some batches."""

    def training_latents(self, pre: Tensor) -> Tensor:
        """Fail after a few."""
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 3:
            raise LookupError("not this one")
        return super().training_latents(pre)


def test_whatever_one_raises_leaves_the_others(alone: Path) -> None:
    """An error of a kind that is a stranger's is the cause that is named."""
    saes = {"k4": several()["k4"], "own": made(Fragile, 4)}
    with pytest.raises(TrainingsFailed, match=r"done are k4\. own: LookupError: not this one"):
        train_saes(saes, Rows(), few())
    same(load_sae(alone / "k4"), saes["k4"])


def test_rows_of_nan_end_all(tmp_path: Path) -> None:
    """They are nobody's own; the SAEs in memory work on activations as they are."""
    rows, saes = Rows(), several()
    rows.spoiled = 7
    with pytest.raises(NotFinite, match="Batch 8 of layer 'rows': 1 of 64 rows hold NaN"):
        train_saes(saes, rows, few(), out=tmp_path)
    assert evaluate_rows(saes["k8"], next(iter(Rows()))).explained_variance > 0
    with pytest.raises(NoRows, match="Batches have no end"):
        train_saes(several(), Rows(end=6), few())


def test_what_cannot_be_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """Names, widths, settings of others, folders that hold something else."""
    one = made(TopKSae, 4)
    wrong: list[tuple[dict[str, Any], Any, type[Exception], str]] = [
        ({}, None, BadSetting, "saes={} must be one or more"),
        ({"a": one, "b": one}, None, BadSetting, "each is trained in place"),
        ({"../a": one}, None, BadName, "slash"),
        ({"a": one, "A": made(TopKSae, 4)}, None, ValueError, "'A'"),
        ({"a": one, "b": TopKSae(8, 5, 1)}, None, WrongWidth, "takes 5 inputs"),
        ({"a": one}, {"b": few()}, BadSetting, r"settings=\['b'\] must be those of a"),
    ]
    for saes, settings, error, message in wrong:
        with pytest.raises(error, match=message):
            train_saes(saes, Rows(), settings, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())

    train_saes({"a": one}, Rows(), few(), out=tmp_path)
    before = files(tmp_path)
    rows = Rows()
    with pytest.raises(OtherCheckpoint, match="steps=12, and this training has steps=13"):
        train_saes({"b": made(TopKSae, 4), "a": one}, rows, few(steps=13), out=tmp_path)
    with pytest.raises(SaeExists, match="is itself the folder of an SAE"):
        train_saes({"b": made(TopKSae, 4)}, rows, few(), out=tmp_path / "a")
    assert files(tmp_path) == before
    assert rows.read == 0


@pytest.mark.parametrize("there", ["file", "file/below", "grid/k4"])
def test_what_is_no_folder_is_said_before_a_step(tmp_path: Path, there: str) -> None:
    """However long the training would be; nothing is written."""
    for name in ("file", "grid/k4"):
        tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(name).write_text("mine")
    rows = Rows()
    out = tmp_path / ("grid" if there == "grid/k4" else there)
    with pytest.raises(NotWritable, match=r"(file|k4): it cannot be written in, for it is no fol"):
        train_saes({"k4": made(TopKSae, 4), "k8": made(TopKSae, 8)}, rows, few(), out=out)
    with pytest.raises(NotWritable, match="it is no folder; give another one"):
        train_sae(made(TopKSae, 4), rows, few(), out=tmp_path / there)
    assert rows.read == 0
    assert {each.read_text() for each in tmp_path.rglob("*") if each.is_file()} == {"mine"}


def test_names_of_combinations() -> None:
    """They say what differs, and nothing else."""
    found = combinations(kind=["topk", "l1"], k=[16, 32], learning_rate=1e-3)

    assert list(found) == ["topk_k16", "topk_k32", "l1_k16", "l1_k32"]
    assert found["l1_k32"] == {"kind": "l1", "k": 32, "learning_rate": 1e-3}
    assert combinations(k=16) == {"one": {"k": 16}}
    with pytest.raises(BadSetting, match=r"k=\[1, 1\] must be a list of values that differ"):
        combinations(k=[1, 1])
    with pytest.raises(BadSetting, match=r"k=\[\] must be a value"):
        combinations(k=[])
