"""Rows that are computed again, held against those that a run has."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from tenterhook_capture.mask_check import STEPS_OF, computed_in
from tenterhook_capture.prepare import Capture
from tenterhook_store import LayerComparison, Run
from tenterhook_store.comparing.measuring import LayerMeter
from tenterhook_store.rounding import bound, narrower, relative_errors


@attrs.frozen
class FarRow:
    """The row of a layer that is furthest from what is stored."""

    layer: str
    row: int
    document: int
    position: int
    error: float
    """The difference, of what the row measures."""
    dtype: str
    """That of the computation or of the store, whichever is narrower."""

    def __str__(self) -> str:
        return (
            f"{self.layer} of token {self.position} of document {self.document} is "
            f"{self.error:.2g} of its size from the stored row when it is computed again, and "
            f"rounding in {self.dtype} explains {bound(self.dtype):.2g}"
        )


class RowCheck:
    """Compares rows of a run with the same rows computed again, some at a time."""

    def __init__(self, run: Run, computed: str, dtypes: Mapping[str, str]) -> None:
        """`computed` is the dtype of the computation, as `computing_dtype` returns it.

        `dtypes` has the dtype that each layer's rows are stored in.
        """
        self._run = run
        self._computed = computed
        self._dtypes = dict(dtypes)
        self._meters = {
            layer: LayerMeter(layer, dtype, computed) for layer, dtype in dtypes.items()
        }
        self._different = dict.fromkeys(dtypes, 0)
        self._furthest: dict[str, FarRow] = {}

    def add(self, rows: Tensor, stored: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
        """Compare rows by their numbers, int64 `[rows]`, rising.

        `stored` and `again` have for each layer `[rows, features]` as a run would read them.
        """
        for layer, fresh in again.items():
            different = self._meters[layer].add(stored[layer], fresh)
            errors = relative_errors(stored[layer], fresh)
            if self._dtypes[layer] == "int8":
                # Beside the steps of the store, the computation may be off by its own rounding.
                different &= errors > bound(self._computed)
            self._different[layer] += int(different.sum())
            if bool(different.any()):
                self._remember(layer, rows, torch.where(different, errors, -1.0))

    def _remember(self, layer: str, rows: Tensor, errors: Tensor) -> None:
        at = int(errors.argmax())
        before = self._furthest.get(layer)
        if before is None or before.error < float(errors[at]):
            row = int(rows[at])
            document = int(self._run.documents.index[row])
            position = int(self._run.documents.position[row])
            dtype = self._meters[layer].dtype
            self._furthest[layer] = FarRow(layer, row, document, position, float(errors[at]), dtype)

    @property
    def furthest(self) -> list[FarRow]:
        """The worst row of each layer that is further away than rounding explains, in order."""
        return [self._furthest[layer] for layer in self._dtypes if layer in self._furthest]

    def found(self) -> list[LayerComparison]:
        """Return what was found of each layer."""
        return [self._found(layer, meter.found()) for layer, meter in self._meters.items()]

    def _found(self, layer: str, found: LayerComparison) -> LayerComparison:
        different = self._different[layer]
        verdict = found.verdict if different or found.verdict != "different" else "close"
        return attrs.evolve(found, rows_different=different, verdict=verdict)


def computing_dtype(capture: Capture, run: Run) -> str:
    """Return the narrowest dtype that the rows were, or are, computed in, by name.

    Where a process that wrote the run multiplied float32 in less, that counts too.
    """
    dtype = computed_in(capture.session["model"].get("dtype"), capture.spec.changes)
    for session in run.recent(1)["sessions"]:
        numerics = session.get("numerics")
        precision = numerics.get("float32_matmul_precision") if isinstance(numerics, dict) else None
        if dtype in ("float32", "float16") and precision in STEPS_OF:
            dtype = narrower(dtype, STEPS_OF[precision])
    return dtype
