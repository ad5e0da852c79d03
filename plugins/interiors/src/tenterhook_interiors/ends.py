"""The ends of a model: its embedding, its last norm, and what gives the logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tenterhook_interiors.recording import Recording, is_linear, logits_of, same


class Ends:
    """The ends of one model, by what its twin did."""

    def __init__(
        self, twin: Any, recording: Recording, blocks: Sequence[str], dtype: torch.dtype
    ) -> None:
        self._twin, self._recording, self._blocks = twin, recording, blocks
        self._dtype = dtype
        self._logits = logits_of(recording.output)

    def embed(self) -> str | None:
        """Return the embedding that gives what the blocks are given.

        An encoder and a decoder may have the weights in common, each in a module of its own.
        """
        asked = _asked(self._twin, "get_input_embeddings")
        path = _path_of(self._twin, asked)
        if asked is None or self._recording.of(path or "") is not None:
            return path
        weight = getattr(asked, "weight", None)
        stack = self._blocks[0].rpartition(".")[0].rpartition(".")[0] if self._blocks else ""
        alike = [
            call.path
            for call in self._recording.inside(stack)
            if weight is not None and getattr(call.module, "weight", None) is weight
        ]
        return alike[0] if len(alike) == 1 else None

    def unembed(self) -> str | None:
        """Return the layer that gives the logits, as they are or before a cap."""
        last = _path_of(self._twin, _asked(self._twin, "get_output_embeddings"))
        if last is not None or getattr(self._recording.output, "logits", None) is None:
            return last if last is None or self._recording.of(last) is not None else None
        calls = self._recording.calls.values()
        given = [c.path for c in calls if is_linear(c.module) and c.result is not None]
        return given[-1] if given and self.gives_logits(given[-1]) else None

    def gives_logits(self, path: str) -> bool:
        """Whether a layer's output are the logits that the model returns."""
        call = self._recording.of(path)
        return call is not None and same(call.result, self._logits, self._dtype)

    def final_norm(self, unembed: str | None) -> str | None:
        """Return the layer whose output is unembedded; else the norm of the stream at its end."""
        head = None if unembed is None else self._recording.of(unembed)
        norm = None
        if head is not None:
            inner = [each for each in self._recording.calls.values() if each.path != unembed]
            while inner:  # a model returns what its norm did
                found = (c for c in reversed(inner) if same(c.result, head.given, self._dtype))
                norm = next(found, None)
                inner = [] if norm is None else [*self._recording.inside(norm.path)]
        return self._norm_of_stream() if norm is None else norm.path

    def _norm_of_stream(self) -> str | None:
        """Return the layer, with weights, that is given what the last block returns."""
        last = self._recording.of(self._blocks[-1]) if self._blocks else None
        if last is None:
            return None
        calls = [*self._recording.calls.values()]
        for call in calls[calls.index(last) + 1 :]:
            given, result = call.given, call.result
            if given is None or result is None or result.shape != given.shape:
                continue
            has_parts = any(True for _ in call.module.children())
            has_weights = any(True for _ in call.module.parameters())
            if has_weights and not has_parts and same(given, last.result, self._dtype):
                return call.path
        return None


def _asked(model: Any, name: str) -> nn.Module | None:
    try:
        found = getattr(model, name)()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def _path_of(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((name for name, each in model.named_modules() if each is wanted and name), None)
