"""The detector: what it has seen, summed up feature by feature."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenterhook.hooks import Detector, HookType
from tenterhook.hooks.utils import extract_tensor_from_output
from tenterhook_selections import tokens_here


class StatisticsDetector(Detector):
    """Keeps mean, variance and quantiles of each feature, over all real tokens of all calls.

    Padding of a model that takes token ids is left out, so batches of any size give the same. Calls
    may come from several threads at once. Not for gradients.
    """

    _lock = threading.Lock()  # of the class, since a detector can be copied and pickled

    def __init__(
        self,
        layer_signature: str | int | None = None,
        hook_id: str | None = None,
        *,
        keep_values: bool = True,
    ) -> None:
        """`keep_values` keeps every value, on the CPU, which exact quantiles need."""
        super().__init__(HookType.FORWARD, hook_id, layer_signature=layer_signature)
        self.keep_values = keep_values
        self.count = 0
        """Tokens seen."""
        self._values: list[Tensor] = []

    @property
    def mean(self) -> Tensor | None:
        """`(features,)`, float64, on the CPU; `None` before the first token."""
        return self.tensor_metadata.get("mean")

    def variance(self, correction: int = 1) -> Tensor:
        """Return `(features,)`, float64; the sample's (`correction=1`) or the population's (0).

        NaN where there are too few tokens, as numpy has it. Raises `ValueError` before the first.
        """
        self._check_seen()
        freedom = self.count - correction
        return self.tensor_metadata["squares"] / (freedom if freedom > 0 else float("nan"))

    def quantiles(self, q: Sequence[float]) -> Tensor:
        """Return `(len(q), features)`, float64: `numpy.quantile` of every value seen.

        Raises `ValueError` before the first token, without values, and for `q` outside 0 to 1.
        """
        self._check_seen()
        if not self.keep_values:
            raise ValueError("The values were not kept. Make it with keep_values=True.")
        return torch.from_numpy(np.quantile(self.values().double().numpy(), list(q), axis=0))

    def values(self) -> Tensor:
        """Return every value seen, `(tokens, features)`, in the dtype that the layer gave."""
        self._check_seen()
        with self._lock:
            if len(self._values) > 1:
                self._values = [torch.cat(self._values)]
            return self._values[0]

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Take in the activation of one call, `(..., features)`.

        Raises `ValueError` where the layer does not carry the text that the model was given.
        """
        activation = extract_tensor_from_output(output)
        if activation is None or not activation.numel():
            return
        rows = activation.detach().reshape(-1, activation.shape[-1])
        tokens = tokens_here(module)
        if tokens is not None and len(rows) == tokens.real.numel():
            rows = rows[tokens.real.reshape(-1).to(rows.device)]
        if not len(rows):
            return
        exact = rows.to("cpu", torch.float64)
        mean = exact.mean(0)
        squares = (exact - mean).square().sum(0)
        with self._lock, torch.inference_mode(False):
            self._take(len(rows), mean, squares)
            if self.keep_values:
                self._values.append(rows.to("cpu", copy=True))

    def merge(self, other: "StatisticsDetector") -> None:
        """Add what another detector saw; it stays what it was.

        Raises `ValueError` where the widths differ, or one has kept its values and one has not.
        """
        if other.mean is None:
            return
        if self.keep_values != other.keep_values:
            raise ValueError(
                "One detector kept its values and the other did not; merge alike ones."
            )
        with self._lock:
            self._take(other.count, other.mean, other.tensor_metadata["squares"])
            self._values += other._values

    def _take(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Add `count` tokens, by their mean and their sum of squares about it."""
        if self.mean is None:
            self.tensor_metadata.update(mean=mean.clone(), squares=squares.clone())
        elif mean.shape != self.mean.shape:
            raise ValueError(
                f"These activations have {len(mean)} features, and those before had "
                f"{len(self.mean)}. Use a detector for each layer."
            )
        else:
            total = self.count + count
            apart = mean - self.mean
            self.tensor_metadata.update(
                mean=self.mean + apart * (count / total),
                squares=self.tensor_metadata["squares"]
                + squares
                + apart.square() * (self.count * count / total),
            )
        self.count += count
        self.metadata["count"] = self.count

    def _check_seen(self) -> None:
        if not self.count:
            raise ValueError("The detector has seen no token yet. Run the model first.")
