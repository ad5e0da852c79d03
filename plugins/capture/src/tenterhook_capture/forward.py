"""One forward over a batch of documents, and what the points gave in it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activity import watching
from tenterhook.hooks import Detector, Hook, HookType
from tenterhook.points import Point as Inside
from tenterhook.scopes import Hooks
from tenterhook_capture.errors import NoPattern, NotPerToken, SeveralCalls, WrongMask
from tenterhook_capture.points import Point
from tenterhook_capture.text_model import TextModel
from tenterhook_store import dtype_name

WHOLE = {"input", "output", ""}
"""What the whole model goes by; a forward does not end before its end."""


@attrs.frozen(eq=False)
class ForwardResult:
    """What one forward gave."""

    real: Tensor
    """Where tokens stand in the flat batch, document after document; long, on the CPU."""
    is_whole: bool
    """Whether all of the batch is real: there is no padding."""
    layers: dict[str, Tensor]
    """Each point's, `(batch * seq, features)`, padding included; on the model's device."""


class ForwardPass:
    """Runs batches, and ends each forward after the last layer that is needed.

    Which that is, the first forward shows, which runs whole: the layer whose call ended last. A
    model that calls one of the layers more than once runs whole always, and so does every forward
    while detectors or other captures watch it. The rows are those of whole forwards, to the bit:
    they are copied before the forward ends.

    Of a layer that a forward calls several times, the point says which call.
    """

    def __init__(
        self, model: TextModel, points: Sequence[Point], *, keys: int = 0, ends_early: bool = True
    ) -> None:
        """`keys` is how many keys an attention pattern has at most: the longest document."""
        self._ends_early = ends_early
        self._model = model
        self._points = tuple(points)
        self._keys = keys
        self._has_run = False
        self.stop_after: str | None = None
        """The layer that forwards end after; `None` where they run whole, or none has run."""

    def __call__(self, documents: Sequence[Sequence[int]]) -> ForwardResult:
        """Run the documents.

        Raises `NotPerToken` where a point has no row for each token, `NoPattern`, `SeveralCalls`,
        `WrongMask`.
        """
        # Whoever watches the model may look at later layers: then it runs whole
        # (test_who_watches_sees_whole_forwards).
        if self.stop_after is not None and not watching(self._model.layers):
            mask, found = self._run(documents, self.stop_after)
            if mask is not None and all(found.values()):
                return self._seen(mask, found, documents)
            self.stop_after = None  # this model cannot be stopped, or calls layers as it likes
        # The first forward runs whole and notes in which order the layers end.
        order: list[str] | None = None
        whole = WHOLE & {point.layer for point in self._points} or not self._ends_early
        if not self._has_run and not whole:
            order = []
        mask, found = self._run(documents, None, order)
        if mask is None:
            raise WrongMask([], [len(document) for document in documents])
        seen = self._seen(mask, found, documents)
        if not self._has_run:
            self._has_run = True
            self.stop_after = None if order is None else _last_needed(self._points, order)
        return seen

    def _run(
        self,
        documents: Sequence[Sequence[int]],
        stop_after: str | None,
        order: list[str] | None = None,
    ) -> tuple[Tensor | None, dict[str, Sequence[Tensor | None]]]:
        """Return the mask, and each point's calls."""
        by_side: dict[str, dict[str, None]] = {"input": {}, "attention": {}, "output": {}}
        for point in self._points:
            by_side[point.side][point.layer] = None  # once, whatever calls of it are meant
        patterns = [(layer, _Pattern()) for layer in by_side["attention"]]
        mask = None
        with ExitStack() as scopes:
            capture: Callable[..., Any] = self._model.capture
            # The one that stops is the outermost, so that the others have closed by then.
            stop = {} if stop_after is None else {"stop_after": stop_after}
            outputs = scopes.enter_context(capture(*by_side["output"], missing="ignore", **stop))
            inputs = {}
            if by_side["input"]:
                taking = capture(*by_side["input"], inputs=True, missing="ignore")
                inputs = scopes.enter_context(taking)
            hooks: list[tuple[str, Hook]] = [*patterns]
            if order is not None:
                hooks += [(layer, _Order(order)) for layer in {p.layer for p in self._points}]
            if hooks:
                scopes.enter_context(Hooks(self._model.layers, hooks, missing="ignore"))
            mask = self._model.run_token_ids(documents)
        kept = {layer: pattern.calls for layer, pattern in patterns}
        sides: dict[str, Mapping[str, Sequence[Tensor | None]]] = {
            "output": outputs,
            "input": inputs,
            "attention": kept,
        }
        return mask, {p.name: sides[p.side][p.layer] for p in self._points}

    def _seen(
        self,
        mask: Tensor,
        found: Mapping[str, Sequence[Tensor | None]],
        documents: Sequence[Sequence[int]],
    ) -> ForwardResult:
        _check_mask(mask, documents)
        real = mask.reshape(-1).nonzero().squeeze(1)
        layers = {}
        for point in self._points:
            tensor = _of_call(point, found[point.name])
            inside = self._is_inside(point)
            if point.side == "attention" or (inside and point.is_pattern):
                if tensor is None or (tensor.shape[0], tensor.shape[2]) != tuple(mask.shape):
                    attention = self._model.describe_model().get("attention")
                    raise NoPattern(point.layer, attention)
                layers[point.name] = _aligned(tensor, mask, self._keys)
            else:
                layers[point.name] = _flat(point, tensor, mask, has_heads=inside)
        return ForwardResult(real, len(real) == mask.numel(), layers)

    def _is_inside(self, point: Point) -> bool:
        """Whether it is at a place that a plugin offers, and not at a module's side."""
        return isinstance(self._model.layers.index.resolve(point.layer).module, Inside)


class _Order(Detector):
    """Notes when a layer's forward has ended."""

    reads_only = True

    def __init__(self, order: list[str]) -> None:
        super().__init__(HookType.FORWARD)
        self._order = order

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self._order.append(str(self.layer_signature))


class _Pattern(Detector):
    """Keeps the attention pattern that each call of a layer returns beside its output."""

    reads_only = True

    def __init__(self) -> None:
        super().__init__(HookType.FORWARD)
        self.calls: list[Tensor | None] = []
        """`None` for a call that returned none."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        parts = output.values() if isinstance(output, Mapping) else output
        for part in () if isinstance(parts, Tensor) else parts:
            if isinstance(part, Tensor) and part.ndim == 4 and part.shape[2] == part.shape[3]:
                self.calls.append(part.detach())
                return
        self.calls.append(None)


def _last_needed(points: Sequence[Point], order: Sequence[str]) -> str | None:
    """Return the layer whose one call ended last; `None` where the forward has to run whole."""
    layers = {point.layer for point in points}
    return order[-1] if sorted(order) == sorted(layers) else None


def _check_mask(mask: Tensor, documents: Sequence[Sequence[int]]) -> None:
    expected = [len(document) for document in documents]
    found = mask.sum(-1).tolist() if mask.ndim == 2 else list(mask.shape)
    if mask.dtype is not torch.bool or found != expected:
        raise WrongMask(found, expected)


def _of_call(point: Point, calls: Sequence[Tensor | None]) -> Tensor | None:
    """Return what the point's call gave; `None` where there was none, nor another."""
    if not calls:
        return None
    if point.call is None and len(calls) == 1:
        return calls[0]
    if point.call is None or point.call >= len(calls):
        layer = Point(point.layer, point.side).name
        raise SeveralCalls(layer, len(calls), point.call)
    return calls[point.call]


def _flat(point: Point, tensor: Tensor | None, mask: Tensor, *, has_heads: bool = False) -> Tensor:
    """Return a row for each token; what a name inside an attention gives has heads in it."""
    batch = tuple(mask.shape)
    if tensor is None:
        raise NotPerToken(point.name, "no tensor", batch)
    if has_heads and tensor.ndim == 4:
        tensor = tensor.flatten(2)
    # As OPT has its tokens inside a block.
    is_flat = tensor.ndim == 2 and len(tensor) == mask.numel() and tensor.is_floating_point()
    if not is_flat and (
        tensor.ndim != 3 or tuple(tensor.shape[:2]) != batch or not tensor.shape[2]
    ):
        found = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
        if tensor.ndim == 2 and tuple(tensor.shape) == batch and not tensor.is_floating_point():
            found += " (token ids, which a run keeps of every row anyway)"
        raise NotPerToken(point.name, found, batch)
    return tensor.reshape(mask.numel(), -1)


def _aligned(pattern: Tensor, mask: Tensor, keys: int) -> Tensor:
    """Return what each token attends to, `(batch * seq, heads * keys)`.

    Keys are counted from the first real token, whichever side the padding is on, and are 0 where
    the document has none.
    """
    batch, seq = mask.shape
    heads = pattern.shape[1]
    rows = pattern.new_zeros(batch, seq, heads, keys)
    for at, real in enumerate(mask):
        places = real.nonzero().squeeze(1).to(pattern.device)
        square = pattern[at].index_select(1, places).index_select(2, places)
        rows[at, places, :, : len(places)] = square.transpose(0, 1)
    return rows.reshape(batch * seq, heads * keys)
