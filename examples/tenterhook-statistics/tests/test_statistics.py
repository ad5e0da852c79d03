import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import tenterhook
from tenterhook.hooks import Detector, StatisticsDetector
from tenterhook.testing.hooks import DetectorContract
from tenterhook.testing.selectors import CountingDetectorContract
from tenterhook_statistics.command import statistics


class TestStatisticsDetector(DetectorContract):
    """It does what every detector does."""

    def make(self) -> StatisticsDetector:
        """Return a detector."""
        return StatisticsDetector("inner")


class TestCounting(CountingDetectorContract):
    """Padding is not counted, and threads lose nothing."""

    def make(self) -> StatisticsDetector:
        """Return a detector."""
        return StatisticsDetector("embed")

    def result(self, detector: Detector) -> torch.Tensor:
        """Return all that it sums up."""
        assert isinstance(detector, StatisticsDetector)
        assert detector.mean is not None
        count = torch.full_like(detector.mean, detector.count)
        return torch.stack([count, detector.mean, detector.variance(), *detector.quantiles([0.5])])


def fed(*batches: torch.Tensor, keep_values: bool = True) -> StatisticsDetector:
    """Return a detector that saw these."""
    model = tenterhook.attach(nn.Identity())
    detector = StatisticsDetector(keep_values=keep_values)
    with model.hooks(("output", detector), missing="ignore"):
        for batch in batches:
            model(batch)
    return detector


def batches(dtype: torch.dtype = torch.float32, count: int = 7) -> list[torch.Tensor]:
    """Return batches of unequal size, far from zero, where naive sums lose their digits."""
    torch.manual_seed(0)
    return [(1000 + torch.randn(at + 1, 5, 6)).to(dtype) for at in range(count)]


def as_numpy(given: list[torch.Tensor]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return all rows, float64."""
    rows = torch.cat([each.reshape(-1, 6) for each in given])
    return rows.double().numpy()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_it_is_exact(dtype: torch.dtype) -> None:
    """Mean and variance to the rounding of float64, quantiles to the bit."""
    given = batches(dtype)
    rows, detector = as_numpy(given), fed(*given)

    assert detector.count == len(rows)
    assert detector.mean is not None
    np.testing.assert_allclose(detector.mean.numpy(), rows.mean(0), rtol=1e-13)
    for correction in (0, 1):
        expected = rows.var(0, ddof=correction)
        np.testing.assert_allclose(detector.variance(correction).numpy(), expected, rtol=1e-9)
    q = [0, 0.01, 0.25, 0.5, 0.999, 1]
    np.testing.assert_array_equal(detector.quantiles(q).numpy(), np.quantile(rows, q, axis=0))


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_merged_is_as_one(cut: int) -> None:
    """Wherever the calls are divided; the other stays what it was."""
    given = batches()
    one, other, whole = fed(*given[:cut]), fed(*given[cut:]), fed(*given)
    before = other.count

    one.merge(other)

    assert (one.count, other.count) == (whole.count, before)
    assert one.mean is not None
    assert whole.mean is not None
    np.testing.assert_allclose(one.mean.numpy(), whole.mean.numpy(), rtol=1e-13)
    np.testing.assert_allclose(one.variance().numpy(), whole.variance().numpy(), rtol=1e-9)
    assert torch.equal(one.quantiles([0.1, 0.9]), whole.quantiles([0.1, 0.9]))


def test_without_values_memory_does_not_grow() -> None:
    """Quantiles cannot be had then, and the error says how they can."""
    detector = fed(*batches(), keep_values=False)

    assert sum(tensor.numel() for tensor in detector.tensor_metadata.values()) == 2 * 6
    with pytest.raises(ValueError, match="keep_values=True"):
        detector.quantiles([0.5])


def test_mistakes_are_named() -> None:
    """Nothing seen, another width, unlike detectors."""
    detector = fed(*batches())
    with pytest.raises(ValueError, match="has seen no token"):
        StatisticsDetector().variance()
    with pytest.raises(ValueError, match="have 2 features, and those before had 6"):
        detector.merge(fed(torch.ones(1, 2)))
    with pytest.raises(ValueError, match="merge alike ones"):
        detector.merge(fed(torch.ones(1, 6), keep_values=False))


def test_the_command() -> None:
    """It shows a row for each feature."""
    arguments = ["tiny:", "--layer", "layer_0", "--data", "tiny:sample", "--sample-limit", "2"]

    said = CliRunner().invoke(statistics, [*arguments, "--json"], catch_exceptions=False)
    table = CliRunner().invoke(statistics, arguments, catch_exceptions=False)

    found = json.loads(said.output)
    assert found["tokens"] > 10
    assert len(found["features"]) == 128
    assert set(found["features"][0]) == {"feature", "mean", "deviation", "q0.01", "q0.5", "q0.99"}
    assert len(table.output.splitlines()) == 130
