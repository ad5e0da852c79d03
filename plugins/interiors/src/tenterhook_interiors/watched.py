"""Which module of each block attends, and what passed its points when a twin ran."""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook import attach
from tenterhook_interiors.attention import Attention
from tenterhook_interiors.own_attention import OwnAttention
from tenterhook_interiors.recording import Recording, logits_of, same


class _OfTables(Attention):
    """One of a twin's, which keeps what enters the attention function."""

    def __init__(self, module: nn.Module, number: int) -> None:
        super().__init__(module, number)
        self.entering: dict[str, Tensor] = {}

    def attend(self, name: str, query: Any, key: Any, value: Any, *args: Any) -> Any:
        """Keep queries, keys and values, heads after the sequence."""
        given = {"q": query, "k": key, "v": value}
        self.entering = {f"{word} entering": each.transpose(1, 2) for word, each in given.items()}
        return super().attend(name, query, key, value, *args)

    def enters_another(self, word: str, dtype: torch.dtype) -> bool:
        """Return that they enter the attention function alone."""
        return False


class _OfItsOwn(OwnAttention):
    """One of a twin's that computes it itself; keeps what enters the products."""

    def __init__(self, module: nn.Module, number: int) -> None:
        super().__init__(module, number)
        self.entering: dict[str, Tensor] = {}
        self.others: list[Tensor] = []

    def seen(self, word: str, tensor: Tensor) -> None:
        """Keep it, heads after the sequence."""
        if word == "other":
            self.others.append(tensor)
        else:
            self.entering.setdefault(f"{word} entering", tensor.transpose(1, 2))

    def enters_another(self, word: str, dtype: torch.dtype) -> bool:
        """Whether queries or keys, scaled or not, are in another product before the softmax."""
        wanted = self.entering[f"{word} entering"].transpose(1, 2)
        for each in self.others:
            for other in (each, each.transpose(-1, -2)):
                if other.shape != wanted.shape or not bool(other.norm()):
                    continue
                if same(other * (wanted.norm() / other.norm()), wanted, dtype):
                    return True
        return False


@attrs.frozen(eq=False)
class Attending:
    """The attention of a block."""

    path: str
    kind: type[Attention]
    """How its points are reached."""
    seen: dict[str, Tensor]
    """What went through each point, by word; what entered the products as `"q entering"`."""
    is_true: bool
    """Whether the logits are the same to the bit with our functions in its way."""
    several: list[str]
    """Which of `"q"` and `"k"` enter several products."""


def attentions_of(
    twin: nn.Module, inputs: Any, recording: Recording, blocks: Sequence[str], dtype: torch.dtype
) -> dict[int, Attending]:
    """Return the attention of each block that has one; runs the twin once or twice.

    Those that look their function up in transformers' tables come first. In blocks without one, any
    module may multiply a softmax by values: the innermost one counts.
    """
    found: dict[int, Attending] = {}
    for may_attend, kind in ((_may_attend, _OfTables), (_has_parts, _OfItsOwn)):
        tried = [
            (number, f"{path}.{name}" if name else path, kind(inner, number))
            for number, path in enumerate(blocks)
            if number not in found
            for name, inner in twin.get_submodule(path).named_modules()
            if may_attend(inner)
        ]
        if tried:
            found |= _tried(twin, inputs, recording, tried, dtype)
    return found


def _tried(
    twin: Any, inputs: Any, recording: Recording, tried: Sequence[Any], dtype: torch.dtype
) -> dict[int, Attending]:
    seen: list[dict[str, list[Tensor]]] = []
    with ExitStack() as scopes:
        for _, _, attention in tried:
            captures = {
                word: attach(point).capture("output", missing="ignore")
                for word, point in attention.points.items()
            }
            seen.append({w: scopes.enter_context(c)["output"] for w, c in captures.items()})
        output = twin(**inputs)
    plain, through = logits_of(recording.output), logits_of(output)
    is_true = plain is None or through is None or torch.equal(plain, through)
    places = [at for at, calls in enumerate(seen) if len(calls["q"]) == len(calls["z"]) == 1]
    inside = [tried[at][1] for at in places]
    found: dict[int, Attending] = {}
    for at in places:
        number, path, attention = tried[at]
        if number not in found and not any(each.startswith(f"{path}.") for each in inside):
            tensors = {word: calls[0] for word, calls in seen[at].items() if len(calls) == 1}
            found[number] = Attending(
                path,
                OwnAttention if isinstance(attention, OwnAttention) else Attention,
                tensors | attention.entering,
                is_true,
                [word for word in "qk" if attention.enters_another(word, dtype)],
            )
    return found


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _may_attend(module: Any) -> bool:
    """Whether a module's class looks its attention function up in transformers' table."""
    forward = getattr(type(module), "forward", None)  # TorchScript's have none
    if not forward or not hasattr(module, "config"):
        return False
    forward = inspect.unwrap(forward)
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    return "ALL_ATTENTION_FUNCTIONS" in names
