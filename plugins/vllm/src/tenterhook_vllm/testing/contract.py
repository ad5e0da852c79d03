"""What must hold of an engine that serves requests, whatever it does with them in between.

Each request has the text and the rows that it would have alone, offline: one forward of its whole
text through a plain model, under the scopes of `model.hooks` and `model.capture`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import pytest
import torch
from torch import Tensor

from tenterhook import HookedModel
from tenterhook_selections import Selection, generating
from tenterhook_vllm.errors import NothingSelected
from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.request_specs import read_request
from tenterhook_vllm.serving import Answer
from tenterhook_vllm.testing.schedules import Asked, random_requests


@attrs.frozen(kw_only=True)
class Got:
    """What came of a request."""

    text: Sequence[int]
    """Ids, prompt first."""
    answer: Answer | Exception | None = None
    """`None` where it asked for nothing."""


class Driven(Protocol):
    """An engine under test."""

    points: ServedPoints
    vocabulary: int
    bound: float
    """How far rows may be from those of the plain model, through how large these are."""

    def run(self, asked: Sequence[Asked]) -> Sequence[Got | None]:
        """Run requests, as many at once as there is room for; `None` for one that was aborted."""

    def plain(self) -> tuple[HookedModel, Callable[[Tensor], Tensor]]:
        """Return a plain model whose layers have the names of the points, and what runs it.

        That takes ids `(1, tokens)` and returns logits `(1, tokens, vocabulary)`.
        """


@attrs.frozen(kw_only=True)
class Offline:
    """What a request would have alone."""

    rows: Mapping[str, Tensor]
    logits: Tensor
    """`(tokens, vocabulary)`."""
    tokens: int
    """That hooks changed, each hook's counted."""


def offline(driven: Driven, asked: Asked, text: Sequence[int]) -> Offline:
    """Run the text that an engine returned, but for its last token, in one forward."""
    model, run = driven.plain()
    table = {} if asked.table is None else asked.table
    common = dict(table.get("selection", {}))
    capture = list(table.get("capture", ()))
    spec = read_request(dict(table), driven.points) if table else None
    pairs = [(each.point, each.hook, each.selection) for each in (spec.changes if spec else ())]
    ids = torch.tensor([list(text[:-1])])
    with (
        torch.no_grad(),
        generating([len(asked.prompt)]),
        model.hooks(*pairs, missing="ignore") as hooks,
        model.capture(*capture, **common, missing="ignore") as captured,
    ):
        logits = run(ids)[0]
    rows = {}
    for point in capture:
        found = captured.by_row(point) if Selection(**common).of_tokens else captured.cat(point)
        width = driven.points.widths[point]
        features = Selection(**common).feature_index(width, torch.device("cpu"))
        width = width if features is None else len(features)
        rows[point] = found[0] if len(found) else torch.zeros(0, width)
    return Offline(rows=rows, logits=logits, tokens=hooks.tokens or 0)


def check(driven: Driven, asked: Sequence[Asked]) -> Sequence[Got | None]:
    """Run requests, compare each with what it would have alone, and return what came of them."""
    found = driven.run(asked)
    for one, got in zip(asked, found, strict=True):
        if got is None:
            assert one.aborts
            continue
        assert list(got.text[: len(one.prompt)]) == list(one.prompt)
        alone = offline(driven, one, got.text)
        _check_text(driven, one, got, alone)
        if one.table is not None:
            _check_answer(driven, one, got, alone)
    return found


def check_turns(driven: Driven, asked: Sequence[Asked], said: Sequence[int] = (1, 2)) -> None:
    """Check requests, and others that go on from their texts and ask for the same.

    What was generated is prompt then, and what was the last token is in the middle.
    """
    turns = [
        attrs.evolve(one, prompt=[*got.text, *said])
        for one, got in zip(asked, check(driven, asked), strict=True)
        if got is not None
    ]
    check(driven, turns)


def _check_text(driven: Driven, asked: Asked, got: Got, alone: Offline) -> None:
    """Each generated token is the likeliest, or as likely but for the bound."""
    first = len(asked.prompt)
    assert len(got.text) == first + asked.most
    scores = alone.logits[first - 1 :]
    chosen = scores.gather(1, torch.tensor(got.text[first:])[:, None])[:, 0]
    assert (scores.amax(1) - chosen <= driven.bound * scores.abs().amax()).all()


def _check_answer(driven: Driven, asked: Asked, got: Got, alone: Offline) -> None:
    """Rows are those of the same tokens, in order; the receipt counts what was changed."""
    table = {} if asked.table is None else asked.table
    expected = alone.rows
    is_empty = any(not len(rows) for rows in expected.values())
    if isinstance(got.answer, NothingSelected):
        spec = read_request(dict(table), driven.points)
        count = len(got.text) - 1
        assert is_empty or any(not _matched(each.selection, asked, count) for each in spec.changes)
        return
    assert isinstance(got.answer, Answer), got.answer
    assert not is_empty
    assert list(got.answer.rows) == list(expected)
    for point, rows in got.answer.rows.items():
        assert rows.shape == expected[point].shape
        off, size = (rows - expected[point]).abs().max(), expected[point].abs().max()
        assert off <= driven.bound * size, f"{point} is off by {off}, of {size}"
    receipt = got.answer.receipt
    assert (receipt is None) == ("hooks" not in table)
    if receipt is not None:
        assert sum(each.tokens for each in receipt.hooks) == alone.tokens


def _matched(selection: Selection, asked: Asked, count: int) -> bool:
    from tenterhook_vllm.chosen import Chosen

    return any(Chosen(selection, asked.prompt).at(0, [0] * count, ()))


class ServingContract:
    """Inherit and give a fixture `driven`: each request is served as if it were alone.

    class TestMyEngine(ServingContract):
        @pytest.fixture
        def driven(self):
            return MyEngine()
    """

    rounds: int = 3
    """So many batches of random requests."""
    size: float = 1.5
    """How large the numbers of a vector are: so that the text is another one, and still varied."""

    @pytest.fixture
    def driven(self) -> Driven:
        """Return the engine under test."""
        raise NotImplementedError

    def test_requests_at_once(self, driven: Driven) -> None:
        """Random ones, changed and captured in the same batches."""
        for seed in range(self.rounds):
            generator = random.Random(seed)
            asked = random_requests(
                generator, driven.points, vocabulary=driven.vocabulary, size=self.size
            )
            check_turns(driven, asked)

    def test_one_text_asked_for_in_all_ways(self, driven: Driven) -> None:
        """A prefix that is cached for one change, or for none, is not another's."""
        point = next(iter(driven.points.widths))
        width = driven.points.widths[point]
        asked = []
        for at in range(4):
            generator = random.Random(at)
            vector = [generator.gauss(0, self.size) for _ in range(width)]
            hook = {"hook": "AddVector", "layer": point, "parameters": {"vector": vector}}
            prompt = [generator.randrange(driven.vocabulary) for _ in range(12)]
            asked.append(Asked(prompt=prompt, most=8))
            for selection in ({}, {"tokens": "last"}, {"tokens": 1}, {"phase": "prompt"}):
                table: dict[str, Any] = {"hooks": [hook], "selection": selection}
                asked.append(Asked(prompt=prompt, most=8, table=table))
        check_turns(driven, asked)

    def test_captures_of_one_text(self, driven: Driven) -> None:
        """Each has all of its rows, also where the text was seen before."""
        points = list(driven.points.widths)
        prompt = [each % driven.vocabulary for each in range(3, 24)]
        asked = [
            Asked(prompt=prompt, most=3),
            *(Asked(prompt=prompt, most=3, table={"capture": [point]}) for point in points),
            Asked(prompt=prompt, most=3, table={"capture": points}),
        ]
        check(driven, asked)
