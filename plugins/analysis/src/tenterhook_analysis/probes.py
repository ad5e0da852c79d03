"""Linear probes on a layer of a run: logistic for classes, ridge for numbers, cross-validated.

Rows are read a block at a time, again for each step. The probes of all folds are fitted in the same
passes: each leaves out the documents of its fold, and is scored on them alone.

Logistic regression minimises the sum of the log losses and half the penalty times the square of the
weights, as scikit-learn does with `C = 1 / penalty`; ridge the sum of squared errors and the
penalty times that square. No penalty is on the bias. So that few passes do, the weights are
expressed in units in which the loss bends alike in every direction: Böhning 1992 bounds how much it
bends by a quarter of the rows' products, which one pass sums up.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, final

import attrs
import torch
from torch import Tensor

from tenterhook_analysis.errors import BadLabels
from tenterhook_analysis.grids import Grid
from tenterhook_analysis.results import Array, Result
from tenterhook_analysis.row_blocks import folds_of, row_blocks
from tenterhook_store import Run
from tenterhook_store.progress import showing

Kind = Literal["logistic", "ridge"]


@final
@attrs.frozen(eq=False, kw_only=True)
class Probe(Result):
    """A linear probe of one layer; see `probe`."""

    layer: str
    kind: Kind
    classes: tuple[Any, ...]
    """What the columns stand for; of two classes the second has the one column, of numbers none."""
    weight: Tensor
    """float32 `[features, column]`, fitted to all rows."""
    bias: Tensor
    """float32 `[column]`."""
    fold_scores: Tensor
    """float64 `[fold]`: of held-out documents the share of rows told right, or of numbers R²."""
    baseline: float
    """The score of what knows no rows: the share of the commonest class, or 0."""
    rows: int

    @property
    def score(self) -> float:
        """The mean of the held-out scores of the folds."""
        return float(self.fold_scores.mean())

    @property
    def direction(self) -> Tensor:
        """The weights of the one column, `[features]`; `ValueError` where there are several."""
        if self.weight.shape[1] != 1:
            raise ValueError(
                f"This probe has {self.weight.shape[1]} directions, one for each of its classes: "
                "take a column of weight."
            )
        return self.weight[:, 0]

    def predict(self, rows: Tensor) -> Any:
        """Return the class of each of `[n, features]`, a list, or the number, float32 `[n]`."""
        values = rows.float().cpu() @ self.weight + self.bias
        if self.kind == "ridge":
            return values[:, 0]
        return [self.classes[at] for at in _chosen(values).tolist()]

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """Feature and column."""
        shown = self.classes[1:] if len(self.classes) == 2 else self.classes
        return {"feature": range(len(self.weight)), "column": shown or ("value",)}

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The weights."""
        return {"weight": Array(self.weight, ("feature", "column"))}

    def grid(self) -> Grid:
        """Return the held-out score of each fold."""
        name = "accuracy" if self.kind == "logistic" else "R²"
        return Grid(
            title=f"Held-out {name} of a {self.kind} probe: {self.score:.3f}, without rows "
            f"{self.baseline:.3f}",
            rows=[self.layer],
            columns=[f"fold {at}" for at in range(len(self.fold_scores))],
            values=self.fold_scores[None],
            value_name=name,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with `weight` and `bias`; of one column a vector."""
        from safetensors.torch import save_file

        weight = self.weight[:, 0] if self.weight.shape[1] == 1 else self.weight
        save_file({"weight": weight.contiguous(), "bias": self.bias}, os.fspath(path))

    def __repr__(self) -> str:
        return (
            f"Probe({self.layer!r}, {self.kind}, held-out score {self.score:.3f}, baseline "
            f"{self.baseline:.3f})"
        )


def probe(
    run: Run,
    layer: str | int,
    label: str | Sequence[Any] | Tensor,
    *,
    kind: Kind | None = None,
    penalty: float = 1.0,
    folds: int = 5,
    most_passes: int = 100,
) -> Probe:
    """Fit a linear probe that reads a label off the rows of a layer, and score it held out.

    `label` is a field that the run keeps of its documents, or a value for each document, or for
    each row. Floats are fitted by ridge regression, all else are classes of a logistic one, unless
    `kind` says; rows labelled `None` are left out. Folds are of documents.

    Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
    probes". Cost: the layer is read three times for ridge, and some twenty to fifty times for a
    logistic probe, `most_passes` at most. Memory is a block of rows, and `(folds + 1) * features²`
    numbers for ridge, `features²` for a logistic probe.

    Raises `BadLabels` (a `ValueError`), `NotCaptured`, `NoDocumentField`, `MissingRows`.
    """
    if penalty < 0:
        raise ValueError(f"penalty={penalty!r} must be 0 or more.")
    name, there = run[layer].name, run.ranges.rows
    with showing(f"Probing {name}", None, "rows read") as work:
        data = _Labelled.of(run, name, label, kind, folds, work)
        # Labels, products, scores; a logistic probe needs no more steps than this, as a rule fewer.
        work.total = total = there * (3 if data.kind == "ridge" else 3 + most_passes)
        fitted = (
            _ridge(data, penalty) if data.kind == "ridge" else _logistic(data, penalty, most_passes)
        )
        work.reach(total - there)
        scores = _scores(data, fitted)
    whole = fitted[-1].float()
    if data.kind == "ridge":
        baseline = 0.0
    else:
        counts = torch.bincount(data.values[data.values >= 0].long())
        baseline = float(counts.max() / counts.sum())
    return Probe(
        layer=data.layer,
        kind=data.kind,
        classes=data.classes,
        weight=whole[:-1].contiguous(),
        bias=whole[-1].contiguous(),
        fold_scores=scores,
        baseline=baseline,
        rows=data.rows,
    )


@attrs.frozen(eq=False, kw_only=True)
class _Labelled:
    """The rows of a layer that have a label, block by block."""

    run: Run
    layer: str
    kind: Kind
    classes: tuple[Any, ...]
    values: Tensor
    """float64, of each document or row: the number, or that of the class; NaN without a label."""
    by_row: bool
    folds: int
    count: Callable[[int], object]
    rows: int = 0

    @classmethod
    def of(
        cls,
        run: Run,
        layer: str,
        label: str | Sequence[Any] | Tensor,
        kind: Kind | None,
        folds: int,
        read: Callable[[int], object],
    ) -> "_Labelled":
        labels = run.documents[label] if isinstance(label, str) else _listed(label)
        by_row = len(labels) != len(run.documents)
        if by_row and len(labels) != len(run):
            raise BadLabels(
                f"{len(labels)} labels are given, and there are {len(run.documents)} documents and "
                f"{len(run)} rows: give one for each of either"
            )
        known = [each for each in labels if each is not None]
        if not known:
            raise BadLabels("none of the labels is known, all are None")
        found = kind or ("ridge" if any(isinstance(each, float) for each in known) else "logistic")
        if found not in ("logistic", "ridge"):
            raise ValueError(f"kind={kind!r} must be 'logistic' or 'ridge'.")
        classes: tuple[Any, ...] = ()
        if found == "ridge":
            try:
                numbers = [float("nan") if each is None else float(each) for each in labels]
            except (TypeError, ValueError):
                raise BadLabels("ridge regression is of numbers; leave kind out") from None
        else:
            classes = tuple(sorted(set(known), key=lambda each: (str(type(each)), each)))
            if len(classes) < 2:
                raise BadLabels(f"all labels are {classes[0]!r}, and a class needs another")
            of = {each: float(at) for at, each in enumerate(classes)}
            numbers = [float("nan") if each is None else of[each] for each in labels]
        values = torch.tensor(numbers, dtype=torch.float64)
        count = folds_of(folds, len(run.documents))
        made = cls(
            run=run,
            layer=layer,
            kind=found,
            classes=classes,
            values=torch.nan_to_num(values, nan=-1.0) if classes else values,
            by_row=by_row,
            folds=count,
            count=read,
        )
        seen = sum(len(y) for _, y, _ in made.blocks())
        if not seen:
            raise BadLabels("no row that is there has a label")
        return attrs.evolve(made, rows=seen)

    @property
    def columns(self) -> int:
        """How many outputs the probe has."""
        return len(self.classes) if len(self.classes) > 2 else 1

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give rows with a 1 at the end, their labels, and their folds."""
        for rows, numbers, documents in row_blocks(self.run, self.layer, self.count):
            values = self.values[numbers if self.by_row else documents]
            known = ~values.isnan() & (values >= 0 if self.classes else True)
            known &= rows.isfinite().all(1)
            if bool(known.any()):
                some = torch.nn.functional.pad(rows[known], (0, 1), value=1.0)
                yield some, values[known], documents[known] % self.folds


def _ridge(data: _Labelled, penalty: float) -> Tensor:
    """Return weights, bias last, of each fold's probe and of all rows', `[folds + 1, width, 1]`."""
    width = data.run[data.layer].shape[1] + 1
    products = torch.zeros(data.folds, width, width, dtype=torch.float64)
    with_label = torch.zeros(data.folds, width, 1, dtype=torch.float64)
    for rows, values, of in data.blocks():
        for fold in sorted(set(of.tolist())):
            some = rows[of == fold]
            products[fold] += some.T @ some
            with_label[fold] += some.T @ values[of == fold, None]
    left = [(products.sum(0) - each) for each in products] + [products.sum(0)]
    right = [(with_label.sum(0) - each) for each in with_label] + [with_label.sum(0)]
    bent = _penalties(width, penalty)
    return torch.stack(
        [_solved(one + torch.diag(bent), other) for one, other in zip(left, right, strict=True)]
    )


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solution; the smallest one where there are many."""
    found: Tensor
    found, failed = torch.linalg.solve_ex(matrix, right)
    if int(failed) or not bool(found.isfinite().all()):
        found = torch.linalg.pinv(matrix, hermitian=True) @ right
    return found


def _logistic(data: _Labelled, penalty: float, most_passes: int) -> Tensor:
    """Return weights as `_ridge` does, `[folds + 1, width, columns]`."""
    width = data.run[data.layer].shape[1] + 1
    products = torch.zeros(width, width, dtype=torch.float64)
    for rows, _, _ in data.blocks():
        products += rows.T @ rows
    bent = _penalties(width, penalty)
    curve = products / 4 + torch.diag(bent)
    curve += torch.diag(curve.diag().clamp_min(1e-12) * 1e-9)
    lower = torch.linalg.cholesky(curve)
    shape = (data.folds + 1, width, data.columns)
    turned = torch.zeros(shape, dtype=torch.float64, requires_grad=True)

    def weights() -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(lower.T, turned.detach(), upper=True)
        return found

    def closure() -> Tensor:
        now = weights()
        loss, gradient = (bent[:, None] * now * now).sum() / 2, bent[:, None] * now
        for rows, values, of in data.blocks():
            for_fold, slope = _losses(rows @ now, values, data.columns)
            # The last probe sees all rows; each other leaves out those of its fold.
            seen = torch.ones(len(now), len(rows), dtype=torch.float64)
            seen[of, torch.arange(len(rows))] = 0.0
            loss = loss + (for_fold * seen).sum()
            gradient = gradient + rows.T @ (slope * seen[..., None])
        turned.grad = torch.linalg.solve_triangular(lower, gradient, upper=False).contiguous()
        return loss

    steps = torch.optim.LBFGS(
        [turned],
        max_iter=most_passes,
        max_eval=most_passes,
        tolerance_grad=1e-7 * max(1.0, data.rows**0.5),
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    steps.step(closure)  # type: ignore[no-untyped-call]
    return weights()


def _losses(outputs: Tensor, values: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return the loss of each row, `[probes, rows]`, and its slope, `[probes, rows, columns]`."""
    if columns == 1:
        given = outputs[..., 0]
        loss = torch.nn.functional.softplus(given) - given * values
        return loss, (given.sigmoid() - values)[..., None]
    log = outputs.log_softmax(-1)
    which = values.long()
    slope = log.exp()
    slope[:, torch.arange(len(which)), which] -= 1.0
    return -log[:, torch.arange(len(which)), which], slope


def _penalties(width: int, penalty: float) -> Tensor:
    """Return the penalty of each weight, float64 `[width]`: none of the bias, which is last."""
    found = torch.full((width,), float(penalty), dtype=torch.float64)
    found[-1] = 0.0
    return found


def _scores(data: _Labelled, fitted: Tensor) -> Tensor:
    """Return the score of each fold's probe on its own fold, `[fold]`."""
    right, seen = (torch.zeros(data.folds, dtype=torch.float64) for _ in range(2))
    total, squares = (torch.zeros(data.folds, dtype=torch.float64) for _ in range(2))
    for rows, values, of in data.blocks():
        outputs = torch.empty(len(rows), data.columns, dtype=torch.float64)
        for fold in sorted(set(of.tolist())):
            outputs[of == fold] = rows[of == fold] @ fitted[fold]
        if data.kind == "ridge":
            good = (outputs[:, 0] - values) ** 2
        else:
            good = (_chosen(outputs) == values).double()
        right.index_add_(0, of, good)
        seen.index_add_(0, of, torch.ones_like(values))
        total.index_add_(0, of, values)
        squares.index_add_(0, of, values**2)
    if data.kind == "logistic":
        return (right / seen)[seen > 0]
    return (1 - right / (squares - total**2 / seen))[seen > 0]


def _chosen(outputs: Tensor) -> Tensor:
    """Return the number of the class, `[n]`, of outputs `[n, columns]`."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def _listed(label: Any) -> list[Any]:
    return list(label.tolist() if hasattr(label, "tolist") else label)
