"""Whose the rows of a step are, and which tokens of a request have passed."""

import pytest

from tenterhook_vllm import Rows, Step
from tenterhook_vllm.steps import MISSING, Passed


def passed(*steps: tuple[int, list[int]]) -> tuple[Passed, list[list[int]]]:
    """Have tokens pass; return what is known then, and the positions that were fresh each time."""
    known, fresh = Passed(), []
    for start, ids in steps:
        passage = known.look(start, ids)
        known.enter(start, ids, passage)
        fresh.append([start + at for at in passage.fresh])
    return known, fresh


class TestStep:
    """The flat rows of one forward."""

    def test_rows_follow_each_other(self) -> None:
        """From row 0 on, as many as each request has tokens."""
        step = Step.of([("a", 0, [5, 6, 7]), ("b", 9, [1])])
        assert step.parts == (Rows("a", 0, 0, [5, 6, 7]), Rows("b", 3, 9, [1]))
        assert [(each.stop, each.end) for each in step.parts] == [(3, 3), (4, 10)]
        assert step.rows == 4
        assert Step([]).rows == 0

    def test_a_request_twice(self) -> None:
        """Its tokens are one part."""
        with pytest.raises(ValueError, match="Request 'a' stands twice in one step"):
            Step.of([("a", 0, [5]), ("a", 1, [6])])

    @pytest.mark.parametrize("second", [Rows("b", 1, 0, [1]), Rows("b", 2, -1, [1])])
    def test_rows_that_overlap(self, second: Rows) -> None:
        """One row is one token's, and positions count from 0."""
        with pytest.raises(ValueError, match="Parts come in the order of their rows"):
            Step([Rows("a", 0, 0, [1, 2]), second])


class TestPassed:
    """Tokens that pass once, again, or never."""

    def test_chunks(self) -> None:
        """Each token of each chunk is fresh."""
        known, fresh = passed((0, [1, 2]), (2, [3]), (3, [4, 5]))
        assert known.ids == [1, 2, 3, 4, 5]
        assert fresh == [[0, 1], [2], [3, 4]]

    def test_again_after_preemption(self) -> None:
        """Only what goes on from where it stopped is fresh, however it is cut this time."""
        _, fresh = passed((0, [1, 2, 3]), (3, [4]), (0, [1, 2]), (2, [3, 4, 5]), (5, [6]))
        assert fresh == [[0, 1, 2], [3], [], [4], [5]]

    def test_a_cached_prefix(self) -> None:
        """What did not pass is missing until it does."""
        known, fresh = passed((4, [5, 6]))
        assert known.missing(7) == [0, 1, 2, 3, 6]
        assert known.ids[:4] == [MISSING] * 4
        assert fresh == [[4, 5]]
        known, fresh = passed((2, [3, 4]), (0, [1, 2, 3, 4, 5]))
        assert fresh == [[2, 3], [0, 1, 4]]
        assert known.missing(5) == []

    def test_a_rejected_draft(self) -> None:
        """Another token in its place undoes it and all that came after."""
        known, fresh = passed((0, [1, 2, 9, 8]), (2, [3]), (3, [8]))
        assert known.ids == [1, 2, 3, 8]
        assert fresh == [[0, 1, 2, 3], [2], [3]]
        assert known.look(1, [2, 7, 7]).forgotten == 2
        assert known.ids == [1, 2, 3, 8], "looking changes nothing"
