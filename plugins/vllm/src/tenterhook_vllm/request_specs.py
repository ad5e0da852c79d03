"""What a request asks for: hooks, a selection, captures. Checked before anything runs.

It stands in `extra_args["tenterhook"]`, as a table or as JSON text of one:

    {"hooks": [{"hook": "AddVector", "layer": "resid_post.1", "parameters": {"vector": [...]}}],
     "selection": {"tokens": "last"}, "capture": ["resid_post.2"]}

Whoever wrote it is a stranger, so the checks are those of `model.scoped`, at layers that stand for
the points of the served model. Beside them each hook is tried on rows of ones: what fails, changes
nothing, or is no finite number in the model's dtype, would do so in a batch that others share.
"""

import hashlib
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import torch

from tenterhook.hooks import Controller, Detector
from tenterhook.one_line import error_line, printable
from tenterhook.scopes import selector_of
from tenterhook_edits import AddVector, Clamp, MeanAblate, ProjectOut, Scale, ZeroAblate
from tenterhook_selections import Selection
from tenterhook_specs import BadSpec, HookSpec, ModelSpec, plain, scoped, structure
from tenterhook_specs.json_format import JSON
from tenterhook_specs.request_scope import check_values
from tenterhook_specs.values import brief
from tenterhook_vllm.points import ServedPoints

HOOKS: Mapping[str, type[Controller]] = {
    each.__name__: each for each in (AddVector, Clamp, MeanAblate, ProjectOut, Scale, ZeroAblate)
}
"""The hooks that a request may ask for, unless a service says others. They look at each token
alone, so it does not matter to them how a text is cut into steps."""

MAX_ELEMENTS = 2**18
"""Elements of tensors that the hooks of one request may hold together."""

LONGEST = 2**23
"""Characters of a request's text."""

MOST_HOOKS = 100
"""Hooks of one request: each of them takes time in steps that others share."""

MOST_POSITIONS = 1000
"""Positions that the selections of one request may list together; a slice says more in less."""

_MOST_WRONG = 20
"""Mistakes after which no more hooks are looked at."""

_FIELDS = 2**15
"""Values of a request beside the elements of its tensors."""

_TRIED = 1, 3
"""Tokens that a hook is tried on: one, and several at once."""


@attrs.frozen(kw_only=True)
class _Table:
    """What a request may say, as it stands there."""

    hooks: Any = ()
    selection: Any = None
    capture: Any = ()
    on_error: Any = None
    run: Any = None


@attrs.frozen(eq=False, kw_only=True)
class Change:
    """A hook of a request, at a point, for a part of the request's tokens."""

    point: str
    name: str
    """The hook's class, as the request names it."""
    hook: Controller
    selection: Selection


@attrs.frozen(eq=False, kw_only=True)
class RequestSpec:
    """What one request asks for; checked."""

    changes: Sequence[Change] = ()
    capture: Sequence[str] = ()
    """Points."""
    selection: Selection = attrs.field(factory=Selection)
    """Which tokens' rows are captured."""
    run: bool = False
    """Whether captured rows are written to the store of the server."""
    digest: str = ""
    """Says what is changed, and where; empty where nothing is."""

    @property
    def points(self) -> frozenset[str]:
        """The points that it needs."""
        return frozenset([*self.capture, *(each.point for each in self.changes)])

    def salt(self, prompt_ids: Sequence[int] | None = None) -> str | None:
        """Return what a prefix cache is to keep this request's tokens apart by; `None` for nothing.

        Requests of one salt change the same tokens of a shared prefix in the same way. Where a
        selection counts from the end of the prompt, only requests of the same prompt do; without
        `prompt_ids` none does. A request that captures shares nothing, since a token whose state
        comes from the cache has no rows.
        """
        if self.capture:
            return uuid.uuid4().hex
        if not self.changes:
            return None
        if all(is_of_prefix(each.selection) for each in self.changes):
            return self.digest
        if prompt_ids is None:
            return uuid.uuid4().hex
        text = ",".join(map(str, prompt_ids))
        return hashlib.sha256(f"{self.digest}:{text}".encode()).hexdigest()


def read_request(
    given: Any,
    points: ServedPoints,
    *,
    hooks: Mapping[str, type[Controller]] = HOOKS,
    max_elements: int = MAX_ELEMENTS,
    longest: int = LONGEST,
) -> RequestSpec:
    """Return what a request asks for: a table, or JSON text of one.

    `hooks` are the classes that it may name. Raises `BadSpec` (a `ValueError`), with every mistake
    and its path, for what the request says; `TypeError` for `hooks` that are none for requests.
    """
    _check_classes(hooks)
    table = _table(given, most=max_elements + _FIELDS, longest=longest)
    mistakes: list[str] = []
    if table.on_error is not None:
        mistakes.append("on_error: a hook that fails ends its request; leave it out")
    capture = _capture(table.capture, points, mistakes)
    if table.run is not None and not isinstance(table.run, bool):
        mistakes.append(f"run: expected true or false, not {brief(table.run)}")
    elif table.run and not table.capture:
        mistakes.append("run: there are no rows to write; give points to capture")
    listed: list[int] = []
    common = _selection(table.selection, "selection", mistakes, listed)
    specs = _hook_specs(table.hooks)
    selections = []
    for at, each in enumerate(specs):
        path = f"hooks[{at}]"
        mistakes += _mistakes_of(each, path, points)
        own = common
        if each.selection is not None:
            own = _selection(each.selection, f"{path}.selection", mistakes, listed)
        selections.append(own)
        if each.layer in points.widths:
            _check_features(own, points.widths[str(each.layer)], path, mistakes)
        if len(mistakes) >= _MOST_WRONG:
            raise BadSpec([*mistakes, "There may be more: what comes after was not looked at"])
    for name in capture:
        _check_features(common, points.widths[name], "selection", mistakes)
    if not specs and not capture and not mistakes:
        mistakes.append("the request asks for nothing; give it hooks, or points to capture")
    made: Sequence[Any] = ()
    if all(each.layer in points.widths for each in specs):
        try:
            made = _made(specs, points, hooks, max_elements)
        except BadSpec as error:
            mistakes += error.mistakes
    if mistakes:
        raise BadSpec(list(dict.fromkeys(mistakes)))
    changes = [
        Change(point=str(spec.layer), name=spec.hook, hook=hook, selection=selection)
        for spec, hook, selection in zip(specs, made, selections, strict=True)
    ]
    for at, change in enumerate(changes):
        _try(change, points, f"hooks[{at}]")
    return RequestSpec(
        changes=tuple(changes),
        capture=capture,
        selection=common,
        run=bool(table.run),
        digest=_digest(specs, changes) if changes else "",
    )


def request_args(
    *,
    hooks: Any = (),
    selection: Mapping[str, Any] | None = None,
    capture: Collection[str] = (),
    run: bool = False,
    text: bool = False,
) -> dict[str, Any]:
    """Return `{"tenterhook": ...}` for `extra_args`, or with `text` for `vllm_xargs`.

    `hooks` are tables, `HookSpec`s or a `ModelSpec`, whose tensors become lists of numbers. The
    server's `vllm_xargs` take no tables, so there it is JSON text. With `run` the captured rows are
    written to the server's store. Raises `NotDescribable`.
    """
    table: dict[str, Any] = {}
    if isinstance(hooks, HookSpec):
        hooks = (hooks,)
    if isinstance(hooks, ModelSpec) or hooks:
        table["hooks"] = plain(hooks, "hooks")
    if selection is not None:
        table["selection"] = plain(selection, "selection")
    if capture:
        table["capture"] = [*([capture] if isinstance(capture, str) else capture)]
    if run:
        table["run"] = True
    return {"tenterhook": json.dumps(table) if text else table}


def is_of_prefix(selection: Selection) -> bool:
    """Say whether a token is selected by its position alone, counted from the beginning."""
    if selection.phase is not None or selection.step is not None or selection.every != 1:
        return False
    tokens = selection.tokens
    if tokens is None:
        return True
    if isinstance(tokens, str):
        return ":" in tokens and "-" not in tokens
    return all(type(at) is int and at >= 0 for at in tokens)


def _check_classes(hooks: Mapping[str, Any]) -> None:
    for name, each in hooks.items():
        if not (isinstance(each, type) and issubclass(each, Controller)):
            raise TypeError(f"hooks[{name!r}] is {brief(each)}, and no class of controllers.")
        if issubclass(each, Detector):
            raise TypeError(
                f"hooks[{name!r}] is a detector, and what it saw would come to no one. Leave it "
                "out; a request names points to capture."
            )


def _table(given: Any, *, most: int, longest: int) -> _Table:
    """Return what a request says, of whatever form; plain and of a size that can be looked at."""
    if isinstance(given, str):
        given = _parsed(given, longest)
    if not isinstance(given, Mapping):
        raise BadSpec([f"the request is {brief(given)}, and must be a table, or JSON text of one"])
    values = dict(given)
    hooks = values.get("hooks")
    if isinstance(hooks, HookSpec):
        hooks = (hooks,)
    if isinstance(hooks, ModelSpec) or (
        isinstance(hooks, list | tuple) and any(isinstance(each, HookSpec) for each in hooks)
    ):
        values["hooks"] = plain(hooks, "hooks")
    check_values(values, most=most)
    return structure(values, _Table)


def _parsed(text: str, longest: int) -> Any:
    if len(text) > longest:
        raise BadSpec([f"the request has more than {longest:,} characters; ask for less at once"])
    try:
        return JSON.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSpec([f"the request is no JSON: {printable(str(error))}"]) from error


def _hook_specs(given: Any) -> tuple[HookSpec, ...]:
    """Return the hooks of a request: a list of them, or the spec of a model."""
    if isinstance(given, list | tuple):
        given = {"hooks": given}
    if not isinstance(given, Mapping):
        raise BadSpec([f"hooks: expected a list, not {type(given).__name__} {brief(given)}"])
    if given.get("on_error", "raise") != "raise":
        raise BadSpec(["hooks.on_error: a hook that fails ends its request; leave it out"])
    hooks = given.get("hooks", ())
    if isinstance(hooks, list | tuple) and len(hooks) > MOST_HOOKS:
        raise BadSpec([f"hooks: there are {len(hooks):,}, and {MOST_HOOKS} at most"])
    return structure(dict(given), ModelSpec).hooks


def _capture(given: Any, points: ServedPoints, mistakes: list[str]) -> tuple[str, ...]:
    """Return the points to capture, none where any is wrong; note what is."""
    if not isinstance(given, list | tuple):
        mistakes.append(f"capture: expected a list, not {type(given).__name__} {brief(given)}")
        return ()
    known = len(points.widths)
    if len(given) > known + 1:  # one is named as none, or twice
        mistakes.append(f"capture: {len(given):,} points are named, and there are {known:,}")
        return ()
    before, names = len(mistakes), list[str]()
    for at, name in enumerate(given):
        why = points.mistake(name)
        if why is None and name in names:
            why = f"{name!r} stands twice; name it once"
        if why is not None:
            mistakes.append(f"capture[{at}]: {why}")
        names.append(name)
    return tuple(names) if len(mistakes) == before else ()


def _selection(words: Any, path: str, mistakes: list[str], counted: list[int]) -> Selection:
    """Return the selection of these words, everything where it is wrong; note what is.

    `counted` has how many positions the request's selections list so far.
    """
    found: Any = None
    if words is not None and not isinstance(words, Mapping):
        mistakes.append(f"{path}: expected a table, not {type(words).__name__} {brief(words)}")
        return Selection()
    try:
        if words is not None and "selection" in words:
            raise TypeError("There is no argument 'selection'.")
        found = selector_of(dict(words or {}))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        mistakes.append(f"{path}: {printable(str(error))}")
    if not isinstance(found, Selection):
        return Selection()
    if found.heads is not None:
        mistakes.append(f"{path}.heads: the rows at a point have no axis of heads; leave it out")
    if found.rows not in (None, (0,), (-1,)):
        mistakes.append(f"{path}.rows: a request is one row of its own, 0; leave it out")
    tokens = found.tokens
    if isinstance(tokens, tuple) and isinstance(tokens[0], tuple) and len(tokens) != 1:
        mistakes.append(f"{path}.tokens: there are {len(tokens)} rows, and a request is one")
    for name in ("tokens", "features", "step"):
        listed = getattr(found, name)
        if isinstance(listed, tuple) and isinstance((*listed, 0)[0], tuple):
            listed = listed[0]
        if not isinstance(listed, tuple) or any(type(at) is bool for at in listed[:1]):
            continue
        counted.append(len(listed))
        if sum(counted) > MOST_POSITIONS:
            mistakes.append(
                f"{path}.{name}: with it {sum(counted):,} positions are listed, and "
                f"{MOST_POSITIONS:,} at most; give a slice, as '2:5'"
            )
    return found


def _check_features(selection: Selection, width: int, path: str, mistakes: list[str]) -> None:
    path = path if path == "selection" else f"{path}.selection"
    try:
        index = selection.feature_index(width, torch.device("cpu"))
    except (IndexError, RuntimeError, OverflowError) as error:
        mistakes.append(f"{path}.features: {error}")
        return
    if index is not None and not index.numel():
        mistakes.append(f"{path}.features: they are none of {width}")


def _mistakes_of(spec: HookSpec, path: str, points: ServedPoints) -> list[str]:
    """Return what a hook of a request may not say, beside what no spec of a stranger's may."""
    found = []
    if why := points.mistake(spec.layer):
        found.append(f"{path}.layer: {why}")
    if spec.type not in (None, "forward"):
        found.append(f"{path}.type: hooks change what stands at a point; leave it out")
    if not spec.enabled:
        found.append(f"{path}.enabled: it would do nothing; leave the hook out")
    return found


def _made(
    specs: Sequence[HookSpec],
    points: ServedPoints,
    hooks: Mapping[str, type[Controller]],
    max_elements: int,
) -> Sequence[Any]:
    """Make the hooks, after the checks that every stranger's spec goes through."""
    if not specs:
        return ()
    bare = [attrs.evolve(each, selection=None) for each in specs]
    given = ModelSpec(hooks=tuple(bare))
    return scoped(points.model, given, hooks=hooks, max_elements=max_elements).hooks


def _try(change: Change, points: ServedPoints, path: str) -> None:
    """Raise `BadSpec` where the hook cannot do what it is to do, in the dtype of the model."""
    width = points.widths[change.point]
    for tokens in _TRIED:
        rows = torch.ones(1, tokens, width, dtype=points.dtype)
        try:
            made = applied(change, rows)
        except Exception as error:
            raise BadSpec([f"{path}.parameters: {error_line(error)}"]) from error
        if made is None:
            raise BadSpec([f"{path}: {change.name} of these parameters changes nothing"])
        if made.shape != rows.shape:
            raise BadSpec(
                [f"{path}: {change.name} makes {tuple(made.shape)} of {tuple(rows.shape)}"]
            )
        if not bool(made.isfinite().all()):
            what = str(points.dtype).removeprefix("torch.")
            raise BadSpec([f"{path}.parameters: they are too large for the model's {what}"])


def applied(change: Change, rows: torch.Tensor) -> torch.Tensor | None:
    """Return what a hook makes of rows `(1, tokens, features)`; `None` for no change.

    Raises what the hook raises, and `TypeError` where it returns no tensor.
    """
    module = torch.nn.Identity()
    made = change.hook.modify_activations(module, rows, rows)
    if made is None or isinstance(made, torch.Tensor):
        return None if made is None else made.to(rows.dtype)
    raise TypeError(f"{change.name} returned {brief(made)}, and no tensor.")


def _digest(specs: Sequence[HookSpec], changes: Sequence[Change]) -> str:
    said = [
        [spec.hook, change.point, plain(spec.parameters), repr(change.selection)]
        for spec, change in zip(specs, changes, strict=True)
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
