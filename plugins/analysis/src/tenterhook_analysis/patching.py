"""Where a model keeps what tells two prompts apart: activation patching and its estimates.

Each cell of a grid is a layer and a position. The corrupt prompt is run with the clean prompt's
activation in that cell, and a metric of the logits says how much of the clean answer comes back.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import attrs
import torch
from torch import Tensor

from tenterhook_analysis.grids import Grid
from tenterhook_analysis.prompts import Metric, Prompts, Shortcut
from tenterhook_analysis.results import Array, Result
from tenterhook_store.progress import showing
from tenterhook_transformers.language_model import LanguageModel


@final
@attrs.frozen(eq=False, kw_only=True)
class PatchGrid(Result):
    """A metric for each layer and position that is patched, found or estimated."""

    method: str
    """`"activation patching"`, or what estimated it."""
    layers: tuple[str, ...]
    positions: tuple[int, ...]
    clean_tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    """What stands at each of `positions`."""
    values: Tensor
    """float64 `[layer, position]`: the metric of the corrupt prompt with that cell clean."""
    clean: float
    corrupt: float
    """The metric of the prompts as they are."""

    @property
    def change(self) -> Tensor:
        """What patching a cell adds to the metric of the corrupt prompt, `[layer, position]`."""
        return self.values - self.corrupt

    @property
    def restored(self) -> Tensor:
        """The change as a share of the whole, from corrupt (0) to clean (1), `[layer, position]`.

        Not finite where both prompts have the same metric.
        """
        return self.change / (self.clean - self.corrupt)

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """Layer and position."""
        return {"layer": self.layers, "position": self.positions}

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The metric, its change, the share that came back, and the tokens."""
        both = ("layer", "position")
        return {
            "clean_token": Array(self.clean_tokens, ("position",)),
            "corrupt_token": Array(self.corrupt_tokens, ("position",)),
            "value": Array(self.values, both),
            "change": Array(self.change, both),
            "restored": Array(self.restored, both),
        }

    def grid(self) -> Grid:
        """Return what changes, the last layer on top; where tokens differ, both head a column."""
        columns = [
            one if one == other else f"{one}→{other}"
            for one, other in zip(self.clean_tokens, self.corrupt_tokens, strict=True)
        ]
        return Grid(
            title=f"{self.method}: change of the metric, from {self.corrupt:.3g} to "
            f"{self.clean:.3g}",
            rows=self.layers[::-1],
            columns=columns,
            values=self.change.flip(0),
            value_name="change",
        )

    def __repr__(self) -> str:
        shape = tuple(self.values.shape)
        metrics = f"clean={self.clean:.4g}, corrupt={self.corrupt:.4g}"
        return f"PatchGrid({self.method!r}, {shape}, {metrics})"


def patch_grid(
    lm: LanguageModel,
    clean: str,
    corrupt: str,
    metric: Metric,
    layers: Sequence[str | int] | None = None,
    positions: Sequence[int] | None = None,
    *,
    batch_size: int = 64,
) -> PatchGrid:
    """Patch each layer and position of the corrupt prompt with the clean one's activation.

    `metric` makes a number of the logits of one prompt, `(1, tokens, vocabulary)`, as the model
    returns them; `logit_difference` makes such a function. `layers` are all blocks and `positions`
    all tokens unless given. `batch_size` cells of a layer are run at once.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT"; Zhang and Nanda
    2024 on how to. Cost: two forwards, and a forward of a row for each cell, from the block that is
    patched on where the blocks before need not run.

    Raises `UnequalPrompts`, `BadMetric`, `NotByToken` (each a `ValueError`), `NoSuchPosition` (an
    `IndexError`), `UnknownLayer`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number, 1 or more.")
    prompts = Prompts.of(lm, clean, corrupt, metric, layers, positions)
    clean_logits, wanted = prompts.watched(prompts.clean)
    shortcut = Shortcut(prompts)
    values = torch.empty(len(prompts.layers), len(prompts.positions), dtype=torch.float64)
    with showing("Patching", values.numel(), "cells") as work:
        for at, layer in enumerate(prompts.layers):
            for start in range(0, len(prompts.positions), batch_size):
                places = torch.tensor(prompts.positions[start : start + batch_size])
                stop = start + len(places)
                with torch.no_grad(), shortcut.before(layer, len(places)):
                    with lm.steer(layer, _Cells(wanted[layer], places)):
                        logits = prompts.run(prompts.corrupt, len(places))
                    values[at, start:stop] = prompts.measure(logits).double().cpu()
                work(len(places))
    return _grid(prompts, "activation patching", values, clean_logits, shortcut.logits)


def attribution_patching(
    lm: LanguageModel,
    clean: str,
    corrupt: str,
    metric: Metric,
    layers: Sequence[str | int] | None = None,
    positions: Sequence[int] | None = None,
) -> PatchGrid:
    """Estimate `patch_grid` to first order: the gradient times what would change.

    `metric` is to be differentiable. Source: Nanda 2023, "Attribution patching"; Syed et al. 2023.
    Cost: three forwards and one backward, whatever the size of the grid. Raises what `patch_grid`
    raises.
    """
    prompts = Prompts.of(lm, clean, corrupt, metric, layers, positions)
    clean_logits, wanted = prompts.watched(prompts.clean)
    corrupt_logits, found = prompts.watched(prompts.corrupt)
    places = list(prompts.positions)
    added = {name: torch.zeros_like(found[name], requires_grad=True) for name in prompts.layers}
    with torch.enable_grad(), ExitStack() as scopes:
        for name, zeros in added.items():
            scopes.enter_context(lm.steer(name, lambda y, zeros=zeros: y + zeros))
        value = prompts.measure(prompts.run(prompts.corrupt)).sum()
        gradients = torch.autograd.grad(value, list(added.values()), allow_unused=True)
    values = torch.zeros(len(prompts.layers), len(places), dtype=torch.float64)
    for at, (name, gradient) in enumerate(zip(prompts.layers, gradients, strict=True)):
        if gradient is not None:
            product = (wanted[name] - found[name]).double() * gradient.double()
            values[at] = product[0].flatten(1).sum(1)[places].cpu()
    values += prompts.measure(corrupt_logits).double().cpu()
    return _grid(prompts, "attribution patching", values, clean_logits, corrupt_logits)


def integrated_gradients(
    lm: LanguageModel,
    clean: str,
    corrupt: str,
    metric: Metric,
    layers: Sequence[str | int] | None = None,
    positions: Sequence[int] | None = None,
    *,
    steps: int = 16,
) -> PatchGrid:
    """Estimate what each cell adds as the layer goes from its corrupt to its clean activation.

    All positions of a layer go together, so that their changes add up to what the whole layer
    brings: of a block, all that lies between the prompts. The mean of the gradient on the way is
    taken at `steps` points, by Gauss and Legendre. `metric` is to be differentiable.

    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks", of activations as
    in Hanna et al. 2024. Cost: for each layer `steps` rows forward and backward. Raises what
    `patch_grid` raises.
    """
    if steps < 1:
        raise ValueError(f"steps={steps!r} must be a whole number, 1 or more.")
    prompts = Prompts.of(lm, clean, corrupt, metric, layers, positions)
    clean_logits, wanted = prompts.watched(prompts.clean)
    shortcut = Shortcut(prompts)
    places = list(prompts.positions)
    points, weights = gauss_legendre(steps)
    values = torch.empty(len(prompts.layers), len(places), dtype=torch.float64)
    with showing("Integrating gradients", len(prompts.layers), "layers") as work:
        for at, layer in enumerate(prompts.layers):
            begin = shortcut.corrupt[layer]
            change = wanted[layer] - begin
            shares = points.to(change).reshape(-1, *[1] * (change.ndim - 1))
            path = (begin + shares * change).requires_grad_()
            with torch.enable_grad(), shortcut.before(layer, steps):
                with lm.steer(layer, lambda y, path=path: path):
                    value = prompts.measure(prompts.run(prompts.corrupt, steps)).sum()
                (gradients,) = torch.autograd.grad(value, path)
            mean = torch.tensordot(weights.to(gradients.device), gradients.double(), 1)
            values[at] = (mean * change[0].double()).flatten(1).sum(1)[places].cpu()
            work()
    values += prompts.measure(shortcut.logits).double().cpu()
    return _grid(prompts, "integrated gradients", values, clean_logits, shortcut.logits)


class _Cells:
    """Puts the clean activation into one position of each row."""

    def __init__(self, clean: Tensor, places: Tensor) -> None:
        self._rows, self._places = torch.arange(len(places)), places
        self._values = clean[0, places]

    def __call__(self, activation: Tensor) -> Tensor:
        patched = activation.clone()
        patched[self._rows, self._places] = self._values.to(patched.dtype)
        return patched


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Return points between 0 and 1 and their weights, which sum to 1, float64 `[count]`.

    Golub and Welsch 1969: the eigenvalues of a matrix, and the first parts of its eigenvectors.
    """
    number = torch.arange(1, count, dtype=torch.float64)
    beside = number / (4 * number**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0] ** 2


def _grid(
    prompts: Prompts, method: str, values: Tensor, clean: Tensor, corrupt: Tensor
) -> PatchGrid:
    words = [prompts.tokens(each) for each in (prompts.clean, prompts.corrupt)]
    clean_tokens, corrupt_tokens = (tuple(each[at] for at in prompts.positions) for each in words)
    return PatchGrid(
        method=method,
        layers=prompts.layers,
        positions=prompts.positions,
        clean_tokens=clean_tokens,
        corrupt_tokens=corrupt_tokens,
        values=values,
        clean=float(prompts.measure(clean)),
        corrupt=float(prompts.measure(corrupt)),
    )
