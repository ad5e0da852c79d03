"""Random requests, and random schedules of a `BatchingEngine`."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.testing.engine import BatchingEngine, Settings

SELECTIONS: Sequence[Mapping[str, Any] | None] = (
    None,
    {"tokens": "last"},
    {"tokens": -2},
    {"tokens": [0, 2, 5]},
    {"tokens": "1:4"},
    {"tokens": "::2"},
    {"tokens": "-3:"},
    {"tokens": "prompt"},
    {"tokens": [[0, -1]]},
    {"phase": "prompt"},
    {"phase": "generated"},
    {"phase": "generated", "tokens": "4:"},
    {"features": "1:3"},
    {"tokens": "2:", "features": [0, 3]},
)
"""Of each kind that means the same in one forward of the whole text."""


@attrs.frozen(kw_only=True)
class Asked:
    """A request, as its user gives it."""

    prompt: Sequence[int]
    most: int
    """Tokens to generate."""
    table: Mapping[str, Any] | None = None
    """What stands in `extra_args["tenterhook"]`; `None` for nothing."""
    aborts: bool = False
    """Whether its user goes away before the end."""


def random_requests(
    generator: random.Random,
    points: ServedPoints,
    *,
    vocabulary: int,
    count: int = 6,
    longest: int = 24,
    size: float = 1.5,
) -> list[Asked]:
    """Return requests some of whose texts begin alike, some of which ask for the same.

    Prompts have at most `longest` tokens; `size` is how large the numbers of a vector are.
    """
    beginnings = [_ids(generator, vocabulary, generator.randrange(longest)) for _ in range(2)]
    changes = [_hooks(generator, points, size) for _ in range(2)]
    found = []
    for _ in range(count):
        beginning = generator.choice([*beginnings, []])[: longest - 1]
        rest = generator.randint(1, longest - len(beginning))
        table: dict[str, Any] = {}
        if generator.random() < 0.6:
            table["hooks"] = generator.choice(changes)
        if generator.random() < 0.6:
            names = list(points.widths)
            table["capture"] = generator.sample(names, generator.randint(1, min(3, len(names))))
        selection = generator.choice(SELECTIONS)
        if table and selection is not None:
            table["selection"] = dict(selection)
        found.append(
            Asked(
                prompt=[*beginning, *_ids(generator, vocabulary, min(rest, 6))],
                most=generator.randint(1, 8),
                table=table or None,
                aborts=generator.random() < 0.1,
            )
        )
    return found


def _ids(generator: random.Random, vocabulary: int, count: int) -> list[int]:
    return [generator.randrange(vocabulary) for _ in range(count)]


def _hooks(generator: random.Random, points: ServedPoints, size: float) -> list[dict[str, Any]]:
    found = []
    for _ in range(generator.randint(1, 2)):
        layer = generator.choice([each for each in points.widths if each != "logits"])
        width = points.widths[layer]
        vector = [generator.gauss(0, size) for _ in range(width)]
        hook: dict[str, Any] = generator.choice(
            [
                {"hook": "AddVector", "parameters": {"vector": vector}},
                {"hook": "Scale", "parameters": {"factor": generator.choice([0.5, -1.0])}},
                {"hook": "ProjectOut", "parameters": {"directions": vector}},
                {"hook": "ZeroAblate"},
            ]
        )
        selection = generator.choice([None, *SELECTIONS])
        if selection is not None:
            hook = {**hook, "selection": dict(selection)}
        found.append({"layer": layer, **hook})
    return found


@attrs.frozen(kw_only=True)
class Schedule:
    """How a `BatchingEngine` is driven: how large it is, and what happens in which order."""

    seed: int
    settings: Settings

    @classmethod
    def of(cls, seed: int) -> "Schedule":
        """Return the schedule of a seed."""
        generator = random.Random(f"settings {seed}")
        size = generator.choice([2, 3, 4, 8])
        return cls(
            seed=seed,
            settings=Settings(
                blocks=generator.choice([52, 60, 90, 400]) // size,
                block_size=size,
                running=generator.randint(1, 8),
                share=generator.random() < 0.8,
                padding=generator.choice([0, 0, 1]),
                late=generator.random() < 0.3,
            ),
        )

    def drive(self, engine: BatchingEngine, names: Sequence[str], submit: Any) -> list[str]:
        """Run an engine until it is idle; `submit(name)` is called for each name in its time.

        Returns the names that were aborted of those that begin with `abort`.
        """
        generator = random.Random(f"steps {self.seed}")
        left, aborted = list(names), list[str]()
        while left or engine.busy:
            while left and generator.random() < 0.5:
                submit(left.pop(0))
            if generator.random() < 0.05:
                engine.preempt()
            drafts = [generator.randrange(32) for _ in range(generator.choice([0, 0, 1, 3]))]
            engine.run_step(generator.choice([1, 2, 5, 16, 64]), drafts)
            over = {*left, *aborted, *engine.texts}
            for name in [each for each in names if each.startswith("abort") and each not in over]:
                if generator.random() < 0.2:
                    engine.abort(name)
                    aborted.append(name)
        return aborted
