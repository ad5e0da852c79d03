"""What requests to an `LLM` of vLLM have beside their texts: rows and receipts."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_store import dtype_name, torch_dtype
from tenterhook_vllm.engine_errors import RequestFailed


@attrs.frozen(eq=False, kw_only=True)
class ServedAnswer:
    """What one answer has beside its text."""

    request: str
    """What vLLM calls the request in its output."""
    ids: list[int]
    """Of the tokens that went through the model: all of the text but the last."""
    positions: list[int]
    """The tokens whose rows were captured, ascending."""
    rows: dict[str, Tensor]
    """Point to `(n, features)`, in the order of `positions`, on the CPU."""
    receipt: dict[str, Any] | None
    """How many tokens were changed, and by how much; `None` where nothing was to be."""


def take_answers(llm: Any, outputs: Sequence[Any]) -> list[ServedAnswer | None]:
    """Return what each answer of `LLM.generate` or `LLM.chat` has beside its text.

    In the order of `outputs`, and of the answers of each; `None` for one that asked for nothing.
    Each can be taken once. Raises `RequestFailed` for one whose hook failed, that changed no token,
    or whose rows are not those of its text.
    """
    found: list[ServedAnswer | None] = []
    for output in outputs:
        prompt = [int(id) for id in output.prompt_token_ids or ()]
        texts = [[*prompt, *map(int, each.token_ids)] for each in output.outputs]
        # Of one worker: those that share a layer have the same rows, and the same changes.
        results = llm.collective_rpc("tenterhook_take", args=(output.request_id, texts))
        tables: list[dict[str, Any]] = next((each for each in results if each), [])
        found += [read_answer(each) for each in tables] or [None] * len(texts)
    return found


def read_answer(table: dict[str, Any]) -> ServedAnswer:
    """Return an answer as a worker gives it. Raises `RequestFailed`."""
    if "error" in table:
        raise RequestFailed(table["request"], table["error"])
    return ServedAnswer(
        request=table["request"],
        ids=table["ids"],
        positions=table["positions"],
        rows={point: rows_of(rows) for point, rows in table["rows"].items()},
        receipt=table["receipt"],
    )


def in_bytes(rows: Tensor) -> dict[str, Any]:
    """Return rows as they pass between processes."""
    data = rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {"dtype": dtype_name(rows.dtype), "shape": list(rows.shape), "data": data}


def rows_of(table: Any) -> Tensor:
    """Return rows that came as `in_bytes` gives them, or as they are."""
    if isinstance(table, Tensor):
        return table
    dtype = torch_dtype(table["dtype"])
    if not table["data"]:
        return torch.empty(table["shape"], dtype=dtype)
    data = torch.frombuffer(bytearray(table["data"]), dtype=torch.uint8)
    return data.view(dtype).reshape(table["shape"])
