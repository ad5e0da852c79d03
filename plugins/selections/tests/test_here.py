"""What a hook of one's own asks inside a call, and what was captured put back."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Detector, HookWarning
from tenterhook_selections import PutBack, generating, tokens_here


class _Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line, self.last = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.last(self.line(self.embed(input_ids)))
        return out


class _Counts(Detector):
    """Counts the real tokens, and those that were generated."""

    def __init__(self) -> None:
        super().__init__("forward")
        self.found: list[tuple[int, int]] = []

    def process_activations(self, module: nn.Module, inputs: Any, output: Any) -> None:
        here = tokens_here(module)
        assert here is not None
        self.found.append((int(here.real.sum()), int(here.generated.sum())))


IDS = torch.arange(12).reshape(3, 4)
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """A model of texts."""
    torch.manual_seed(0)
    return tenterhook.attach(_Texts())


@pytest.mark.parametrize("scoped", [False, True])
def test_who_is_real(model: tenterhook.HookedModel, scoped: bool) -> None:
    """Registered or in a scope, with other scopes or none."""
    counts = _Counts()
    if scoped:
        with model.hooks(("line", counts)):
            model(IDS, MASK)
    else:
        model.layers.register_hook("line", counts)
        model(IDS, attention_mask=MASK)
    with generating([2, 2, 1]):
        if not scoped:
            model(IDS, MASK)
    assert counts.found[0] == (9, 0)
    assert scoped or counts.found[1] == (9, 4)


def test_threads(model: tenterhook.HookedModel) -> None:
    """Each thread has its own batch."""
    counts = [_Counts() for _ in range(6)]

    def work(count: _Counts, real: int) -> None:
        mask = (torch.arange(4) < real).long().expand(3, 4)
        for _ in range(10):
            with model.hooks(("line", count)):
                model(IDS, mask)

    threads = [
        threading.Thread(target=work, args=(count, at % 4 + 1)) for at, count in enumerate(counts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, count in enumerate(counts):
        assert count.found == [(3 * (at % 4 + 1), 0)] * 10


def test_outside(model: tenterhook.HookedModel) -> None:
    """Where no text runs nothing is known."""
    assert tokens_here(model.module) is None


@pytest.mark.parametrize(
    "selected", [{"tokens": ":"}, {"tokens": [0, -1]}, {"rows": [0, 2]}], ids=str
)
def test_put_back(model: tenterhook.HookedModel, selected: dict[str, Any]) -> None:
    """A tensor that a capture gave stands where it stood."""
    with model.capture("line", **selected) as captured:
        plain = model(IDS, MASK)
        model(IDS + 12, MASK)
    values = captured.cat("line")
    with (
        model.steer("line", lambda h: 0 * h),
        model.steer("line", values, **selected),
        model.capture("line", **selected) as after,
    ):
        model(IDS, MASK)
        model(IDS + 12, MASK)
    assert torch.equal(after.cat("line"), values)
    first = captured["line"][0]
    with model.capture("line", **selected) as again, model.steer("line", first, **selected):
        assert torch.allclose(model(IDS, MASK), plain)
    assert torch.equal(again.cat("line"), first)


def test_features_put_back(model: tenterhook.HookedModel) -> None:
    """Some features of them."""
    with model.capture("line", tokens=0, features=[3, 5]) as captured:
        model(IDS, MASK)
    values = torch.full_like(captured.last("line"), 7)
    with model.steer("line", values, tokens=0, features=[3, 5]), model.capture("line") as after:
        model(IDS, MASK)
    first = after.last("line")[[0, 1, 2], [2, 0, 0]]
    assert torch.equal(first[:, [3, 5]], values)
    assert not (first[:, [0, 1]] == 7).any()


def test_too_few(model: tenterhook.HookedModel) -> None:
    """Rows of other text, or of another selection, are an error."""
    with (
        pytest.raises(tenterhook.HookError, match="2 rows are put back, and the selection means"),
        model.steer("line", torch.ones(2, 8), tokens=":"),
    ):
        model(IDS, MASK)


def test_too_many(model: tenterhook.HookedModel) -> None:
    """Rows that are left over at the end are warned of, or raised, and so of another text."""
    rows = torch.ones(11, 8)
    with (
        pytest.warns(HookWarning, match="11 rows were to be put back, and .* meant 9"),
        model.steer("line", rows, tokens=":"),
    ):
        model(IDS, MASK)
    with (
        pytest.raises(tenterhook.NeverFired, match="the others were left"),
        model.steer("line", rows, tokens=":", missing="raise"),
    ):
        model(IDS, MASK)
    with model.steer("line", rows, tokens=":", missing="ignore"):
        model(IDS, MASK)


def test_without_a_selection(model: tenterhook.HookedModel) -> None:
    """Where to is said by a selection."""
    with pytest.raises(ValueError, match="Rows are put back where a selection says"):
        PutBack(torch.ones(2, 8))(torch.ones(2, 3, 8))
