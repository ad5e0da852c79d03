"""Runs of what requests captured, in the store that a server was started with.

`additional_config={"tenterhook_store": PLACE}` of an engine names the store. Each call that asks
for it has a run of its own there, under a name that is made up, so no request can write to
another's. Its documents are the answers of the call, in their order; a row has the id of its token
and its position in the whole text, the prompt's tokens first.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tenterhook_store import LayerArray, RowBlock, RunPlan, open_store
from tenterhook_vllm.row_bytes import rows_of

STORE = "tenterhook_store"
"""Under which the engine's `additional_config` has the place of its store."""


def store_of(config: Any) -> str | None:
    """Return the place of an engine's store; `None` where it was started without one."""
    more = getattr(config, "additional_config", None)
    place = more.get(STORE) if isinstance(more, Mapping) else None
    return None if place is None else str(place)


def asks_for_run(tables: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the answers of a call, as a worker gives them, are to be written."""
    return any(each.get("run") for each in tables)


def write_answers(place: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows of a call's answers, as a worker gives them; return the id of their run.

    It is one unit: it is there whole, or not at all. Raises what the store raises.
    """
    found = [{point: rows_of(rows) for point, rows in each["rows"].items()} for each in tables]
    layers = [
        LayerArray(point, rows.shape[1], str(rows.dtype).removeprefix("torch."))
        for point, rows in found[0].items()
    ]
    count = sum(len(each["positions"]) for each in tables)
    plan = RunPlan(
        rows=count,
        rows_per_unit=count,
        documents=len(tables),
        layers=tuple(layers),
        spec={"served": [str(each["request"]) for each in tables]},
    )
    store = open_store(place)
    name = f"request-{uuid.uuid4().hex}"
    writer = store.write_run(name, plan)
    try:
        with writer.open_unit(plan.unit(0)) as unit:
            for document, (table, rows) in enumerate(zip(tables, found, strict=True)):
                positions = torch.tensor(table["positions"], dtype=torch.long)
                unit.append(
                    RowBlock(
                        tokens=torch.tensor(table["ids"], dtype=torch.long)[positions],
                        documents=torch.full_like(positions, document),
                        positions=positions,
                        layers=rows,
                    )
                )
            unit.commit({"receipts": [each["receipt"] for each in tables]})
        writer.finish()
    except BaseException:
        store.delete_run(name)
        raise
    return name
