"""Batches of two aligned runs: the rows of one model beside those of the other."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tenterhook_sae.batches import BUFFER
from tenterhook_sae.errors import NoRows
from tenterhook_sae.limits import SEEDS, whole
from tenterhook_store import AlignedRuns


class AlignedBatches:
    """Shuffled batches of the pairs of two aligned runs, never loaded whole."""

    def __init__(
        self,
        aligned: AlignedRuns,
        layers: str | int | tuple[str | int, str | int],
        *,
        batch_size: int = 4096,
        seed: int = 0,
        rows: slice = slice(None),
        buffer_rows: int = BUFFER,
    ) -> None:
        """`layers` is a layer of both runs, or one of each; `rows` a part of the pairs.

        Batches are `(batch_size, width_a + width_b)`, on the CPU, in the wider dtype of the two.
        Raises `NotCaptured`, `NoRows` and `BadSetting` as `RunBatches` does.
        """
        batch_size = whole("batch_size", batch_size)
        buffer_rows = whole("buffer_rows", buffer_rows)
        seed = whole("seed", seed, 0, SEEDS)
        one, other = (layers, layers) if isinstance(layers, str | int) else layers
        self._aligned = aligned
        self._rows = aligned.run_a[one], aligned.run_b[other]
        found = range(*rows.indices(len(aligned)))
        if not found:
            raise NoRows(f"The alignment {aligned.id!r}", "Give other rows, or align other runs.")
        self._loader = aligned.loader(
            (one, other),
            batch_size,
            seed=seed,
            rows=rows,
            buffer_rows=buffer_rows,
            drop_last=len(found) >= batch_size,
            rank=0,
            world_size=1,
        )
        names = self.models
        self._about: dict[str, Any] = {
            "run": aligned.id,
            "models": [*names],
            "model": None,
            "data": None,
            "layer": self._rows[1].name,
            "layers": [f"{name}:{each.name}" for name, each in zip(names, self._rows, strict=True)],
            "rows": [found.start, found.stop],
            "batch_size": batch_size,
            "seed": seed,
        }

    @property
    def models(self) -> tuple[str, str]:
        """What the two are called: their runs' ids, and where these are one, that with a letter."""
        one, other = self._aligned.run_a.id, self._aligned.run_b.id
        return (one, other) if one != other else (f"{one}-a", f"{other}-b")

    @property
    def width(self) -> int:
        """The features of a row."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """The features of each model's layer."""
        return tuple(each.shape[1] for each in self._rows)

    @property
    def about(self) -> dict[str, Any]:
        """Runs, layers, rows, batch size and seed."""
        return self._about

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            for batch in self._loader:
                yield torch.cat(batch, 1)

    def blocks(self, start: int, stop: int, size: int = 4096) -> Iterator[Tensor]:
        """Yield the pairs from one place to another in order, `(size, width)` at most."""
        for at in range(start, stop, size):
            pairs = self._aligned.pairs[at : min(at + size, stop)]
            rows = (each.take(some) for each, some in zip(self._rows, pairs.unbind(1), strict=True))
            yield torch.cat([*rows], 1)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch and batch, and what the order follows from."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._loader.load_state_dict(state)
