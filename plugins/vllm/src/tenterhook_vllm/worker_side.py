"""What happens in a worker of vLLM: requests are followed through the forwards of its model.

The order of events in one forward:

1. The model runner has set up its batch and calls the model. A hook of torch before the model asks
   who runs. Where nobody has asked for anything, that is all.
2. A request that is seen for the first time is read; what it says was checked when it came in.
3. The points that this step's requests need get their hooks, and `Serving` is told the step.
4. Each point's rows go through `Serving.visit`, which changes and keeps them, request by request.
5. Logits are computed by the engine only for the tokens that others are sampled from. Where a
   request needs them of other tokens, they are computed here, after the last layer; what a change
   made of them is put in place when the engine computes its own.

Requests end where nobody tells the worker: the engine drops them before some later forward. What a
request was given and changed waits here until it is taken, or `MOST_WAITING` others have ended.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook.errors import TenterhookError
from tenterhook.one_line import error_line
from tenterhook_vllm.admission import ID, NAME, points_for
from tenterhook_vllm.engine_errors import ProbeFailed, UnsupportedVllm
from tenterhook_vllm.engine_steps import (
    asked,
    missing_of,
    prompt_ids,
    running,
    sampled_rows,
    step_of,
)
from tenterhook_vllm.probe import probe
from tenterhook_vllm.refusals import family_for, version, why_not
from tenterhook_vllm.request_specs import read_request
from tenterhook_vllm.row_bytes import in_bytes
from tenterhook_vllm.serving import Serving
from tenterhook_vllm.steps import Step
from tenterhook_vllm.taps import Taps, check_modules

MOST_WAITING = 4096
"""Requests that have ended and whose rows wait to be taken; those of the first are dropped."""

MOST_DROPPED = 1 << 16
"""Requests that are remembered to have been dropped."""

DROPPED = (
    f"what it had to show was dropped, since {MOST_WAITING:,} others ended before it was taken"
)

LOGITS = "logits"

_log = logging.getLogger(__name__)


def begin(worker: Any) -> "WorkerSide | Refused":
    """Look at a worker whose model stands, and try one token at every point.

    An engine that was started in a way that cannot do it serves as if this was not installed, and
    refuses requests that ask for something. One that should be able to, and is not, does not start.

    Raises `UnsupportedVllm` for a runner that is not as it should be, `ProbeFailed`.
    """
    config = worker.vllm_config
    reason = why_not(config)
    if reason is not None:
        _log.info("tenterhook: %s", reason)
        return Refused(reason)
    runner = worker.model_runner
    missing = missing_of(runner)
    if missing:
        raise UnsupportedVllm([f"it has no {name}" for name in missing], version())
    points = points_for(config)
    side = WorkerSide(runner, config)
    check_modules(side.taps, version())
    wrong = probe(runner, family_for(config), points)
    if wrong:
        raise ProbeFailed(wrong, version())
    side.open()
    return side


class Refused:
    """Stands in a worker whose engine cannot do it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def take(self, *_: Any) -> Any:
        """Raise `UnsupportedVllm`."""
        raise UnsupportedVllm([self.reason], version())


class WorkerSide:
    """The requests of one worker."""

    def __init__(self, runner: Any, config: Any) -> None:
        self.runner = runner
        self.points = points_for(config)
        self.serving = Serving(self.points)
        family = family_for(config)
        self.taps = Taps(runner.get_model(), family, self.points.widths, self._visit)
        self._followed: dict[str, _Followed | None] = {}
        """Every request that was seen; `None` for one that asks for nothing."""
        self._now: _Now | None = None
        self._handles: list[Any] = []

    def open(self) -> None:
        """Put the hooks around the model."""
        model = self.taps.model
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
            model.get_submodule("logits_processor").register_forward_hook(self._put_logits),
        ]

    def close(self) -> None:
        """Take every hook away."""
        self.taps.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def take(
        self,
        key: str,
        texts: Sequence[Sequence[int]] | None = None,
        *,
        as_bytes: bool = True,
    ) -> list[dict[str, Any]]:
        """Return what requests that have ended have to show, and forget them.

        `key` is what they are asked for by: several prompts of one call, and several answers to a
        prompt, share it, and come in that order. `texts` are the ids of each, prompt first, as they
        were returned. With `as_bytes` results pass between processes, and `read_answer` reads
        them; without, in one process, they hold the `Answer`, or what was `raised`. There is no
        result for an unknown key.
        """
        asked_for = sorted(
            (each for each in self._followed.values() if each is not None and each.key == key),
            key=lambda each: each.order,
        )
        found = []
        for at, each in enumerate(asked_for):
            del self._followed[each.request]
            ids = texts[at] if texts is not None and len(texts) == len(asked_for) else None
            found.append(self._answer(each, ids, as_bytes=as_bytes))
        return found

    def _answer(
        self, one: "_Followed", ids: Sequence[int] | None, *, as_bytes: bool
    ) -> dict[str, Any]:
        table: dict[str, Any] = {"request": one.name}
        if one.failure is not None:
            return {**table, "error": one.failure}
        try:
            answer = self.serving.finish(one.request, ids)
        except (TenterhookError, ValueError) as error:
            return {**table, "error": error_line(error), **({} if as_bytes else {"raised": error})}
        if not as_bytes:
            return {**table, "answer": answer}
        return {
            **table,
            "run": one.run,
            "ids": list(answer.ids),
            "positions": answer.positions.tolist(),
            "receipt": None if answer.receipt is None else answer.receipt.plain(),
            "rows": {point: in_bytes(rows) for point, rows in answer.rows.items()},
        }

    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._now is not None:
            self._now.drop()  # the forward before this one failed
            self._now = None
        requests = [] if is_dummy() else running(self.runner)
        wanted = {id: found for id in requests if (found := self._look_at(id)) is not None}
        needed = frozenset[str]().union(*(each.points for each in wanted.values()))
        self.taps.use(needed - {LOGITS})
        if not needed:
            return
        step = step_of(self.runner, kwargs["input_ids"], requests, wanted.__contains__)
        self._now = _Now(self.serving.step(step), step, requests, LOGITS in needed)

    def _after(self, model: Any, args: Any, kwargs: Any, hidden: Any) -> None:
        now = self._now
        if now is None:
            return
        if now.needs_logits:
            rows = [
                row
                for part in now.step.parts
                if self._needs_logits(part.request)
                for row in range(part.first, part.stop)
            ]
            index = torch.tensor(rows, dtype=torch.long, device=hidden.device)
            now.is_ours = True
            made = self.serving.at(LOGITS, model.compute_logits(hidden[index]), rows)
            now.is_ours = False
            if made is not None:
                now.logits = {row: made[at] for at, row in enumerate(rows)}
        now.end()
        if now.logits is None:
            self._now = None

    def _put_logits(self, module: nn.Module, args: Any, logits: Any) -> Tensor | None:
        """Put changed logits in place of those that the next tokens are sampled from."""
        now = self._now
        if now is None or now.logits is None or now.is_ours or not isinstance(logits, Tensor):
            return None
        self._now = None  # what is computed after them, as of prompts, is not sampled from
        made = logits.clone()
        for at, row in sampled_rows(self.runner, now.requests).items():
            if row in now.logits:
                made[at] = now.logits[row]
        return made

    def _needs_logits(self, request: str) -> bool:
        found = self._followed.get(request)
        return found is not None and LOGITS in found.points

    def _look_at(self, request: str) -> "_Followed | None":
        """Return a request that is followed in this step; `None` for another."""
        if request not in self._followed:
            self._forget_ended()
            self._followed[request] = self._follow(request)
        found = self._followed[request]
        return None if found is None or found.failure is not None else found

    def _follow(self, request: str) -> "_Followed | None":
        given = asked(self.runner, request)
        if given is None:
            return None
        extra = self.runner.requests[request].sampling_params.extra_args
        name = str(extra.get(NAME, request))
        found = _Followed(request=request, name=name, key=str(extra.get(ID, name)))
        try:
            spec = read_request(given, self.points)
            self.serving.add(request, prompt_ids(self.runner, request), spec)
            found.points, found.run = spec.points, spec.run
        except Exception as error:  # noqa: BLE001 - of one request, and others share the forward
            found.failure = error_line(error)
        return found

    def _forget_ended(self) -> None:
        """Forget requests that the engine has dropped, once many wait to be taken."""
        alive = self.runner.requests
        if len(self._followed) <= MOST_WAITING + len(alive):
            return
        ended = [id for id in self._followed if id not in alive]
        for id in ended:
            if self._followed[id] is None:
                del self._followed[id]
        kept = [found for id in ended if (found := self._followed.get(id)) is not None]
        waiting = [each for each in kept if each.failure is not DROPPED]
        for each in waiting[: max(0, len(waiting) - MOST_WAITING)]:
            self.serving.abort(each.request)
            each.points, each.failure = frozenset(), DROPPED
        dropped = [each for each in kept if each.failure is DROPPED]
        for each in dropped[: max(0, len(dropped) - MOST_DROPPED)]:
            del self._followed[each.request]

    def _visit(self, point: str, rows: Tensor) -> Tensor | None:
        return self.serving.at(point, rows)


@attrs.define(eq=False, kw_only=True)
class _Followed:
    """A request that asks for something."""

    request: str
    """The engine's own id of it."""
    name: str
    """What it was called when it came: prompts of one call are numbered."""
    key: str
    """What its answer is asked for by."""
    points: frozenset[str] = frozenset()
    run: bool = False
    """Whether its rows are to be written to a run."""
    failure: str | None = None
    """Why it could not be followed."""

    @property
    def order(self) -> tuple[int, int]:
        """The number of its prompt, and of its answer among those to the prompt."""
        number = re.search(r"-(\d+)$", self.name)
        answer = re.match(r"(\d+)_", self.request)
        is_own = self.request.startswith(self.name)
        return (
            0 if number is None else int(number[1]),
            0 if answer is None or is_own else int(answer[1]),
        )


@attrs.define(eq=False)
class _Now:
    """The forward that is going on."""

    scope: AbstractContextManager[None]
    step: Step
    requests: Sequence[str]
    """All that run in it, in the order of their rows."""
    needs_logits: bool
    is_ours: bool = attrs.field(default=False, init=False)
    """Whether logits are being computed here, and not by the engine."""
    logits: dict[int, Tensor] | None = attrs.field(default=None, init=False)
    """Changed logits by flat row, until the engine has computed its own."""

    def __attrs_post_init__(self) -> None:
        self.scope.__enter__()

    def end(self) -> None:
        """Have what the step kept count."""
        self.scope.__exit__(None, None, None)

    def drop(self) -> None:
        """Have what the step kept not count, unless it has ended."""
        with suppress(_Unfinished, RuntimeError):
            self.scope.__exit__(_Unfinished, _Unfinished(), None)


class _Unfinished(Exception):
    """A forward did not come to its end."""


def is_dummy() -> bool:
    """Whether the engine runs its model on nothing, to measure or to warm up."""
    forwards: Any = import_module("vllm.forward_context")
    if not forwards.is_forward_context_available():
        return True
    return not forwards.get_forward_context().attn_metadata
