"""The part that shows the norms of each layer: how long its rows are, drawn and as numbers."""

from collections.abc import Sequence

import torch

from tenterhook_view.markup import line, number, table
from tenterhook_view.parts import Part, Series

_SHARES = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])


def by_layer(series: Sequence[Series], *, title: str = "By layer") -> Part:
    """Return a part with quantiles of the numbers of each layer, drawn as ranges."""
    rows, drawn = [], []
    for each in series:
        finite = each.values[each.values.isfinite()]
        lost = len(each.values) - len(finite)
        found = torch.quantile(finite, _SHARES).tolist() if len(finite) else [0.0] * 5
        mean = float(finite.mean()) if len(finite) else 0.0
        name = f"{each.name} at {each.layer}" if each.layer else each.name
        rows.append([name, *map(number, (mean, *found)), f"{lost:,}"])
        drawn.append((name, found))
    head = ["", "mean", "least", "quarter", "median", "three quarters", "most", "not finite"]
    return Part(kind="plain", title=title, markup=_drawn(drawn) + table(head, rows))


def _drawn(lines: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draw the middle half of each as a bar, its median as a stroke."""
    low = min((found[1] for _, found in lines), default=0.0)
    high = max((found[3] for _, found in lines), default=1.0)
    low = min(low, 0.0)
    room = (high - low) or 1.0
    parts = []
    for at, (name, found) in enumerate(lines):
        x1, middle, x2 = (300 + 560 * (found[n] - low) / room for n in (1, 2, 3))
        y = 20 * at
        parts.append(
            f'<text x="290" y="{y + 14}" text-anchor="end">{line(name[-44:])}</text>'
            f'<rect x="{x1:.1f}" y="{y + 4}" width="{max(x2 - x1, 1):.1f}" height="12"></rect>'
            f'<line x1="{middle:.1f}" y1="{y + 2}" x2="{middle:.1f}" y2="{y + 18}"></line>'
        )
    height = 20 * len(lines) + 4
    says = "The middle half of the numbers of each layer; the table below has them."
    return (
        f'<svg viewBox="0 0 880 {height}" width="880" role="img" aria-label="{says}">'
        f"{''.join(parts)}</svg>"
    )
