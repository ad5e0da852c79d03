"""The points of a model of vLLM as places that can be read and written during a forward.

A forward of the engine's brings the tokens of many requests as one flat tensor. At each point that
somebody needs, `visit(point, rows)` is given those rows, `(tokens, features)`, and may return rows
to take their place. Hooks of torch stand only at the points that are needed, so that a model which
nobody asks anything of runs as if this was not there (measured: bench_vllm, "idle").

The engine reuses its tensors: a layer's norm writes over what the layer before it returned. So
whoever keeps rows copies them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_vllm.engine_errors import UnsupportedVllm
from tenterhook_vllm.families import Family

Visit = Callable[[str, Tensor], Tensor | None]
"""Takes a point and its rows; returns what takes their place, `None` where they stay."""


@attrs.define(eq=False)
class Taps:
    """The points of one model, those in use with a hook of torch each."""

    model: nn.Module
    family: Family
    points: Mapping[str, int]
    """Every point and how wide it is."""
    visit: Visit
    _handles: dict[str, RemovableHandle] = attrs.field(factory=dict, init=False)

    def use(self, points: Iterable[str]) -> None:
        """Have exactly these points visited from the next forward on."""
        wanted = set(points)
        for name in [name for name in self._handles if name not in wanted]:
            self._handles.pop(name).remove()
        for name in wanted - self._handles.keys():
            self._handles[name] = self._put(name)

    def close(self) -> None:
        """Take all hooks away."""
        self.use(())

    def missing(self) -> list[str]:
        """Return the modules that a point stands on, and this model has not."""
        known = dict(self.model.named_modules())
        wanted = dict.fromkeys(self._module_path(name) for name in self.points)
        return [path for path in wanted if path not in known]

    def _module_path(self, name: str) -> str:
        kind, _, at = name.partition(".")
        if kind == "logits":
            return "logits_processor"
        inside = {
            "attn_out": self.family.attention,
            "mlp_out": self.family.mlp,
            "resid_mid": self.family.middle,
            "router": self.family.router,
            "resid_post": "",
        }[kind]
        layer = f"{self.family.layers}.{at}"
        return f"{layer}.{inside}" if inside else layer

    def _put(self, name: str) -> RemovableHandle:
        kind = name.partition(".")[0]
        module = self.model.get_submodule(self._module_path(name))
        visit = self.visit

        if kind == "resid_mid":

            def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
                hidden, residual, *rest = args
                pair = _pair_visited(name, hidden, residual, visit)
                return None if pair is None else (*pair, *rest)

            return module.register_forward_pre_hook(before)
        if kind == "resid_post" and self.family.is_pair:

            def after_pair(_: nn.Module, args: Any, output: Any) -> Any:
                hidden, residual, *rest = output
                pair = _pair_visited(name, hidden, residual, visit)
                return None if pair is None else (*pair, *rest)

            return module.register_forward_hook(after_pair)

        def after(_: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return visit(name, output)
            first, *rest = output  # a linear layer of vLLM returns its bias beside the product
            made = visit(name, first)
            return None if made is None else (made, *rest)

        return module.register_forward_hook(after)


def _pair_visited(
    name: str, hidden: Tensor, residual: Tensor | None, visit: Visit
) -> tuple[Tensor, Tensor | None] | None:
    """Visit the sum of a pair; return a pair whose sum is what the visit made of it.

    Rows that stay keep both parts to the bit: adding and taking away again would round.
    """
    if residual is None:
        made = visit(name, hidden)
        return None if made is None else (made, None)
    total = hidden + residual
    made = visit(name, total)
    if made is None:
        return None
    changed = (made != total).any(-1, keepdim=True)
    zero = torch.zeros((), dtype=residual.dtype, device=residual.device)
    return torch.where(changed, made, hidden), torch.where(changed, zero, residual)


def check_modules(taps: Taps, version: str | None) -> None:
    """Raise `UnsupportedVllm` where the model has not the modules that its points stand on."""
    missing = taps.missing()
    if missing:
        named = ", ".join(missing[:5])
        raise UnsupportedVllm(
            [f"{type(taps.model).__name__} has no module {named}, where its points are"], version
        )
