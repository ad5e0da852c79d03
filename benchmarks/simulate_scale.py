"""How does the cost of a capture grow from 1 to 10,000 workers, and where does it break?

A discrete-event simulation, of no model and no disk: what it says follows from its inputs alone,
whose defaults `docs/explanation/scale.md` goes through. A run is simulated like this:

1. One worker plans, for `planning` seconds, before the others begin.
2. A worker begins: it loads the model (`loading`), and looks which units are committed, `listing`
   seconds for each.
3. It is handed a unit, by a driver that takes `handing` seconds for each and serves one at a time.
4. It computes the unit: `unit_seconds` in the mean, log-normal with the coefficient of variation
   `spread`, or drawn from `unit_times`, as measured; a share `slow` of the workers takes
   `slow_factor` times as long. It writes as it computes, as on an accelerator, or with
   `overlap=False` after it. All who write share `disk` bytes a second alike, and none has more
   than `link`.
5. It commits, for `commit` seconds.
6. It dies after an exponential time of mean `life`: its unit is handed out again, and another
   worker begins at 2 in its place, `replacing` seconds later.

`--workers 64 1024 --life 3600` change inputs, `--run STORE/runs/ID` takes the times of the units of
a run that was captured, and `--json` prints all that there is.
"""

import argparse
import heapq
import itertools
import json
import math
import random
from typing import Any

import attrs

NEVER = math.inf
COUNTS = (1, 10, 100, 1000, 10_000)
ROWS = 32_768


@attrs.frozen(kw_only=True)
class Inputs:
    """What is simulated: seconds, bytes, and bytes a second."""

    units: int = -(-(10**9) // ROWS)
    unit_bytes: float = ROWS * 8 * 8192 * 2.0
    unit_seconds: float = ROWS / 5000
    spread: float = 0.1
    unit_times: tuple[float, ...] = ()
    slow: float = 0.01
    slow_factor: float = 2.0
    overlap: bool = True
    disk: float = 50e9
    link: float = 2e9
    commit: float = 0.1
    planning: float = 2000.0
    loading: float = 120.0
    listing: float = 5e-6
    handing: float = 1e-3
    life: float = 24 * 3600.0
    replacing: float = 60.0
    seed: int = 0


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of it; seconds."""

    workers: int
    seconds: float
    """From the beginning of the plan to the last commit."""
    planning: float
    """What all of them waited for the plan."""
    computed: float
    """Forwards whose rows were committed, of all workers together."""
    wasted: float
    """What workers spent on units that they died with."""
    starting: float
    """What they spent until they could ask for a unit."""
    writing: float
    """What they waited for the disk, with nothing else to do."""
    waiting: float
    """What they waited for the driver, or had no unit while others were at work."""
    deaths: int
    bytes_per_second: float
    """Written in the mean, once the plan is made."""

    @property
    def efficiency(self) -> float:
        """The share of all workers' time that is in the run."""
        return self.computed / (self.workers * self.seconds)


class _Disk:
    """Bytes a second that all who write share alike; none of them has more than its link.

    All have the same rate at any time, so one number tells how far each is: the bytes that somebody
    who had been writing since the beginning would have written.
    """

    def __init__(self, total: float, link: float) -> None:
        self._total, self._link = total, link
        self._written, self._now = 0.0, 0.0
        self._ends: list[tuple[float, int]] = []
        self._writers: set[int] = set()

    def _rate(self) -> float:
        return min(self._link, self._total / max(len(self._writers), 1))

    def _advance(self, now: float) -> None:
        if self._writers and self._rate() < NEVER:
            self._written += (now - self._now) * self._rate()
        self._now = now

    def begin(self, now: float, job: int, size: float) -> None:
        """A job begins to write so many bytes."""
        self._advance(now)
        heapq.heappush(self._ends, (self._written + size, job))
        self._writers.add(job)

    def drop(self, now: float, job: int) -> None:
        """It ends before it is done."""
        self._advance(now)
        self._writers.discard(job)

    def next(self) -> tuple[float, int]:
        """Return when the next is done, and which it is; `NEVER` where nobody writes."""
        while self._ends and self._ends[0][1] not in self._writers:
            heapq.heappop(self._ends)
        if not self._ends:
            return NEVER, -1
        end, job = self._ends[0]
        wait = 0.0 if self._rate() == NEVER else max(end - self._written, 0.0) / self._rate()
        return self._now + wait, job


@attrs.define
class _Worker:
    """A worker, as one that died and those that came in its place."""

    number: int
    is_slow: bool
    life: int = 0
    """How many died here: what was to happen to one that did happens no more."""
    job: int | None = None
    """The unit at hand, by a number of its own each time it is handed out."""
    since: float = 0.0
    """When what it does began."""
    seconds: float = 0.0
    """Of the unit's forwards."""
    parts: int = 0
    """What of the unit is not done: computing, and writing."""


class Simulation:
    """One run by so many workers."""

    def __init__(self, inputs: Inputs, workers: int) -> None:
        self._in, self._random = inputs, random.Random(inputs.seed)
        self._disk = _Disk(inputs.disk, inputs.link)
        chance = self._random.random
        self._workers = [_Worker(n, chance() < inputs.slow) for n in range(workers)]
        self._events: list[tuple[float, int, str, int, int]] = []
        self._order, self._jobs = itertools.count(), itertools.count()
        self._owner: dict[int, _Worker] = {}
        self._idle: list[_Worker] = []
        self._left, self._done = inputs.units, 0
        self._driver = 0.0
        self._deaths = 0
        self._spent = dict.fromkeys(("computed", "wasted", "starting", "writing", "waiting"), 0.0)

    def run(self) -> Outcome:
        """Simulate it."""
        now = began = self._in.planning
        for worker in self._workers:
            self._plan(now, "begin", worker)
        while self._done < self._in.units:
            ends, job = self._disk.next()
            if self._events and self._events[0][0] <= ends:
                now, _, what, number, life = heapq.heappop(self._events)
                worker = self._workers[number]
                if worker.life == life:
                    getattr(self, f"_{what}")(now, worker)
            else:
                now = ends
                self._disk.drop(now, job)
                self._part_done(now, self._owner[job])
        for worker in self._idle:
            self._spent["waiting"] += now - worker.since
        total = self._in.units * self._in.unit_bytes
        return Outcome(
            workers=len(self._workers),
            seconds=now,
            planning=began * len(self._workers),
            deaths=self._deaths,
            bytes_per_second=total / (now - began),
            **self._spent,
        )

    def _plan(self, when: float, what: str, worker: _Worker) -> None:
        event = when, next(self._order), what, worker.number, worker.life
        heapq.heappush(self._events, event)

    def _begin(self, now: float, worker: _Worker) -> None:
        if self._in.life < NEVER:
            self._plan(now + self._random.expovariate(1 / self._in.life), "die", worker)
        worker.since = now
        self._plan(now + self._in.loading + self._in.listing * self._done, "ready", worker)

    def _ready(self, now: float, worker: _Worker) -> None:
        self._spent["starting"] += now - worker.since
        self._ask(now, worker)

    def _ask(self, now: float, worker: _Worker) -> None:
        worker.since = now
        if not self._left:
            self._idle.append(worker)
            return
        self._left -= 1
        worker.job = next(self._jobs)
        self._driver = max(now, self._driver) + self._in.handing
        self._plan(self._driver, "compute", worker)

    def _compute(self, now: float, worker: _Worker) -> None:
        assert worker.job is not None
        self._spent["waiting"] += now - worker.since
        worker.since, worker.parts = now, 2
        worker.seconds = self._draw() * (self._in.slow_factor if worker.is_slow else 1.0)
        self._owner[worker.job] = worker
        self._plan(now + worker.seconds, "computed", worker)
        if self._in.overlap:
            self._disk.begin(now, worker.job, self._in.unit_bytes)

    def _computed(self, now: float, worker: _Worker) -> None:
        assert worker.job is not None
        if not self._in.overlap:
            self._disk.begin(now, worker.job, self._in.unit_bytes)
        self._part_done(now, worker)

    def _part_done(self, now: float, worker: _Worker) -> None:
        worker.parts -= 1
        if not worker.parts:
            self._plan(now + self._in.commit, "committed", worker)

    def _committed(self, now: float, worker: _Worker) -> None:
        self._done += 1
        self._spent["computed"] += worker.seconds
        wrote = now - self._in.commit - worker.since - worker.seconds
        self._spent["writing"] += max(wrote, 0.0)
        self._let_go(worker)
        if self._done < self._in.units:
            self._ask(now, worker)

    def _die(self, now: float, worker: _Worker) -> None:
        self._deaths += 1
        if worker.job is not None:
            self._spent["wasted"] += now - worker.since
            self._disk.drop(now, worker.job)
            self._let_go(worker)
            self._left += 1
            if self._idle:
                other = self._idle.pop()
                self._spent["waiting"] += now - other.since
                self._ask(now, other)
        elif worker in self._idle:
            self._idle.remove(worker)
            self._spent["waiting"] += now - worker.since
        else:
            self._spent["starting"] += now - worker.since
        worker.life += 1
        self._plan(now + self._in.replacing, "begin", worker)

    def _let_go(self, worker: _Worker) -> None:
        assert worker.job is not None
        self._owner.pop(worker.job, None)
        worker.job = None

    def _draw(self) -> float:
        if self._in.unit_times:
            return self._random.choice(self._in.unit_times)
        variance = math.log1p(self._in.spread**2)
        return self._in.unit_seconds * math.exp(
            self._random.gauss(-variance / 2, math.sqrt(variance))
        )


def simulate(inputs: Inputs, workers: int) -> Outcome:
    """Return what comes of a run by so many workers."""
    return Simulation(inputs, workers).run()


def measured_times(place: str) -> tuple[float, ...]:
    """Return the seconds of the whole units of a run that was captured."""
    from tenterhook_store import find_run

    store, run_id = find_run(place, None)
    run = store.run(run_id)
    units = run.recent(10_000)["units"]
    return tuple(each["seconds"] for each in units if each["rows"] == run.plan.rows_per_unit)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes, one a line; shares are of all workers' time."""
    parts = ("planning", "starting", "writing", "waiting", "wasted")
    heads = ("workers", "hours", "in the run", *parts)
    lines = ["".join(f"{head:>11}" for head in (*heads, "deaths", "GB/s"))]
    for each in outcomes:
        whole = each.workers * each.seconds
        shares = [each.computed, *(getattr(each, part) for part in parts)]
        cells = [f"{each.workers:,}", f"{each.seconds / 3600:.2f}"]
        cells += [f"{100 * share / whole:.1f} %" for share in shares]
        cells += [f"{each.deaths:,}", f"{each.bytes_per_second / 1e9:.1f}"]
        lines.append("".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a capture by many workers.")
    parser.add_argument("--workers", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--run", help="STORE/runs/ID: take the times of its units.")
    parser.add_argument("--after", action="store_true", help="Write after computing.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    settings = {"unit_times", "overlap"}
    fields = [each for each in attrs.fields(Inputs) if each.name not in settings]
    for field in fields:
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(field.default), default=field.default)
    words = vars(parser.parse_args())
    given: dict[str, Any] = {field.name: words[field.name] for field in fields}
    given["overlap"] = not words["after"]
    if words["run"]:
        given["unit_times"] = measured_times(words["run"])
    if words["quick"]:
        words["workers"], given["units"] = (1, 10), 50
    outcomes = [simulate(Inputs(**given), count) for count in words["workers"]]
    if words["json"]:
        print(json.dumps([attrs.asdict(each) for each in outcomes], indent=2))
    else:
        print(table(outcomes))


if __name__ == "__main__":
    main()
