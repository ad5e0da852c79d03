"""`Serving`: the requests of an engine, each changed and captured by itself.

Whoever drives an engine tells four things, and nothing else is assumed about it:

1. `add(request, prompt_ids, spec)`: a request comes, with what it asks for (`read_request`).
2. `with serving.step(step):` around each forward, with whose the flat rows are; and in it, once
   for each point in use (`serving.points`), `at(point, rows)`, which returns the rows to go on
   with.
3. `finish(request, ids)`: it is over; returns its rows and its receipt.
4. `abort(request)`: nobody wants its answer.

In a step rows are changed each time they pass, and kept and counted the first time. What a step
kept is added when it ends: a forward that fails has not been. A hook that fails ends its request,
which raises when it is finished, and leaves the rows of the others alone.

One thread at a time: engines run one forward after the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor

from tenterhook import HookError
from tenterhook_selections import Roles
from tenterhook_vllm.chosen import Chosen
from tenterhook_vllm.errors import (
    DuplicateRequest,
    NothingChanged,
    NothingSelected,
    NotInStep,
    OtherTokens,
    RowsMissing,
    SelectionFailed,
    UnknownRequest,
    WrongRows,
)
from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.receipts import HookReceipt, RequestReceipt, Tally, measured, ratio
from tenterhook_vllm.request_specs import Change, RequestSpec, applied
from tenterhook_vllm.steps import MISSING, Passage, Passed, Rows, Step


@attrs.frozen(eq=False, kw_only=True)
class Answer:
    """What a finished request has beside its text."""

    ids: Sequence[int]
    """Of the tokens that went through the model: all of the text but the last."""
    positions: Tensor
    """Long `(n,)`: the tokens whose rows were captured, ascending."""
    rows: dict[str, Tensor]
    """Point to `(n, features)`, in the order of `positions`; as the model went on with them."""
    receipt: RequestReceipt | None
    """`None` where nothing was to be changed."""


class Serving:
    """The requests of one engine that ask for something."""

    def __init__(self, points: ServedPoints, *, device: torch.device | str | None = "cpu") -> None:
        """Captured rows are kept on `device`; where they are, if it is `None`."""
        self._points, self._device = points, device
        self._requests: dict[str, _Request] = {}
        self._now: _Now | None = None

    def __contains__(self, request: object) -> bool:
        return request in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def points(self) -> frozenset[str]:
        """The points that the requests need now, each of which is to be called in each step."""
        return frozenset().union(*(each.spec.points for each in self._requests.values()))

    def add(
        self,
        request: str,
        prompt_ids: Sequence[int],
        spec: RequestSpec,
        *,
        roles: Roles | None = None,
    ) -> None:
        """Have a request's tokens changed and captured from its first step on.

        One that asks for nothing need not be added. `roles` say who says what in the prompt, for
        selections that ask. Raises `DuplicateRequest`, and what the selection raises for this
        prompt.
        """
        if request in self._requests:
            raise DuplicateRequest(request)
        self._requests[request] = _Request(request, list(prompt_ids), spec, roles)

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Have the block be one forward of the model, on the rows that the step says."""
        if self._now is not None:
            raise NotInStep("A step began in a step.")
        known = ((part, self._requests.get(part.request)) for part in step.parts)
        self._now = _Now(step, [found.turn(part) for part, found in known if found is not None])
        try:
            yield
            for turn in self._now.turns:
                turn.enter(self._now.called, self._device)
        finally:
            self._now = None

    def at(self, point: str, rows: Tensor, where: Sequence[int] | None = None) -> Tensor | None:
        """Change and capture the flat rows at a point; return what takes their place.

        `rows` are `(rows, features)`, and may be more than the step has; never written to. Where
        they are not all rows, `where` says which they are, one for each. Returns `None` where
        nothing was changed. Raises `WrongRows` for another shape, and `NotInStep` outside of a
        step or for a point a second time.
        """
        now = self._now
        if now is None:
            raise NotInStep(f"at({point!r}) was called outside of a step.")
        if point in now.called:
            raise NotInStep(f"at({point!r}) was called twice in one step.")
        now.called.add(point)
        turns = [each for each in now.turns if point in each.request.spec.points]
        if not turns:
            return None
        width = self._points.widths.get(point, 0)
        needed = now.step.rows if where is None else len(where)
        if rows.ndim != 2 or rows.shape[1] != width or rows.shape[0] < needed:
            raise WrongRows(point, rows.shape, needed, width)
        index = None if where is None else {row: at for at, row in enumerate(where)}
        new: Tensor | None = None
        for turn in turns:
            tokens, at = turn.rows_in(index)
            if not tokens:
                continue
            here = rows if new is None else new
            made = turn.change(point, here[at], tokens)
            if made is not None:
                new = rows.clone() if new is None else new
                new[at] = made
                here = new
            turn.capture(point, here[at], tokens)
        return new

    def finish(self, request: str, ids: Sequence[int] | None = None) -> Answer:
        """Return what a request has to show for itself, which is over then, also where it failed.

        `ids` are its whole text, prompt first, as the engine returned it; what passed beyond it
        counts for nothing. Raises `UnknownRequest`; `HookError` where a hook failed;
        `NothingSelected` where a hook changed no token, or none was captured; `RowsMissing` and
        `OtherTokens` where what passed is not the text.
        """
        found = self._requests.pop(request, None)
        if found is None:
            raise UnknownRequest(request)
        return found.answer(ids)

    def abort(self, request: str) -> bool:
        """Forget a request; say whether it was there."""
        return self._requests.pop(request, None) is not None


@attrs.define(eq=False)
class _Now:
    """A step that is going on."""

    step: Step
    turns: "list[_Turn]"
    called: set[str] = attrs.field(factory=set)


class _Request:
    """One request: what it asks for, and what came of it so far."""

    def __init__(
        self, name: str, prompt_ids: list[int], spec: RequestSpec, roles: Roles | None
    ) -> None:
        self.name, self.prompt_ids, self.spec = name, prompt_ids, spec
        self.passed = Passed()
        self.failure: HookError | SelectionFailed | None = None
        self._chosen: dict[str, Chosen] = {}
        for selection in (spec.selection, *(each.selection for each in spec.changes)):
            key = repr(selection)
            if key not in self._chosen:
                self._chosen[key] = Chosen(selection, prompt_ids, roles)
        self.captured = self._chosen[repr(spec.selection)]
        self.changed = [self._chosen[repr(each.selection)] for each in spec.changes]
        self.tallies = [Tally() for _ in spec.changes]
        self.kept: dict[str, list[tuple[list[int], Tensor]]] = {name: [] for name in spec.capture}

    def turn(self, part: Rows) -> "_Turn":
        """Return what is to be done with the request's rows of one step."""
        return _Turn(self, part, self.passed.look(part.start, part.ids))

    def forget(self, position: int) -> None:
        """Take back what was kept and counted from a position on."""
        for tally in self.tallies:
            tally.forget(position)
        for point, pieces in self.kept.items():
            self.kept[point] = [_before(piece, position) for piece in pieces]

    def filled(self, stop: int) -> list[int]:
        """Return the ids of the tokens before a position, the prompt's also where none passed."""
        known = self.passed.ids[:stop]
        known += [MISSING] * (stop - len(known))
        prompt = self.prompt_ids[:stop]
        for at, id in enumerate(prompt):
            known[at] = id if known[at] == MISSING else known[at]
        return known

    def answer(self, ids: Sequence[int] | None) -> Answer:
        """Return the rows and the receipt of the text, or raise what is wrong with them."""
        if self.failure is not None:
            raise self.failure
        whole = 0 if ids is None else max(len(ids) - 1, len(self.prompt_ids))
        stop = len(self.passed.ids) if ids is None else whole
        passed = self.passed.ids[:stop]
        for at, (was, returned) in enumerate(zip(passed, ids or (), strict=False)):
            if was not in (MISSING, returned):
                raise OtherTokens(self.name, at, was, returned)
        text = self.filled(stop) if ids is None else list(ids[:stop])
        self.forget(stop)
        missing = set(self.passed.missing(stop))
        receipt = self._receipt(text, missing) if self.spec.changes else None
        positions, rows = self._rows(text, missing)
        return Answer(ids=text, positions=positions, rows=rows, receipt=receipt)

    def _rows(self, text: list[int], missing: set[int]) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.spec.capture:
            return torch.tensor([], dtype=torch.long), {}
        wanted = [at for at, is_one in enumerate(self.captured.at(0, text, ())) if is_one]
        if not wanted:
            raise self._nothing(f"capture of {', '.join(self.spec.capture)} kept", self.captured)
        found = {}
        for point, pieces in self.kept.items():
            where = [at for positions, _ in pieces for at in positions]
            order = sorted(range(len(where)), key=where.__getitem__)
            if [where[at] for at in order] != wanted:
                lacking = sorted({*wanted} - {*where})
                raise RowsMissing(self.name, point, lacking, len(missing))
            found[point] = torch.cat([rows for _, rows in pieces])[order]
        return torch.tensor(wanted, dtype=torch.long), found

    def _receipt(self, text: list[int], missing: set[int]) -> RequestReceipt:
        hooks, every, total = [], set[int](), torch.zeros(2, dtype=torch.float64)
        for change, chosen, tally in zip(
            self.spec.changes, self.changed, self.tallies, strict=True
        ):
            selected = {at for at, is_one in enumerate(chosen.at(0, text, ())) if is_one}
            here, cached = tally.positions(), selected & missing
            if not selected:
                raise self._nothing(f"{change.name} at {change.point!r} changed", chosen)
            if lacking := sorted(selected - here - cached - tally.left):
                raise RowsMissing(self.name, change.point, lacking, 0)
            if not here | cached:
                raise NothingChanged(self.name, change.name, change.point)
            squares = tally.squares()
            total, every = total + squares, every | here | cached
            hooks.append(
                HookReceipt(
                    hook=change.name,
                    point=change.point,
                    tokens=len(here | cached),
                    cached=len(cached),
                    change=ratio(squares) if here else None,
                )
            )
        measured_any = any(each.change is not None for each in hooks)
        return RequestReceipt(
            tokens=len(every), change=ratio(total) if measured_any else None, hooks=tuple(hooks)
        )

    def _nothing(self, what: str, chosen: Chosen) -> NothingSelected:
        count = len(self.passed.ids)
        prompt = min(count, len(self.prompt_ids))
        return NothingSelected(self.name, what, str(chosen.selection), count, prompt)


class _Turn:
    """One request's rows in one step: what is done with them, added when the step is over."""

    def __init__(self, request: _Request, part: Rows, passage: Passage) -> None:
        self.request, self._part, self._passage = request, part, passage
        self._fresh = set(passage.fresh)
        self._answers: dict[int, list[bool]] = {}
        self._tallied: list[tuple[int, list[int], Tensor | None]] = []
        self._kept: list[tuple[str, list[int], Tensor]] = []

    def rows_in(self, index: dict[int, int] | None) -> tuple[Sequence[int], slice | Tensor]:
        """Return which of the part's tokens a tensor of rows has, and where it has them."""
        part = self._part
        if index is None:
            return range(len(part.ids)), slice(part.first, part.stop)
        found = [at for at in range(len(part.ids)) if part.first + at in index]
        return found, torch.tensor([index[part.first + at] for at in found], dtype=torch.long)

    def change(self, point: str, rows: Tensor, tokens: Sequence[int]) -> Tensor | None:
        """Return what the hooks make of the request's rows; `None` for no change."""
        new: Tensor | None = None
        for at, (change, chosen) in enumerate(
            zip(self.request.spec.changes, self.request.changed, strict=True)
        ):
            if change.point != point or self.request.failure is not None:
                continue
            selected = self._selected(chosen, tokens)
            if not selected:
                continue
            old = rows if new is None else new
            made = self._made(change, old)
            if made is not None:
                new = self._mixed(at, change, old, made, selected, tokens)
            else:
                self._tallied.append((at, self._positions(selected, tokens), None))
        return None if self.request.failure is not None else new

    def capture(self, point: str, rows: Tensor, tokens: Sequence[int]) -> None:
        """Keep the rows that are selected and have not passed before."""
        if point not in self.request.kept:
            return
        fresh = self._fresh
        selected = [
            at for at in self._selected(self.request.captured, tokens) if tokens[at] in fresh
        ]
        if not selected:
            return
        kept = rows.detach()[selected]
        features = self.request.spec.selection.feature_index(rows.shape[1], rows.device)
        kept = kept if features is None else kept[:, features]
        self._kept.append((point, self._positions(selected, tokens), kept))

    def enter(self, called: set[str], device: torch.device | str | None) -> None:
        """Add what the step kept and counted, now that it is over.

        A point that was not called leaves its rows missing, which the end of the request tells.
        """
        request = self.request
        if self._passage.forgotten is not None:
            request.forget(self._passage.forgotten)
        request.passed.enter(self._part.start, self._part.ids, self._passage)
        for at, positions, squares in self._tallied:
            request.tallies[at].add(positions, squares)
        for point, positions, rows in self._kept:
            moved = rows if device is None else rows.to(device)
            request.kept[point].append((positions, moved))

    def _selected(self, chosen: Chosen, tokens: Sequence[int]) -> list[int]:
        """Return which of `tokens` are selected, counted among them."""
        answers = self._answers.get(id(chosen))
        if answers is None:
            answers = self._answers[id(chosen)] = self._asked(chosen)
        return [at for at, token in enumerate(tokens) if answers[token]]

    def _asked(self, chosen: Chosen) -> list[bool]:
        start, ids = self._part.start, self._part.ids
        before = self.request.filled(start) if chosen.depends else ()
        try:
            return chosen.at(start, ids, before)
        except Exception as error:  # noqa: BLE001 - of one request, and others share the forward
            self.request.failure = SelectionFailed(self.request.name, str(chosen.selection), error)
            return [False] * len(ids)

    def _positions(self, chosen: Sequence[int], tokens: Sequence[int]) -> list[int]:
        return [self._part.start + tokens[at] for at in chosen]

    def _made(self, change: Change, rows: Tensor) -> Tensor | None:
        try:
            made = applied(change, rows[None])
            if made is not None and made.shape != (1, *rows.shape):
                raise ValueError(f"It made {tuple(made.shape)} of {(1, *rows.shape)}.")
        except Exception as error:  # noqa: BLE001 - of one request, and others share the forward
            hook = change.hook
            self.request.failure = HookError(
                hook.id, hook.hook_type.value, change.point, error, change.name
            )
            return None
        return None if made is None else made[0]

    def _mixed(
        self,
        at: int,
        change: Change,
        old: Tensor,
        made: Tensor,
        selected: list[int],
        tokens: Sequence[int],
    ) -> Tensor:
        """Return `old` with what was made in the selected rows; count those that are fresh."""
        features = change.selection.feature_index(old.shape[1], old.device)
        new = old.clone()
        if features is None:
            new[selected] = made[selected]
        else:
            rows = torch.tensor(selected, device=old.device)[:, None]
            new[rows, features] = made[rows, features]
        fresh = [each for each in selected if tokens[each] in self._fresh]
        if fresh:
            squares = measured(old[fresh], new[fresh], features)
            self._tallied.append((at, self._positions(fresh, tokens), squares))
        return new


def _before(piece: tuple[list[int], Tensor], position: int) -> tuple[list[int], Tensor]:
    """Return what a piece has before a position."""
    positions, rows = piece
    if not positions or positions[-1] < position:
        return piece
    left = [at for at, where in enumerate(positions) if where < position]
    return [positions[at] for at in left], rows[left]
