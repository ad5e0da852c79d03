"""What a model runner of vLLM tells of the forward that is about to run: whose rows are where.

The runner keeps the running requests in the order of their rows. Before each forward it has set:

- `input_batch.req_ids`, in that order, and `input_batch.num_computed_tokens_cpu`, how many tokens
  of each were computed before, which is the position of the first one now;
- `query_start_loc`, the row where each begins;
- `requests[id].sampling_params.extra_args`, what a request was given.

Ids of tokens are what the model is called with: those that were sampled in the step before may be
on the device alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from tenterhook_vllm.steps import Rows, Step

KEY = "tenterhook"
"""Under which a request has what it asks for in its `extra_args`."""

RUNNER = ("input_batch", "query_start_loc", "requests")
"""What a runner must have."""

INPUT_BATCH = ("req_ids", "num_computed_tokens_cpu")
"""What its batch must have."""


def missing_of(runner: Any) -> list[str]:
    """Return what of all this a runner has not."""
    kind = type(runner).__name__
    missing = [f"{kind}.{name}" for name in RUNNER if not hasattr(runner, name)]
    batch = getattr(runner, "input_batch", None)
    missing += [f"{kind}.input_batch.{name}" for name in INPUT_BATCH if not hasattr(batch, name)]
    if not missing and not hasattr(runner.query_start_loc, "np"):
        missing.append(f"{kind}.query_start_loc.np")
    return missing


def running(runner: Any) -> list[str]:
    """Return the requests of the forward that is about to run, in the order of their rows."""
    return [str(id) for id in runner.input_batch.req_ids if id is not None]


def asked(runner: Any, request: str) -> Any:
    """Return what stands under `tenterhook` in a request's `extra_args`; `None` for nothing."""
    params = runner.requests[request].sampling_params
    extra: Mapping[str, Any] | None = getattr(params, "extra_args", None)
    return None if extra is None else extra.get(KEY)


def prompt_ids(runner: Any, request: str) -> list[int]:
    """Return the ids of a request's prompt."""
    return [int(id) for id in runner.requests[request].prompt_token_ids or ()]


def step_of(
    runner: Any, ids: Tensor, requests: Iterable[str], is_wanted: Callable[[str], bool]
) -> Step:
    """Return the rows of the wanted ones among `requests`, which are all that run, in order.

    `ids` are what the model is called with, `(rows,)`. Waits for the device.
    """
    starts = runner.query_start_loc.np
    before = runner.input_batch.num_computed_tokens_cpu
    parts = []
    on_cpu: Tensor | None = None
    for at, request in enumerate(requests):
        if not is_wanted(request):
            continue
        on_cpu = ids.cpu() if on_cpu is None else on_cpu
        first, stop = int(starts[at]), int(starts[at + 1])
        parts.append(Rows(request, first, int(before[at]), on_cpu[first:stop].tolist()))
    return Step(parts)


def sampled_rows(runner: Any, requests: Iterable[str]) -> dict[int, int]:
    """Return, of each request by its place, the flat row that the next token is sampled from."""
    starts = runner.query_start_loc.np
    return {at: int(starts[at + 1]) - 1 for at, _ in enumerate(requests)}
