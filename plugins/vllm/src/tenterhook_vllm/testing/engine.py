"""A small engine that batches continuously, for tests of what is driven by one.

It does what large engines do, each where they do it:

- a step has at most so many tokens: long prompts go in by chunks, beside others' new tokens;
- keys and values lie in blocks of a cache; where no block is free, the request that came last is
  preempted: it gives its blocks back, waits, and is computed again;
- a full block stays in the cache under the tokens up to its end, and their salt, until its place is
  needed: a request whose text begins so takes the block and does not compute it;
- drafts are checked several at once, and those that are wrong are rejected;
- a request may be noticed to be over one step late, when its last token was fed already.

It picks the likeliest token. A schedule is what it is told by `run_step`; nothing in it is random.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_vllm.request_specs import RequestSpec
from tenterhook_vllm.serving import Answer, Serving
from tenterhook_vllm.steps import Rows, Step
from tenterhook_vllm.testing.model import BLOCKS, WIDTH, TinyModel, tiny_points


@attrs.frozen(kw_only=True)
class Settings:
    """How large the engine is."""

    blocks: int = 64
    """Of the cache."""
    block_size: int = 4
    """Tokens of a block."""
    running: int = 8
    """Requests that may be in a step."""
    share: bool = True
    """Whether cached prefixes are shared."""
    padding: int = 0
    """Rows of no request between each two and at the end of a step, as graphs need them."""
    late: bool = False
    """Whether a request is noticed to be over one step late."""


@attrs.define(eq=False)
class _Request:
    name: str
    prompt: list[int]
    most: int
    """Tokens to generate."""
    salt: Hashable
    ids: list[int] = attrs.field(init=False)
    computed: int = 0
    """Tokens whose keys and values lie in its blocks."""
    blocks: list[int] = attrs.field(factory=list)
    draft: list[int] = attrs.field(factory=list)
    over: bool = False
    preempted: int = 0

    @ids.default
    def _ids(self) -> list[int]:
        return list(self.prompt)

    @property
    def generated(self) -> int:
        return len(self.ids) - len(self.prompt)


class _Cache:
    """Blocks of keys and values: those in use, and those that wait under what they hold."""

    def __init__(self, count: int) -> None:
        self._users = [0] * count
        self._free = OrderedDict[int, None].fromkeys(range(count))
        """In the order in which their places are given away."""
        self._named: dict[Hashable, int] = {}
        self._names: dict[int, Hashable] = {}

    def take(self) -> int | None:
        """Return a block that nobody uses, whatever it holds; `None` where there is none."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        self._named.pop(self._names.pop(block, None), None)
        self._users[block] = 1
        return block

    def find(self, name: Hashable) -> int | None:
        """Return the block that holds what the name says, in use from now on."""
        block = self._named.get(name)
        if block is not None:
            self._free.pop(block, None)
            self._users[block] += 1
        return block

    def name(self, block: int, name: Hashable) -> None:
        """Have a full block be found, unless another one is found by the name."""
        if name not in self._named and block not in self._names:
            self._named[name], self._names[block] = block, name

    def give_back(self, blocks: Sequence[int]) -> None:
        """Stop using blocks; the last of a text goes first."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None


class BatchingEngine:
    """Runs requests on a `TinyModel`, and what they ask for through a `Serving`."""

    def __init__(self, model: TinyModel, settings: Settings | None = None) -> None:
        self.serving = Serving(tiny_points())
        self.answers: dict[str, Answer | Exception] = {}
        """Of finished requests that ask for something: their answer, or what it raised."""
        self.texts: dict[str, list[int]] = {}
        """Of finished requests: their ids, prompt first."""
        self.computed = 0
        """Tokens that went through the model; those of a cached prefix do not."""
        self.cached = 0
        """Tokens that did not, for their state was taken from the cache."""
        self.preemptions = 0
        self._model, self._settings = model, settings or Settings()
        size = self._settings.blocks * self._settings.block_size
        self._kv = torch.zeros(BLOCKS, 2, size + 1, WIDTH, dtype=torch.float64)
        self._cache = _Cache(self._settings.blocks)
        self._waiting: list[_Request] = []
        self._running: list[_Request] = []

    @property
    def busy(self) -> bool:
        """Whether any request is not over."""
        return bool(self._waiting or self._running)

    def submit(
        self,
        name: str,
        prompt: Sequence[int],
        most: int,
        spec: RequestSpec | None = None,
        *,
        salt: Hashable = None,
    ) -> None:
        """Have a request wait for its turn; `salt` is its spec's unless given."""
        if spec is not None:
            self.serving.add(name, prompt, spec)
            salt = spec.salt(prompt) if salt is None else salt
        self._waiting.append(_Request(name, list(prompt), most, salt))

    def abort(self, name: str) -> None:
        """Forget a request, if it is not over."""
        for queue in (self._waiting, self._running):
            for each in [each for each in queue if each.name == name]:
                queue.remove(each)
                self._cache.give_back(each.blocks)
        self.serving.abort(name)

    def preempt(self) -> None:
        """Send away the running request that came last, as where no block is free."""
        if self._running:
            request = self._running.pop()
            self._cache.give_back(request.blocks)
            request.blocks, request.computed, request.draft = [], 0, []
            self._waiting.insert(0, request)
            self.preemptions += 1

    def run(self, budget: int = 16) -> None:
        """Run steps until all requests are over."""
        while self.busy:
            self.run_step(budget)

    def run_step(self, budget: int = 16, drafts: Sequence[int] = ()) -> None:
        """Run one step of at most `budget` tokens; `drafts` follow each request's new token."""
        scheduled = self._scheduled(budget, list(drafts))
        if not scheduled:
            return
        logits = self._forward(scheduled)
        for request, rows in scheduled:
            self._sample(request, logits[rows.first : rows.stop], rows)
        for request in [each for each in self._running if each.over]:
            self._finish(request)

    def _scheduled(self, budget: int, drafts: list[int]) -> list[tuple[_Request, Rows]]:
        """Choose requests and tokens: running ones first, then those that wait."""
        chosen: list[tuple[_Request, int]] = []
        for request in list(self._running):
            if request not in self._running or budget == 0:  # it was preempted for another's sake
                continue
            left = len(request.ids) - request.computed
            room = request.most - request.generated - 1
            request.draft = drafts[: max(0, min(room, budget - 1))] if left == 1 else []
            count = min(left + len(request.draft), budget)
            while not self._allocate(request, request.computed + count):
                self.preempt()
                if request not in self._running:
                    break
            else:
                chosen.append((request, count))
                budget -= count
        chosen = [each for each in chosen if each[0] in self._running]
        while self._waiting and budget and len(self._running) < self._settings.running:
            request = self._waiting[0]
            self._take_cached(request)
            count = min(len(request.ids) - request.computed, budget)
            if not self._allocate(request, request.computed + count):
                self._cache.give_back(request.blocks)
                request.blocks, request.computed = [], 0
                if not self._running:
                    raise RuntimeError(f"The cache has no room for request {request.name!r}.")
                break
            self._running.append(self._waiting.pop(0))
            self.cached += request.computed
            chosen.append((request, count))
            budget -= count
        scheduled, row = [], 0
        for request, count in chosen:
            start = request.computed
            ids = [*request.ids, *request.draft][start : start + count]
            scheduled.append((request, Rows(request.name, row, start, ids)))
            row += count + self._settings.padding
        return scheduled

    def _take_cached(self, request: _Request) -> None:
        """Take the blocks that hold the beginning of the text; one token is left to compute."""
        size = self._settings.block_size
        for end in range(size, len(request.ids), size):
            name = (request.salt, *request.ids[:end])
            block = self._cache.find(name) if self._settings.share else None
            if block is None:
                return
            request.blocks.append(block)
            request.computed = end

    def _allocate(self, request: _Request, tokens: int) -> bool:
        """Have the request's blocks hold so many tokens; say whether there was room."""
        while len(request.blocks) * self._settings.block_size < tokens:
            block = self._cache.take()
            if block is None:
                return False
            request.blocks.append(block)
        return True

    def _slots(self, request: _Request, start: int, stop: int) -> Tensor:
        size = self._settings.block_size
        places = [request.blocks[at // size] * size + at % size for at in range(start, stop)]
        return torch.tensor(places, dtype=torch.long)

    def _forward(self, scheduled: Sequence[tuple[_Request, Rows]]) -> Tensor:
        """Run the model on one flat batch; rows of no request have id 0 and a slot of their own."""
        step = Step([rows for _, rows in scheduled])
        count = step.rows + self._settings.padding
        ids, positions = (torch.zeros(count, dtype=torch.long) for _ in range(2))
        slots = torch.full((count,), self._kv.shape[2] - 1)
        contexts = []
        for request, rows in scheduled:
            here = slice(rows.first, rows.stop)
            ids[here] = torch.tensor(rows.ids)
            positions[here] = torch.arange(rows.start, rows.end)
            slots[here] = self._slots(request, rows.start, rows.end)
            contexts.append((here, self._slots(request, 0, rows.end)))
            self.computed += len(rows.ids)
        needed = self.serving.points

        def at(point: str, rows: Tensor) -> Tensor:
            new = self.serving.at(point, rows) if point in needed else None
            return rows if new is None else new

        with self.serving.step(step):
            return self._model.step(ids, positions, slots, contexts, self._kv, at)

    def _sample(self, request: _Request, logits: Tensor, rows: Rows) -> None:
        """Take the likeliest tokens, of drafts those that are; name the blocks that are full."""
        next_ids = logits.argmax(-1).tolist()
        known = len(request.ids)
        request.computed = min(rows.end, known)
        if rows.end >= known and request.generated == request.most:  # found to be over late
            request.over = True
        elif rows.end >= known:
            at = known - 1 - rows.start
            request.ids.append(next_ids[at])
            for draft in request.draft:
                if draft != request.ids[-1]:
                    break
                at += 1
                request.computed += 1
                request.ids.append(next_ids[at])
            request.over = request.generated == request.most and not self._settings.late
        request.draft = []
        size = self._settings.block_size
        for end in range(size, request.computed + 1, size):
            self._cache.name(request.blocks[end // size - 1], (request.salt, *request.ids[:end]))

    def _finish(self, request: _Request) -> None:
        self._running.remove(request)
        self._cache.give_back(request.blocks)
        self.texts[request.name] = request.ids
        if request.name in self.serving:
            try:
                self.answers[request.name] = self.serving.finish(request.name, request.ids)
            except RuntimeError as error:
                self.answers[request.name] = error
