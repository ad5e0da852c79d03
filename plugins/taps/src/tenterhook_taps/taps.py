"""The taps of a model: placed, found by layer, captured from, and taken away together."""

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, get_args

import torch

from tenterhook import HookedModel
from tenterhook.layers import LayerChoice, LayerSpec
from tenterhook.reports import Report
from tenterhook_taps.recording import Recorder, TapCapture
from tenterhook_taps.tap import Tap

Choices = LayerChoice | Iterable[LayerChoice]


class Taps(Mapping[str, Tap]):
    """Taps at layers of a model, by every spelling of a layer. Made by `model.taps`.

    They stand until `remove`, or the end of a `with` block, for everyone who runs the model: all
    threads and tasks, compiled or not.
    """

    def __init__(self, model: HookedModel, *layers: Choices) -> None:
        """Raises `UnknownLayer` for a layer that is not there, and `ValueError` without any."""
        self._registry = model.layers
        found = self._registry.index.expand(layers)
        if not found:
            raise ValueError("taps() needs at least one layer; model.layers.list_layers() has all.")
        self._taps: dict[str, Tap] = {}
        try:
            for layer in found:
                tap = Tap(layer.name)
                # A tap leaves its layer to detectors and controllers alike.
                self._registry.register_hook(layer.name, tap, mix="in_order")
                self._taps[layer.name] = tap
        except BaseException:
            self.remove()
            raise

    def capture(
        self,
        *layers: Choices,
        max_tokens: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        missing: Report = "warn",
    ) -> TapCapture:
        """Keep what the layers return, by default all that have a tap, while the scope is open.

        `with taps.capture() as captured:` gives a `Captured`: for each layer a tensor for each
        call, detached, on `device` and in `dtype`, by default the layer's own. With `max_tokens`
        memory for so many tokens of each layer is taken once, at its first call, and the tensors
        are views of it; a call that does not fit is a `HookError`. `missing` says what happens when
        no call came by a layer: `"warn"`, `"raise"` or `"ignore"`. A pattern means those of its
        layers that have a tap.

        Raises `KeyError` for a layer without a tap, `UnknownLayer` for one that is not there.
        """
        if missing not in get_args(Report):
            valid = ", ".join(map(repr, get_args(Report)))
            raise ValueError(f"missing={missing!r} is not one of {valid}.")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens!r} is not a number of tokens, 1 or more.")
        return TapCapture(
            {name: self[name] for name in (self._meant_by(layers) if layers else self)},
            self._registry.index,
            lambda: Recorder(max_tokens, device, dtype),
            missing,
        )

    def _meant_by(self, layers: Iterable[Choices]) -> dict[str, None]:
        """Return the tapped layers that are meant, each once; of a pattern those with a tap."""
        names: dict[str, None] = {}
        for choice in layers:
            found = [layer.name for layer in self._registry.index.expand([choice])]
            tapped = [name for name in found if name in self._taps]
            names |= dict.fromkeys(tapped or found[:1])
        return names

    def clear(self) -> None:
        """Have all taps leave their activations alone."""
        for tap in self._taps.values():
            tap.clear()

    def remove(self) -> None:
        """Take the taps off the model; a second call does nothing.

        Where the model was compiled, it is compiled anew, without them, at its next call.
        """
        for tap in self._taps.values():
            self._registry.unregister_hook(tap)
            tap.take_out()

    def __enter__(self) -> "Taps":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the taps."""
        self.remove()

    def __getitem__(self, layer: LayerSpec) -> Tap:
        """Return the tap at `layer`.

        Raises `KeyError` for a layer without one, `UnknownLayer` for one that is not there.
        """
        tap = self._taps.get(layer) if isinstance(layer, str) else None
        if tap is None:
            name = self._registry.index.resolve(layer).name
            tap = self._taps.get(name)
            if tap is None:
                raise KeyError(f"Layer {name!r} has no tap here; {list(self._taps)} have.")
        return tap

    def get(self, layer: Any, default: Any = None) -> Any:
        """Return the tap at `layer`; `default` where there is none, or no layer."""
        try:
            return self[layer]
        except LookupError:
            return default

    def __contains__(self, layer: object) -> bool:
        return self.get(layer) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)

    def __repr__(self) -> str:
        return f"Taps({list(self._taps)})"
