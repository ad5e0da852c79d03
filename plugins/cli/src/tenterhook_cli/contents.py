"""What a run holds, in words: its arrays, and the statistics of its rows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenterhook_store import RunPlan


def rows_of(plan: "RunPlan") -> str:
    """Say how many rows a run has when it is complete, and what a row stands for."""
    token = "selected token" if plan.spec.get("tokens") else "token"
    return f"{plan.rows:,} rows, one for each {token}"


def layers_of(plan: "RunPlan") -> list[str]:
    """Return each layer whose rows are kept, with their width and dtype."""
    scales = {f"{each.name}:scale" for each in plan.layers if each.dtype == "int8"}
    return [
        f"{each.name}  {each.features} x {each.dtype}"
        + (", with a float32 scale for each row" if each.dtype == "int8" else "")
        for each in plan.layers
        if each.name not in scales
    ]


def reduced(plan: "RunPlan") -> list[str]:
    """Return each layer of which there are statistics, with their names."""
    kinds = plan.spec.get("reduce")
    return [f"{each['name']}  {', '.join(kinds)}" for each in plan.spec["layers"]] if kinds else []
