"""One request through the steps of an engine: what is changed, kept, counted, and refused."""

import contextlib
import json
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook import HookError
from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
from tenterhook.plugins import PluginManager
from tenterhook_edits import AddVector
from tenterhook_selections import Roles, Seen
from tenterhook_vllm import (
    Answer,
    DuplicateRequest,
    NothingChanged,
    NothingSelected,
    NotInStep,
    OtherTokens,
    RequestSpec,
    RowsMissing,
    SelectionFailed,
    ServedPoints,
    Serving,
    Step,
    UnknownRequest,
    WrongRows,
    read_request,
)

WIDTH = 3
POINTS = ServedPoints({"a": WIDTH, "b": WIDTH}, torch.float64)
ONES = {"hook": "AddVector", "layer": "a", "parameters": {"vector": [1.0] * WIDTH}}
PROMPT = [5, 6, 7, 8]


def spec(**table: Any) -> RequestSpec:
    """Read what a request asks for."""
    return read_request(table, POINTS)


def rows_of(step: Step) -> Tensor:
    """Return rows that say whose they are: the id and the position of each token, and 1."""
    found = torch.zeros(step.rows, WIDTH, dtype=torch.float64)
    for part in step.parts:
        for at, id in enumerate(part.ids):
            found[part.first + at] = torch.tensor([id, part.start + at, 1.0])
    return found


def run(serving: Serving, *scheduled: tuple[str, int, Sequence[int]]) -> Tensor:
    """Run one step through all points in use; return what point `a` went on with."""
    step = Step.of(scheduled)
    rows = rows_of(step)
    with serving.step(step):
        made = [serving.at(point, rows) for point in sorted(serving.points)]
    return rows if not made or made[0] is None else made[0]


def served(spec: RequestSpec, *steps: tuple[int, Sequence[int]], ids: Any = None) -> Answer:
    """Return what a request has to show after these steps, a start and ids each."""
    serving = Serving(POINTS)
    serving.add("r", PROMPT, spec)
    for start, given in steps:
        run(serving, ("r", start, given))
    return serving.finish("r", ids)


class TestRows:
    """Captured rows: each token once, in order."""

    @pytest.mark.parametrize(
        "steps",
        [
            [(0, PROMPT), (4, [9]), (5, [1])],
            [(0, [5]), (1, [6, 7]), (3, [8]), (4, [9]), (5, [1])],
            [(0, PROMPT), (4, [9]), (0, [5, 6]), (2, [7, 8, 9]), (5, [1])],
            [(0, PROMPT), (4, [9, 3, 3]), (5, [1, 2])],
            [(2, [7, 8]), (4, [9]), (0, [5, 6, 7]), (3, [8, 9, 1])],
        ],
        ids=["whole", "chunks", "preempted", "a rejected draft", "a prefix that comes late"],
    )
    def test_exactly_once(self, steps: list[tuple[int, list[int]]]) -> None:
        """However the text was cut, and what passed beyond its end is none of it."""
        answer = served(spec(capture=["b"]), *steps, ids=[*PROMPT, 9, 1, 2])
        assert answer.ids == [*PROMPT, 9, 1]
        assert answer.positions.tolist() == [*range(6)]
        assert answer.rows["b"][:, 0].tolist() == answer.ids
        assert answer.rows["b"][:, 1].tolist() == [*range(6)]
        assert answer.receipt is None

    def test_without_ids(self) -> None:
        """All that has passed is the text then; a text of the prompt alone has it whole."""
        asked = spec(capture=["a"])
        assert served(asked, (0, PROMPT)).ids == PROMPT
        assert served(asked, (0, PROMPT), ids=PROMPT).ids == PROMPT
        assert served(asked, (0, PROMPT), ids=[*PROMPT, 1]).ids == PROMPT

    def test_each_has_its_own(self) -> None:
        """Of requests in one batch, among rows of nobody."""
        serving = Serving(POINTS)
        serving.add("x", PROMPT, spec(capture=["a"], selection={"tokens": "1:"}))
        serving.add("y", [1, 2], spec(capture=["b"], selection={"features": [2, 0]}))
        run(serving, ("other", 7, [3, 3]), ("y", 0, [1, 2]), ("x", 0, PROMPT))
        assert serving.points == {"a", "b"}
        assert (len(serving), "x" in serving, "other" in serving) == (2, True, False)
        assert serving.finish("x").rows["a"][:, 0].tolist() == [6, 7, 8]
        assert serving.points == {"b"}
        assert serving.finish("y").rows["b"].tolist() == [[1, 1], [1, 2]]

    def test_a_step_that_fails(self) -> None:
        """Has not been: its tokens are fresh when they come again."""
        serving = Serving(POINTS)
        serving.add("r", PROMPT, spec(capture=["b"], hooks=[ONES]))
        step = Step.of([("r", 0, PROMPT)])
        with contextlib.suppress(ZeroDivisionError), serving.step(step):
            serving.at("b", rows_of(step) + 100)
            serving.at("a", rows_of(step))
            raise ZeroDivisionError
        run(serving, ("r", 0, PROMPT))
        answer = serving.finish("r")
        assert answer.rows["b"][:, 0].tolist() == PROMPT
        assert answer.receipt is not None
        assert answer.receipt.tokens == 4

    def test_some_rows_alone(self) -> None:
        """A point that has but some of the rows says which; the others are missing."""
        serving = Serving(POINTS)
        serving.add("r", PROMPT, spec(capture=["a"], selection={"tokens": "last"}, hooks=[ONES]))
        step = Step.of([("other", 0, [1, 1]), ("r", 0, PROMPT)])
        last = rows_of(step)[[1, 5]]
        with serving.step(step):
            made = serving.at("a", last, [1, 5])
        assert made is not None
        assert (made - last)[:, 0].tolist() == [0, 1]
        assert serving.finish("r").rows["a"].tolist() == [[9, 4, 2]]

    def test_kept_rows_are_copies(self) -> None:
        """An engine writes over its buffers."""
        serving = Serving(POINTS, device=None)
        serving.add("r", PROMPT, spec(capture=["a"]))
        step = Step.of([("r", 0, PROMPT)])
        rows = rows_of(step)
        with serving.step(step):
            serving.at("a", rows)
            rows.zero_()
        assert serving.finish("r").rows["a"][:, 0].tolist() == PROMPT


class TestChanges:
    """Changed rows: those that are selected, each time they pass."""

    @pytest.mark.parametrize(
        ("words", "changed"),
        [
            ({}, [0, 1, 2, 3, 4, 5]),
            ({"tokens": "last"}, [3, 4, 5]),
            ({"tokens": -2}, [2]),
            ({"phase": "generated"}, [4, 5]),
            ({"tokens": f"1:{10**30}"}, [1, 2, 3, 4, 5]),
            ({"tokens": f"-{10**30}:2"}, [0, 1]),
            ({"tokens": "prompt"}, [0, 1, 2, 3]),
            ({"tokens": [[True, False, True, False]]}, [0, 2]),
            ({"step": 0}, [0, 1, 2, 3]),
            ({"step": [1]}, [4]),
            ({"step": "1:"}, [4, 5]),
            ({"every": 2}, [0, 1, 2, 3, 5]),
            ({"tokens": "user"}, [1, 2]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("chunk", [1, 3, 4])
    def test_which(self, words: dict[str, Any], changed: list[int], chunk: int) -> None:
        """The same tokens whatever the chunks of the prompt, and again when they are recomputed."""
        serving, text = Serving(POINTS), [*PROMPT, 9, 1]
        roles = Roles(ids=PROMPT, names=[None, "user", "user", None])
        serving.add("r", PROMPT, spec(hooks=[ONES], selection=words), roles=roles)
        found: dict[int, float] = {}
        steps = [(at, PROMPT[at : at + chunk]) for at in range(0, 4, chunk)]
        for start, ids in [*steps, (4, [9]), (0, [*PROMPT, 9]), (5, [1])]:
            step = Step.of([("r", start, ids)])
            made = run(serving, ("r", start, ids)) - rows_of(step)
            for at, row in enumerate(made):
                assert found.setdefault(start + at, float(row[0])) == row[0]
        assert [at for at in range(6) if found[at]] == changed
        receipt = serving.finish("r", [*text, 2]).receipt
        assert receipt is not None
        assert receipt.tokens == len(changed)

    def test_receipt(self) -> None:
        """How many tokens, each once, and how much of what was there."""
        words = {"tokens": "2:", "features": 1}
        other = {"hook": "Scale", "layer": "a", "parameters": {"factor": 3.0},
                 "selection": {"tokens": 0}}  # fmt: skip
        asked = spec(hooks=[ONES, other, other], selection=words)
        receipt = served(asked, (0, PROMPT), (0, PROMPT)).receipt
        assert receipt is not None
        first, second, third = receipt.hooks
        assert (first.hook, first.point, first.tokens, first.cached) == ("AddVector", "a", 2, 0)
        assert first.change == pytest.approx((2 / (4 + 9)) ** 0.5)
        assert second.change == third.change == pytest.approx(2)
        assert receipt.tokens == 3
        assert json.loads(json.dumps(receipt.plain()))["hooks"][0]["tokens"] == 2

    def test_of_nothing(self) -> None:
        """A change of zeros is infinite, which JSON cannot say."""
        asked = spec(hooks=[ONES], selection={"features": 1, "tokens": 0})
        receipt = served(asked, (0, PROMPT)).receipt
        assert receipt is not None
        assert receipt.plain()["change"] == receipt.plain()["hooks"][0]["change"] == "inf"

    def test_large_changes(self) -> None:
        """Whose squares no float32 holds."""
        points = ServedPoints({"a": WIDTH}, torch.bfloat16)
        hook = {"hook": "AddVector", "layer": "a", "parameters": {"vector": [1e38] * WIDTH}}
        serving = Serving(points)
        serving.add("r", [1], read_request({"hooks": [hook]}, points))
        with serving.step(Step.of([("r", 0, [1])])):
            serving.at("a", torch.ones(1, WIDTH, dtype=torch.bfloat16))
        receipt = serving.finish("r").receipt
        assert receipt is not None
        assert receipt.change == pytest.approx(1e38, rel=0.01)

    def test_a_cached_prefix(self) -> None:
        """Tokens that another request of the same salt had changed are changed, and so counted."""
        asked = spec(hooks=[ONES])
        receipt = served(asked, (3, [8])).receipt
        assert receipt is not None
        assert (receipt.tokens, receipt.hooks[0].cached) == (4, 3)
        receipt = served(spec(hooks=[ONES], selection={"tokens": 0}), (3, [8])).receipt
        assert receipt is not None
        assert (receipt.tokens, receipt.change) == (1, None)

    def test_rows_given_stay(self) -> None:
        """What an engine gives is not written to, and rows of others are what they were."""
        serving = Serving(POINTS)
        serving.add("r", PROMPT, spec(hooks=[ONES]))
        step = Step.of([("other", 0, [1]), ("r", 0, PROMPT)])
        rows = torch.cat([rows_of(step), torch.full((2, WIDTH), 4.0, dtype=torch.float64)])
        before = rows.clone()
        with serving.step(step):
            made = serving.at("a", rows)
            assert serving.at("b", rows) is None
        assert made is not None
        assert torch.equal(rows, before)
        assert torch.equal(made[[0, 5, 6]], before[[0, 5, 6]])
        assert torch.equal(made[1:5], before[1:5] + 1)

    def test_a_hook_that_fails(self) -> None:
        """Ends its request and leaves the others alone."""

        class Once(AddVector):
            def function(self, activation: Tensor) -> Tensor | None:
                if activation[0, 0, 0] != 1.0:
                    raise ArithmeticError("too far")
                return activation * 2

        odd = read_request({"hooks": [ONES]}, POINTS, hooks={"AddVector": Once})
        serving = Serving(POINTS)
        serving.add("x", PROMPT, odd)
        serving.add("y", PROMPT, spec(hooks=[ONES]))
        made = run(serving, ("x", 0, PROMPT), ("y", 0, PROMPT))
        assert made[:, 0].tolist() == [*PROMPT, *(each + 1 for each in PROMPT)]
        with pytest.raises(HookError, match=r"Layer 'a': AddVector .*ArithmeticError: too far"):
            serving.finish("x")
        assert serving.finish("y").receipt is not None
        assert len(serving) == 0


class TestMistakes:
    """What an engine, or whoever drives it, gets wrong is said, and by whom."""

    def test_ids_of_requests(self) -> None:
        """One is there from `add` to `finish` or `abort`."""
        serving = Serving(POINTS)
        serving.add("r", PROMPT, spec(capture=["a"]))
        with pytest.raises(DuplicateRequest, match="Request 'r' is there already"):
            serving.add("r", PROMPT, spec(capture=["a"]))
        assert serving.abort("r")
        assert not serving.abort("r")
        with pytest.raises(UnknownRequest, match="'r' is not there: it was never added, or"):
            serving.finish("r")

    def test_no_token(self) -> None:
        """Nothing changed, or nothing captured, is an error."""
        far = {"tokens": 9}
        with pytest.raises(NothingSelected, match=r"AddVector at 'a' changed no token\. .*the 4 "):
            served(spec(hooks=[ONES], selection=far), (0, PROMPT), ids=[*PROMPT, 1])
        with pytest.raises(NothingSelected, match=r"capture of a kept no token.*0 generated; the"):
            served(spec(capture=["a"], selection={"phase": "generated"}), (0, PROMPT))

    def test_a_hook_that_leaves_all(self) -> None:
        """Changes no token either, and is told apart from one that matched none."""

        class Late(AddVector):
            def function(self, activation: Tensor) -> Tensor | None:
                return activation if activation[0, 0, 0] == 1 else None

        asked = read_request({"hooks": [ONES]}, POINTS, hooks={"AddVector": Late})
        with pytest.raises(NothingChanged, match="AddVector at 'a' left every token as it was"):
            served(asked, (0, PROMPT))

    def test_rows_that_never_came(self) -> None:
        """From a cache that should not have been shared, or a point that nobody called."""
        with pytest.raises(
            RowsMissing, match=r"no rows at 'a' for its tokens at 0, 1\. .* of 2 of"
        ):
            served(spec(capture=["a"]), (2, PROMPT[2:]))
        serving = Serving(POINTS)
        serving.add("r", [*range(12)], spec(capture=["a"]))
        with serving.step(Step.of([("r", 0, [*range(12)])])):
            pass
        with pytest.raises(
            RowsMissing, match=r"6, 7 and 4 more\. The engine did not run the model"
        ):
            serving.finish("r")
        serving.add("r", PROMPT, spec(hooks=[ONES]))
        with serving.step(Step.of([("r", 0, PROMPT)])):
            pass
        with pytest.raises(RowsMissing, match="skipped the point"):
            serving.finish("r")

    def test_another_text(self) -> None:
        """Rows of the wrong request are not handed out."""
        with pytest.raises(OtherTokens, match=r"had id 9 at position 1 .* and 6 in the text"):
            served(spec(capture=["a"]), (0, [5, 9, 7, 8]), ids=[*PROMPT, 1])

    @pytest.mark.parametrize("shape", [(3, WIDTH), (4, WIDTH + 1), (1, 4, WIDTH)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        """Rows are those of the step, or there are more of them."""
        serving = Serving(POINTS)
        serving.add("r", PROMPT, spec(capture=["a"]))
        with (
            pytest.raises(WrongRows, match=r"rows at 'a' have shape .* 4 rows of 3 features"),
            serving.step(Step.of([("r", 0, PROMPT)])),
        ):
            serving.at("a", torch.zeros(shape))

    def test_turns(self) -> None:
        """One step at a time, and each point once in it."""
        serving, step = Serving(POINTS), Step.of([("r", 0, PROMPT)])
        with pytest.raises(NotInStep, match=r"at\('a'\) was called outside of a step"):
            serving.at("a", rows_of(step))
        with serving.step(step):
            serving.at("a", rows_of(step))
            with pytest.raises(NotInStep, match=r"at\('a'\) was called twice in one step"):
                serving.at("a", rows_of(step))
            with pytest.raises(NotInStep, match="A step began in a step"), serving.step(step):
                pass

    def test_selections_that_fail(self) -> None:
        """For the prompt when a request comes; later, for that request alone."""
        serving = Serving(POINTS)
        mask = {"tokens": [[True] * 5]}
        with pytest.raises(ValueError, match="by a mask of 5 columns, and the model was given 4"):
            serving.add("r", PROMPT, spec(capture=["a"], selection=mask))
        with pytest.raises(ValueError, match="not known who says what"):
            serving.add("r", PROMPT, spec(capture=["a"], selection={"tokens": "user"}))
        assert len(serving) == 0


def odd_ids(seen: Seen) -> Tensor:
    """Select tokens of odd ids; fail for the id 13."""
    assert seen.ids is not None
    if bool((seen.ids == 13).any()):
        raise KeyError("13 has no side")
    return seen.ids % 2 == 1


class TestSelectors:
    """Words of plugins, which look at ids."""

    @pytest.fixture(autouse=True)
    def selector(self, monkeypatch: pytest.MonkeyPatch, plugin_manager: PluginManager) -> None:
        """Have a plugin offer one."""
        monkeypatch.setitem(sys.modules, "odd_words", SimpleNamespace(odd_ids=odd_ids))
        offered = Extension("odd-ids", "odd_words:odd_ids", "Odd ids.")
        hook = hookimpl(specname="tenterhook_selectors")(lambda: [offered])
        plugin_manager.register(SimpleNamespace(tenterhook_selectors=hook), "odd")

    def test_drafts_and_preemption(self) -> None:
        """Asked for the whole prompt, and for each token that has a place in the end."""
        asked = spec(capture=["a"], selection={"tokens": "odd-ids"})
        steps = (0, [5, 6]), (2, [7, 8]), (4, [2, 3]), (4, [9]), (0, [*PROMPT, 9]), (5, [4, 11])
        answer = served(asked, *steps, ids=[*PROMPT, 9, 4, 11, 1])
        assert answer.positions.tolist() == [0, 2, 4, 6]

    def test_one_that_fails(self) -> None:
        """Ends its request, and not the forward."""
        asked = spec(capture=["a"], selection={"tokens": "odd-ids"})
        with pytest.raises(SelectionFailed, match=r"'odd-ids'.* failed: KeyError: '13 has no"):
            served(asked, (0, PROMPT), (4, [13]), ids=[*PROMPT, 13, 1])
