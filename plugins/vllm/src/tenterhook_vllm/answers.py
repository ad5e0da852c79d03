"""What requests to an `LLM` of vLLM have beside their texts: rows and receipts."""

from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tensor

from tenterhook_vllm.engine_errors import RequestFailed
from tenterhook_vllm.row_bytes import rows_of
from tenterhook_vllm.served_runs import asks_for_run, store_of, write_answers


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
    run: str | None = None
    """Id of the run in the engine's store that has the rows; `None` where `rows` has them."""


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
        answers = [read_answer(each) for each in tables]
        if asks_for_run(tables):
            name = write_answers(str(store_of(llm.llm_engine.vllm_config)), tables)
            answers = [attrs.evolve(each, rows={}, run=name) for each in answers]
        found += answers or [None] * len(texts)
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
