"""What axes the layers of a model have, where sizes do not tell: shown by a trial.

A batch may have as many rows as tokens, a layer as many features as tokens, or both in one axis.
Then the shape of an activation does not say which axis is which. Nor does code, since there are a
hundred ways to turn axes round. So a copy of the model runs on two rows of a few tokens, of a size
that the layer has nowhere, and each of its layers shows what it has.

1. The copy shares the parameters. It has buffers and states of its own, so a generation that runs
   is not disturbed, and no hooks, so nobody sees it.
2. It is given the ids of the forward, cut into two rows, and its flags; no cache and no mask.
3. Tokens with an axis of their own are told by the shape. What is in the first axis, rows alone or
   rows and tokens, is told by the values: those of the rows run one at a time, one after the other.

A model that does not run like this shows nothing, and the reason is told. No trial is made where
processes work together, since the others would wait for this one.
"""

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook_selections.tokens import ids_of

Flags = tuple[tuple[str, Any], ...]
"""Inputs of a forward that are no tensors, by name: one may say which axis comes first."""

Form = Literal["tokens second", "rows first", "joined"]
"""Rows, then tokens, as axes of their own; rows as the first of any axes; both in one, row by row.
"""

Of = tuple[bool, Form]
"""Whether it is what the layer was given, not what it returned, and which form it may have."""


@attrs.frozen(eq=False)
class Trial:
    """What came of one trial."""

    shown: Mapping[nn.Module, Mapping[Of, bool]] = attrs.field(factory=dict)
    """By layer, whether activations have a form; it lacks what was not shown."""

    failed: str | None = None
    """Why nothing was shown."""


def flags_of(named: Mapping[str, Any]) -> Flags:
    """Return the flags among the inputs of a forward, sorted."""
    kinds = bool | int | float | str
    return tuple(sorted((name, each) for name, each in named.items() if isinstance(each, kinds)))


def try_out(module: nn.Module, named: Mapping[str, Any], avoid: Collection[int]) -> Trial:
    """Run a copy of a module on two rows of its inputs; see above.

    `named` are the inputs of one of its forwards. The rows have a length that is not among `avoid`.
    """
    if _trying.now:
        return Trial(failed="a trial is under way")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Trial(failed="no trial is made where processes work together")
    length = next(each for each in (3, 4, 5, 6, 7, 8) if each not in avoid)
    _trying.now = True
    try:
        return Trial(_shown(module, named, length))
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the user is told
        said = str(error).partition("\n")[0]
        return Trial(
            failed=f"a trial on two rows of {length} raised {type(error).__name__}: {said}"
        )
    finally:
        _trying.now = False


class _Trying(threading.local):
    now = False


_trying = _Trying()
"""Whether a trial is under way in this thread: a copy may come by layers of the model itself."""

_Call = tuple[Tensor | None, Tensor | None]
_ROWS = 2


def _shown(
    module: nn.Module, named: Mapping[str, Any], length: int
) -> dict[nn.Module, dict[Of, bool]]:
    twin = _twin(module).eval()
    calls: dict[nn.Module, list[_Call]] = {}
    handles = [
        each.register_forward_hook(partial(_note, calls, layer), with_kwargs=True)
        for layer, each in zip(module.modules(), twin.modules(), strict=True)
    ]
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = []
            for rows in ([0, 1], [0], [1]):
                calls.clear()
                twin(**_inputs(module, named, length, rows))
                found.append(dict(calls))
    finally:
        for handle in handles:  # they know the copy's layers: a cycle would keep the parameters
            handle.remove()
    both, *alone = found
    return {
        layer: _told(seen, [each.get(layer, []) for each in alone], length)
        for layer, seen in both.items()
    }


def _note(
    calls: dict[nn.Module, list[_Call]],
    layer: nn.Module,
    twin: nn.Module,
    args: Any,
    kwargs: Any,
    output: Any,
) -> None:
    both = first_input(inputs_of(twin, args, kwargs)), activation_of(output)
    given, returned = (None if each is None else each.detach().clone() for each in both)
    calls.setdefault(layer, []).append((given, returned))


def _twin(module: nn.Module) -> nn.Module:
    """Return a copy that shares the parameters and has no hooks."""
    memo: dict[int, Any] = {id(each): each for each in module.parameters()}
    for each in module.modules():
        for name, value in vars(each).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                memo[id(value)] = OrderedDict()
            elif isinstance(value, Tensor) and value.grad_fn is not None:  # made of parameters
                memo[id(value)] = value
    return copy.deepcopy(module, memo)


def _inputs(
    module: nn.Module, named: Mapping[str, Any], length: int, rows: list[int]
) -> dict[str, Any]:
    """Return inputs for these rows of two, of what a forward was given."""
    ids = ids_of(named)
    text = named["inputs_embeds"] if ids is None else ids
    name = next(name for name, value in named.items() if value is text)
    of_tokens: Tensor = text.flatten(0, 1)
    if ids is not None and not ids.is_meta:
        of_tokens = torch.tensor(sorted(set(of_tokens.tolist())), device=ids.device)
    at = torch.arange(_ROWS * length, device=text.device) % len(of_tokens)
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    flags = dict(flags_of(named))
    inputs = {other: flags[other] for other in flags if takes_any or other in parameters}
    for other, value in named.items():
        asked = other in parameters and parameters[other].default is inspect.Parameter.empty
        if not isinstance(value, Tensor) or not (asked or other == "encoder_hidden_states"):
            continue
        if value.shape == text.shape[:2]:  # a mask
            inputs[other] = value.new_ones(len(rows), length)
        else:
            inputs[other] = value[[row % len(value) for row in rows]]
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    inputs[name] = of_tokens[at].reshape(_ROWS, length, *of_tokens.shape[1:])[rows]
    return inputs


def _told(calls: list[_Call], alone: list[list[_Call]], length: int) -> dict[Of, bool]:
    """Return what the calls of one layer show; of several that differ, that it has not."""
    told: dict[Of, bool] = {}
    for at, call in enumerate(calls):
        for side, tensor in enumerate(call):
            if tensor is None or tensor.ndim < 2:
                continue
            rows = [each[at][side] if at < len(each) else None for each in alone]
            forms: dict[Form, bool | None]
            if tensor.ndim > 2:
                forms = {
                    "tokens second": tuple(tensor.shape[:2]) == (_ROWS, length),
                    "rows first": _is_each_in_turn(tensor, rows, 1),
                }
            else:
                forms = {
                    "rows first": _is_each_in_turn(tensor, rows, 1),
                    "joined": _is_each_in_turn(tensor, rows, length),
                }
            for form, answer in forms.items():
                key: Of = side == 0, form
                if answer is not None:
                    told[key] = told.get(key, True) and answer
    return told


def _is_each_in_turn(both: Tensor, rows: list[Tensor | None], count: int) -> bool | None:
    """Return whether an activation has `count` places of each row, in turn; `None` if unknown."""
    if len(both) != _ROWS * count:
        return False
    if both.is_meta:
        return True if count == 1 else None
    found = [each for each in rows if each is not None and each.shape == both[:count].shape]
    if len(found) != _ROWS:
        return False
    together = both.double()
    apart, swapped, size = (
        float(each.abs().sum())
        for each in (
            together - torch.cat(found),
            together - torch.stack(found, 1).flatten(0, 1),
            torch.cat(found[::-1]) - torch.cat(found),
        )
    )
    if count == 1:
        return None if not size else apart < size / 10
    return None if apart == swapped else apart < swapped / 10
