"""What a capture gives: for each layer the tensors that were seen there.

Copies made in inference mode, or in a transform of `torch.func`, become plain tensors when they are
first read after the scope: looking at each in the scope would cost every capture.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook.html import table
from tenterhook.layers import LayerIndex, LayerSpec
from tenterhook.scopes.recorders import make_plain


@attrs.define(eq=False, repr=False)
class Captured(Mapping[str, list[Tensor]]):
    """What a capture saw: for each layer, by every spelling of it, one tensor per call."""

    _index: LayerIndex
    _calls: dict[str, list[Tensor]]
    _places: dict[str, list[Tensor]] = attrs.field(factory=dict)
    """Where the captured rows stood, of a selection of tokens."""
    _selecting: Any = None
    """The selector at work."""
    _is_open: bool = attrs.field(init=False, default=True)
    _read: set[str] = attrs.field(init=False, factory=set)
    """The layers that were read while it was open."""
    _plain: set[str] = attrs.field(init=False, factory=set)
    """Those whose tensors are plain."""

    def end(self) -> None:
        """Take note that the scope is over."""
        self._is_open = False
        for name in [*self._read]:  # another thread may read just now
            self[name]

    def __getitem__(self, layer: LayerSpec) -> list[Tensor]:
        """Return the tensors seen at `layer`, one per call, in order.

        Raises `KeyError` for a layer that is not captured, `UnknownLayer` for one that is not
        there.
        """
        known = isinstance(layer, str) and layer in self._calls
        name = str(layer) if known else self._index.resolve(layer).name
        if name not in self._calls:
            raise KeyError(f"Layer {name!r} is not captured here; {list(self._calls)} are.")
        calls = self._calls[name]
        if self._is_open:
            self._read.add(name)
        elif name not in self._plain and make_plain(calls):
            self._plain.add(name)
        return calls

    def last(self, layer: LayerSpec) -> Tensor:
        """Return what the last call gave; `LookupError` where there was none."""
        calls = self[layer]
        if not calls:
            raise LookupError(f"Layer {layer!r} has not run in this scope.")
        return calls[-1]

    def cat(self, layer: LayerSpec, dim: int = 0) -> Tensor:
        """Return all calls joined along `dim`; `LookupError` where there was none."""
        self.last(layer)
        return torch.cat(self[layer], dim)

    def where(self, layer: LayerSpec) -> list[Tensor]:
        """Return, for each call, where the captured rows stood: long `(n, 2)`, row and position.

        Positions count the real tokens of a row from the first that the model has seen. Raises
        `LookupError` for a capture without a selection of tokens.
        """
        self[layer]
        name = layer if layer in self._places else self._index.resolve(layer).name
        places = self._places.get(str(name))
        if places is None or len(places) < len(self._calls[str(name)]):
            raise LookupError("Only a capture of selected tokens says where they stood.")
        return places

    def by_row(self, layer: LayerSpec) -> list[Tensor]:
        """Return what was seen of each row of the batch, `(tokens, features)`, in token order.

        Rows are those that a generation returned. Takes a capture of selected tokens; `tokens=":"`
        selects them all.
        """
        places = self.where(layer)
        return self._selecting.by_row(self[layer], places)  # type: ignore[no-any-return]

    def __contains__(self, layer: object) -> bool:
        return self.get(layer) is not None

    def get(self, layer: Any, default: Any = None) -> Any:
        """Return the tensors seen at `layer`; `default` where it is not captured, or no layer."""
        try:
            return self[layer]
        except LookupError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __reduce__(self) -> Any:
        """Return, for a copy or pickle, the lists by dotted names: a `dict`, without the model."""
        return dict, (dict(self),)

    def _repr_html_(self) -> str:
        rows: list[tuple[Any, ...]] = [("layer", "calls", "the last")]
        for name, calls in self._calls.items():
            last = calls[-1:] if type(calls) is list else []  # another may have to load it
            rows += [(name, len(calls), *(f"{tuple(t.shape)} {t.dtype} {t.device}" for t in last))]
        return table(rows)

    def __repr__(self) -> str:
        return f"Captured({ {name: len(calls) for name, calls in self._calls.items()} })"
