"""What `tenterhook capture --dry-run` says: what a run would be, and what workers make of it."""

import json
from typing import TYPE_CHECKING, Any

import attrs

from tenterhook_cli.amounts import how_long, many, size
from tenterhook_cli.contents import batches_of, contents_of, remarks_on, rows_of

if TYPE_CHECKING:
    from tenterhook_capture import Capture, WorkersEstimate
    from tenterhook_capture.engine import Engine
    from tenterhook_store import RunPlan, Store


def would_be(
    store: "Store",
    prepared: "Capture",
    run_id: str,
    as_json: bool,
    *,
    place: str | None,
    workers: "tuple[str, Engine] | None",
) -> str:
    """Return what a run would be, in a store that was named or in any; makes nothing.

    `workers` are an engine and its name, which is asked for nothing but how many it has.
    """
    from tenterhook_capture import WorkersEstimate, estimate

    found = estimate(store, prepared, run_id)
    scaled = None
    if workers is not None:
        count = getattr(workers[1], "workers", None) or 1
        scaled = WorkersEstimate.of(found, workers[0], count)
    if as_json:
        facts = {
            "store": place,
            "run": run_id,
            **attrs.asdict(found),
            "seconds": found.seconds,
            **batches_in(prepared.plan),
            "with_workers": None if scaled is None else scaled.values(),
        }
        return json.dumps(facts, indent=2)
    done = found.units - found.units_missing
    already = f", {done:,} of them done already" if done else ""
    about = prepared.plan.about
    lines = [
        f"Run {run_id}{f' in {place}' if place else ''} would have {rows_of(prepared.plan)}, of",
        *contents_of(prepared.plan),
        *remarks_on(about["counts"], about["documents"]),
        f"{size(found.bytes)} in {many(found.shards, 'shard')} "
        f"and {many(found.units, 'unit')}{already}.",
        f"Batches: {batches_of(prepared.plan)}.",
        f"Estimated time: {how_long(found.seconds)} of forward passes in one process, at "
        f"{found.rows_per_second:,.0f} rows/s measured on the first batches.",
        *([] if scaled is None else _with_workers(scaled, found.tokens)),
        "Nothing was made.",
    ]
    return "\n".join(lines)


def _with_workers(found: "WorkersEstimate", tokens: int) -> list[str]:
    each = found.bytes_per_second / max(found.workers - found.idle, 1)
    lines = [
        f"With {many(found.workers, 'worker')} of the engine {found.engine}, each as fast as this "
        "machine:",
        f"  {many(found.rows_per_unit, 'row')} and {size(found.unit_bytes)} a unit, "
        f"{many(found.units_per_worker, 'unit')} a worker at most, {how_long(found.unit_seconds)} "
        "each.",
        f"  {how_long(found.seconds)} from the first unit to the last; loading the model is not "
        "counted.",
        f"  {size(found.bytes_per_second)}/s to be written by all together, {size(each)}/s each.",
        f"  {many(tokens, 'token')}, made once and shared in the store: "
        f"{size(found.tokens_bytes)}.",
        "  A worker that dies loses the unit that it has: "
        f"{how_long(found.unit_seconds)} of its work at most.",
    ]
    if found.idle:
        lines.append(f"  {many(found.idle, 'worker')} would have no unit: smaller ones are more.")
    return lines


def batches_in(plan: "RunPlan") -> dict[str, Any]:
    """Return how the documents are batched, as JSON values."""
    return {key: plan.spec[key] for key in ("batch_size", "batch_tokens", "bucket")}
