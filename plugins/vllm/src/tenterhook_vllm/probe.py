"""A trial at the start: one token is captured and changed at every point of a worker's model.

The engine runs its model on a token of nothing, as it does to measure memory. Its attention gives
what lies in memory there, so the trial puts rows of its own at `attn_out` each time. What has to
hold:

- `resid_mid` is the stream before the layer and `attn_out`; `resid_post` is `resid_mid` and
  `mlp_out`. So the stream is the sum, and no point is a layer off.
- Rows that take the place of others at a point are what the model goes on with: the same sums hold
  with them, and where no sum shows it, what comes after is different.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tenterhook_vllm.families import Family
from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.taps import Taps

_Replace = Callable[[str, Tensor], Tensor | None]


def probe(runner: Any, family: Family, points: ServedPoints) -> list[str]:
    """Return what went wrong, a phrase for each point; empty where all is well."""
    trial = _Trial(runner, family, points)
    before = trial.run(lambda name, rows: _other(name, "attn_out", rows, shift=0.5))
    unseen = [name for name in points.widths if name not in before]
    wrong = [f"no rows came by {name}" for name in unseen]
    wrong += [
        f"{name} has {tuple(rows.shape)}, and not {points.widths[name]} features"
        for name, rows in before.items()
        if rows.ndim != 2 or rows.shape[-1] != points.widths[name]
    ]
    if wrong:
        return wrong
    wrong += trial.sums(before)
    kinds = dict.fromkeys(name.partition(".")[0] for name in points.widths)
    for kind in kinds:
        after = trial.run(_replacing(kind))
        wrong += trial.sums(after, replaced=kind)
        wrong += trial.reached(before, after, kind)
    return list(dict.fromkeys(wrong))


def _replacing(kind: str) -> _Replace:
    def replace(name: str, rows: Tensor) -> Tensor | None:
        made = _other(name, kind, rows)
        return _other(name, "attn_out", rows, shift=0.5) if made is None else made

    return replace


def _other(name: str, kind: str, rows: Tensor, shift: float = 0.0) -> Tensor | None:
    """Return rows unlike any that a model makes, other ones at each layer."""
    if name.partition(".")[0] != kind:
        return None
    layer = int(name.partition(".")[2] or 0)
    count = torch.arange(rows.numel(), device=rows.device, dtype=torch.float32)
    return torch.cos(count * 1.7 + layer + 1 + shift).reshape(rows.shape).to(rows.dtype)


class _Trial:
    """Forwards of one token, and what came by in each."""

    def __init__(self, runner: Any, family: Family, points: ServedPoints) -> None:
        self.runner = runner
        self.family = family
        self.points = points
        self.layers = 1 + max(
            int(name.partition(".")[2]) for name in points.widths if name != "logits"
        )
        # Sums are computed in the model's dtype, in which its own are rounded once or twice.
        self.bound = 16 * torch.finfo(points.dtype).eps

    def run(self, replace: _Replace) -> dict[str, Tensor]:
        """Run one token; return what stands at each point, after it was replaced."""
        found: dict[str, Tensor] = {}

        def visit(name: str, rows: Tensor) -> Tensor | None:
            made = replace(name, rows)
            found[name] = (rows if made is None else made).detach().clone()
            return made

        model = self.runner.get_model()
        taps = Taps(model, self.family, self.points.widths, visit)
        last: list[Tensor] = []
        whole = model.register_forward_hook(lambda module, args, output: last.append(output))
        taps.use([name for name in self.points.widths if name != "logits"])
        try:
            self.runner._dummy_run(1)
            taps.use(["logits"])
            with torch.inference_mode():
                found["logits"] = model.compute_logits(last[-1]).clone()
        finally:
            whole.remove()
            taps.close()
        return found

    def sums(self, found: dict[str, Tensor], replaced: str = "") -> list[str]:
        """Return which layers do not add up; those of replaced rows have nothing to show."""
        wrong = []
        for at in range(self.layers):
            parts = [("resid_post", [f"resid_mid.{at}", f"mlp_out.{at}"])]
            if at:
                before = f"resid_post.{at - 1}"
                parts.append(("resid_mid", [before, f"attn_out.{at}"]))
                if f"resid_mid.{at}" not in found:
                    parts = [("resid_post", [before, f"attn_out.{at}", f"mlp_out.{at}"])]
            for whole, addends in parts:
                if whole == replaced or f"{whole}.{at}" not in found:
                    continue
                if not found.keys() >= {*addends}:
                    continue
                total = torch.stack([found[each].double() for each in addends])
                off = (found[f"{whole}.{at}"].double() - total.sum(0)).abs().max().item()
                scale = max(1.0, total.abs().sum(0).max().item())
                if not math.isfinite(off) or off > self.bound * scale:
                    of = " and ".join(addends)
                    wrong.append(f"{whole}.{at} is not the sum of {of}")
        return wrong

    def reached(self, before: dict[str, Tensor], after: dict[str, Tensor], kind: str) -> list[str]:
        """Return the points of a kind where the model went on as if nothing had been replaced."""
        if kind == "logits":
            return [] if not torch.equal(before["logits"], after["logits"]) else ["logits stay"]
        wrong = []
        for at in range(self.layers):
            name = f"{kind}.{at}"
            following = f"mlp_out.{at}" if kind == "router" else "logits"
            if name in before and torch.equal(before[following], after[following]):
                wrong.append(f"rows that take the place of others at {name} come to nothing")
        return wrong
