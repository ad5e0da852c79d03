"""What a run holds, in words: its arrays, and the statistics of its rows."""

from typing import TYPE_CHECKING, Any

from tenterhook_cli.amounts import many

if TYPE_CHECKING:
    from tenterhook_store import RunPlan


def rows_of(plan: "RunPlan") -> str:
    """Say how many rows a run has when it is complete, and what a row stands for."""
    token = "selected token" if plan.spec.get("tokens") else "token"
    return f"{plan.rows:,} rows, one for each {token}"


def batches_of(plan: "RunPlan") -> str:
    """Say which documents share a forward; nothing where the run does not say so."""
    words = {"batch_size": "documents", "batch_tokens": "tokens, padding counted"}
    limits = {what: plan.spec.get(key) for key, what in words.items()}
    found = [f"{most:,} {what}" for what, most in limits.items() if isinstance(most, int)]
    order = "by length" if plan.spec.get("bucket") else "in their order"
    return f"at most {' and '.join(found)}; documents {order}" if found else ""


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


def contents_of(plan: "RunPlan") -> list[str]:
    """Return a line for each layer, and one for each of which there are statistics."""
    return [f"  {each}" for each in (*layers_of(plan), *reduced(plan))]


def remarks_on(counts: dict[str, int], documents: dict[str, Any]) -> list[str]:
    """Say what of the documents is not in the run."""
    remarks = []
    if empty := documents["skipped_empty"] + counts["documents_without_tokens"]:
        remarks.append(f"Skipped: {many(empty, 'empty document')}.")
    if bad := documents.get("skipped_bad", 0):
        remarks.append(f"Skipped: {many(bad, 'record')} that cannot be read.")
    if long := counts["documents_too_long"]:
        cut = counts["tokens_cut"]
        what = f"Cut: {many(cut, 'token')} of" if cut else "Split:"
        remarks.append(f"{what} {many(long, 'document')} longer than the model takes.")
    return remarks
