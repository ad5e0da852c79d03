"""A run is continued, or taken for an answer, only where its rows are those of the model."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenterhook_capture import Progress, run_status, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, OtherRun, Run
from tenterhook_store.memory import _MemoryUnitWriter

TEXTS = [" ".join(f"w{(at * at + i) % 31}" for i in range(2 + at * 7 % 13)) for at in range(24)]
LAYERS = ["blocks.1", "head"]

FAR = torch.arange(20, 60)
"""Places far from the beginning of a document."""

Change = Callable[[WordModel], object]


class Stop(Exception):
    """Stops a capture in the middle."""


def begun(model: WordModel, *, rows: int = 100, **how: Any) -> MemoryStore:
    """Begin the run `r` and stop when some rows are done; those of whole units stay."""

    def stop(progress: Progress) -> None:
        if progress.rows >= rows:
            raise Stop

    store = MemoryStore()
    settings = {"rows_per_unit": 40, "batch_size": 4, **how}
    with pytest.raises(Stop):
        save(model, store, progress=stop, **settings)
    assert 0 < len(store.run("r").committed) < store.run("r").plan.unit_count
    return store


def save(model: WordModel, store: MemoryStore, **how: Any) -> Run:
    """Go on with the run `r`."""
    settings = {"rows_per_unit": 40, "batch_size": 4, **how}
    layers: Sequence[str] = settings.pop("layers", LAYERS)
    return store.run(save_activations(model, layers, TEXTS, store, run_name="r", **settings))


def hook(model: WordModel, layer: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Have a hook of torch, which nobody knows of, change what a layer returns."""
    module = model.layers.index.resolve(layer).module
    module.register_forward_hook(lambda module, args, output: change(output))


def probes(run: Run) -> list[Any]:
    """Return what the sessions of a run say of its rows."""
    return [session.get("probe") for session in run.metadata["sessions"]]


# --- what no list of settings has


def _patched(model: WordModel) -> None:
    block: Any = model.layers.index.resolve("blocks.0").module
    forward = block.forward
    block.forward = lambda x, mask: tuple(each * 1.01 for each in forward(x, mask))


def _swapped(model: WordModel) -> None:
    block: Any = model.layers.index.resolve("blocks.1").module
    block.mlp[1] = nn.ReLU()


def _torch_hook(model: WordModel) -> None:
    hook(model, "embed", lambda output: output + 0.1)


def _of_a_sequence(model: WordModel) -> None:
    def reverse(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (args[0].roll(1, 1), *args[1:]), kwargs

    block: Any = model.layers.index.resolve("blocks.0").module
    block.mix.register_forward_pre_hook(reverse, with_kwargs=True)


CHANGES: dict[str, Change] = {
    "a patched forward": _patched,
    "a swapped activation function": _swapped,
    "somebody's torch hook": _torch_hook,
    "what shows in longer texts alone": _of_a_sequence,
}
SAME: dict[str, Change] = {
    "nothing": lambda model: None,
    "train mode": lambda model: model.module.train(),
    "no gradients": lambda model: model.module.requires_grad_(False),
    "a torch hook that reads": lambda model: hook(model, "head", lambda output: None),
    "a change behind the layers": lambda model: setattr(model.module, "pooled", nn.Linear(12, 3)),
}
KINDS: dict[str, dict[str, Any]] = {
    "all rows": {},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "int8"},
    "last tokens": {"tokens": "last", "rows_per_unit": 6},
    "some tokens": {"tokens": "0,-2"},
    "inputs": {"layers": ["head:input", "blocks.1.mlp:input"]},
    "windows": {"long_documents": "split"},
    "by length": {"bucket": True},
    "by tokens": {"batch_tokens": 30, "batch_size": 9},
    "rows and statistics": {"reduce": "mean,topk", "keep_rows": True},
    "written by a thread": {"writing": "thread"},
    "statistics alone": {"reduce": "mean"},
    "statistics, by length": {"reduce": "topk", "bucket": True, "batch_tokens": 30},
    "statistics of int8": {"reduce": "cov", "dtype": "int8"},
    "statistics of float16": {"reduce": "quantiles", "dtype": "float16"},
    "statistics of some tokens": {"reduce": "var", "tokens": "0,-2"},
    "statistics, by a thread": {"reduce": "mean", "writing": "thread"},
}


ROWS = {"last tokens": 12, "some tokens": 41, "statistics of some tokens": 41}
"""How many are done before the stop, of runs that have few."""


def table(changes: dict[str, Change]) -> list[Any]:
    """Return each change with a run of all rows, and the first with every kind of run."""
    first, *others = changes.items()
    cells = [(first, kind) for kind in KINDS] + [(other, "all rows") for other in others]
    return [pytest.param(each[1], kind, id=f"{each[0]}, {kind}") for each, kind in cells]


@pytest.mark.parametrize(("change", "kind"), table(CHANGES))
def test_rows_of_another_model_never_join(change: Change, kind: str) -> None:
    """Whatever the run keeps, and whether it is complete or not."""
    how = KINDS[kind]
    settings: dict[str, Any] = {"max_tokens": 9} if "long_documents" in how else {}
    rows = ROWS.get(kind, 100)
    store = begun(WordModel(**settings), rows=rows, **how)
    other = WordModel(**settings)
    change(other)
    before = store.run("r").committed
    with pytest.raises(OtherRun, match=r"of token \d+ of document \d+ is .* when it is computed"):
        save(other, store, **how)
    assert store.run("r").committed == before
    save(WordModel(**settings), store, **how)
    with pytest.raises(OtherRun, match=r"rounding in float\d+|rounding in int8") as caught:
        save(other, store, **how)
    assert "a torch hook, a patched forward" in caught.value.__notes__[0]


@pytest.mark.parametrize(("change", "kind"), table(SAME))
def test_rows_of_the_same_model_do(change: Change, kind: str) -> None:
    """The session of the process that goes on says that they are equal."""
    how, rows = KINDS[kind], ROWS.get(kind, 100)
    store = begun(WordModel(), rows=rows, **how)
    model = WordModel()
    change(model)
    # A layer of weights that nobody captures is no part of what is compared here.
    model.describe_model = WordModel().describe_model  # type: ignore[method-assign]
    run = save(model, store, **how)
    assert run.is_complete
    first, second = probes(run)
    assert first is None
    assert second["verdict"] == "equal"
    assert second["rows"] >= 3
    assert second["documents"] == sorted({*second["documents"]})


# --- how it is done


def test_it_takes_one_forward() -> None:
    """Of a batch that the run made, so that the numbers are the same."""
    store = begun(WordModel())
    model = WordModel()
    run = save(model, store)
    again, done = WordModel(), store.run("r")
    save(again, store)
    shapes, batch = again.batches
    assert max(shapes) <= 13
    assert len(batch) <= 4
    assert batch in [*model.batches, [len(t.split()) for t in TEXTS[:4]]]
    assert done.metadata["end"] == run.metadata["end"]


def test_close_rows_go_on_and_it_is_noted() -> None:
    """A difference that rounding explains is in the session, by layer."""
    store = begun(WordModel())
    other = WordModel()
    hook(other, "embed", lambda output: output * (1 + 3e-7))
    run = save(other, store)
    assert run.is_complete
    found = probes(run)[1]
    assert found["verdict"] == "close"
    assert {*found["layers"]} == {*LAYERS}
    for facts in found["layers"].values():
        assert facts["dtype"] == "float32"
        assert 0 < facts["relative_error"] < 1e-5
        assert facts["ulps"] >= 1


def test_close_rows_of_a_complete_run_are_noted() -> None:
    """In a session of its own; when the run ended stays what it was."""
    store = MemoryStore()
    before = save(WordModel(), store)
    other = WordModel()
    hook(other, "embed", lambda output: output * (1 + 3e-7))
    run = save(other, store)
    assert [each and each["verdict"] for each in probes(run)] == [None, "close"]
    assert run.metadata["end"] == before.metadata["end"]
    assert run_status(run).open_sessions == []


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"),
    [(torch.bfloat16, 1.01, 1.2), (torch.float32, 1 + 1e-5, 1.001)],
)
def test_what_rounding_explains_follows_the_dtype(
    dtype: torch.dtype, within: float, beyond: float
) -> None:
    """Of the computation: what is float32 because it was cast to it is no more exact."""

    def scaled(by: float) -> WordModel:
        model = WordModel(dtype=dtype)
        hook(model, "head", lambda output: output * by)
        return model

    store = begun(WordModel(dtype=dtype), layers=["head"], dtype="float32")
    with pytest.raises(OtherRun, match=f"rounding in {str(dtype).removeprefix('torch.')}"):
        save(scaled(beyond), store, layers=["head"], dtype="float32")
    run = save(scaled(within), store, layers=["head"], dtype="float32")
    assert probes(run)[1]["verdict"] == "close"


def test_float32_that_is_multiplied_in_less() -> None:
    """Such a process may be off by more, and so may those after it."""
    before = torch.get_float32_matmul_precision()
    store = begun(WordModel(), layers=["head"])
    other = WordModel()
    hook(other, "head", lambda output: output * 1.002)
    with pytest.raises(OtherRun, match=r"rounding in float32 explains 0\.0001"):
        save(other, store, layers=["head"])
    try:
        torch.set_float32_matmul_precision("high")
        assert probes(save(other, store, layers=["head"]))[1]["verdict"] == "close"
    finally:
        torch.set_float32_matmul_precision(before)


def test_statistics_of_an_earlier_version_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their units have no rows to compare, and the session says so; those done now have some."""
    with monkeypatch.context() as earlier:
        keep = _MemoryUnitWriter.keep

        def keep_as_before(self: Any, name: str, tensor: Tensor) -> None:
            if not name.startswith("probe/"):
                keep(self, name, tensor)

        earlier.setattr(_MemoryUnitWriter, "keep", keep_as_before)
        store = begun(WordModel(), reduce="mean")
    begun_units = store.run("r").committed
    run = save(WordModel(), store, reduce="mean")
    assert probes(run)[1] == {
        "verdict": "not compared",
        "why": "the run has statistics and no rows, nor rows to compare: an earlier version "
        "began it",
    }
    assert all("probe/rows" not in run.unit_tensors(number) for number in begun_units)
    other = WordModel()
    _torch_hook(other)
    with pytest.raises(OtherRun, match=r"of token \d+ of document \d+ is"):
        save(other, store, reduce="mean")


@pytest.mark.parametrize("how", [{}, {"reduce": "mean"}], ids=["rows", "statistics"])
def test_a_change_that_shows_in_long_documents_alone(how: dict[str, Any]) -> None:
    """Of several small batches the one with the longest documents is run."""
    texts = [" ".join(["w1", "w2", "w3"] * (16 if at == 30 else 4)) for at in range(60)]

    def save_texts(model: WordModel) -> None:
        settings = {"run_name": "r", "batch_size": 6, "rows_per_unit": 1000, **how}
        save_activations(model, ["head"], texts, store, **settings)

    store = MemoryStore()
    save_texts(WordModel(max_tokens=None))
    other = WordModel(max_tokens=None)
    hook(other, "embed", lambda output: output.index_fill(1, FAR[output.shape[1] > FAR], 1.0))
    with pytest.raises(OtherRun, match=r"of token \d+ of document 30 is"):
        save_texts(other)


def test_a_unit_of_statistics_keeps_few_rows() -> None:
    """However many rows it has, and those of the run that they say they are."""
    how: dict[str, Any] = {"rows_per_unit": 150, "batch_size": 40}
    run = save(WordModel(), MemoryStore(), reduce="mean", **how)
    rows = save(WordModel(), MemoryStore(), **how)
    for number in run.committed:
        numbers = run.unit_tensor(number, "probe/rows")
        assert 1 < len(numbers) <= 32
        for at, layer in enumerate(LAYERS):
            assert torch.equal(run.unit_tensor(number, f"probe/{at}"), rows[layer][numbers])
    assert not [name for name in rows.unit_tensors(0) if name.startswith("probe/")]


def test_other_tokens_are_told() -> None:
    """A tokenizer that gives other tokens without being described otherwise."""

    class Other(WordModel):
        def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
            return [[96, *ids[1:]] for ids in super().token_ids(texts)]

    store = begun(WordModel())
    with pytest.raises(OtherRun, match=r"token 0 of document \d+ is \d+ there and 96 here"):
        save(Other(), store)


def test_rows_that_are_not_finite() -> None:
    """Infinities and NaN are compared as what they are."""

    def broken(output: Tensor) -> Tensor:
        return torch.where(output > 0.5, torch.inf, output).masked_fill(output < -0.5, torch.nan)

    def model() -> WordModel:
        made = WordModel()
        hook(made, "head", broken)
        return made

    store = begun(model(), layers=["head"])
    assert not store.run("r")["head"][:].isfinite().all()
    assert probes(save(model(), store, layers=["head"]))[1]["verdict"] == "equal"
    with pytest.raises(OtherRun, match="is inf of its size"):
        save(WordModel(), store, layers=["head"])
