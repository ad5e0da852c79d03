"""The options of `tenterhook capture` that say what is kept of each row, and how it is computed."""

from typing import Any

import click

from tenterhook_cli.options import all_of, choice, count

keeping = all_of(
    click.option(
        "--inputs",
        is_flag=True,
        help="Keep what the layers are given; for one of them, write LAYER:input.",
    ),
    click.option(
        "--tokens",
        help="Keep these tokens of each document: 'last', '0,-1', or a slice such as '1:'.",
    ),
    click.option(
        "--reduce",
        help="Keep statistics and no rows: of mean, var, cov, quantiles, topk, with commas.",
    ),
    click.option("--keep-rows", is_flag=True, help="With --reduce, keep the rows too."),
    count("--top-k", "How many tokens 'topk' keeps for each feature.  [default: 20]"),
    count("--batch-tokens", "Tokens at once at most, padding counted, beside --batch-size."),
    click.option(
        "--bucket",
        is_flag=True,
        help="Run the documents of a unit by length, which needs less padding.",
    ),
    choice(
        "--writing",
        ["auto", "inline", "thread"],
        "Who writes: a thread beside the forwards, or none; auto: a thread on accelerators.",
    ),
    count(
        "--queue-bytes",
        "Bytes of rows that wait for a writing thread at most.  [default: 268435456]",
    ),
)
"""Adds the options to a command; it gets them all together, as keywords."""


def kept_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of `CaptureOptions` that the options mean, `inputs` aside."""
    found = {key: value for key, value in given.items() if value is not None and key != "inputs"}
    keep_rows = found.pop("keep_rows")
    if keep_rows and "reduce" not in found:
        raise click.UsageError("--keep-rows goes with --reduce; without it rows are kept anyway.")
    if "top_k" in found and "topk" not in found.get("reduce", ""):
        raise click.UsageError("--top-k goes with --reduce topk, and says how many that keeps.")
    return {**found, "keep_rows": keep_rows or "reduce" not in found}
