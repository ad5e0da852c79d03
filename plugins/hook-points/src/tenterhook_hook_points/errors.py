"""What can go wrong here, each error a builtin kind too."""

from collections.abc import Collection
from typing import Any

import attrs

from tenterhook.errors import TenterhookError, closest


def _list(names: Collection[str]) -> list[str]:
    return list(names)


@attrs.define(slots=False)
class UnknownHookPoint(TenterhookError, KeyError, ValueError):
    """No hook point answers to a name, or to a pattern."""

    name: str
    """What was asked for."""

    known: list[str] = attrs.field(converter=_list)
    """The names of the model's hook points."""

    detail: str = ""
    """A sentence on what the name is instead."""

    def __str__(self) -> str:
        if not self.known:
            return (
                f"No hook point {self.name!r}: this model has none. Call self.setup() at the end "
                "of its __init__, after the last HookPoint."
            )
        message = f"No hook point {self.name!r} in this model."
        if self.detail:
            message += f" {self.detail}"
        near = ", ".join(map(repr, closest(self.name, self.known)))
        return f"{message} Closest: {near}. model.hook_dict has all {len(self.known)}."


@attrs.define(slots=False)
class UnknownActivation(TenterhookError, KeyError):
    """The cache holds nothing under a name."""

    name: Any
    """What was asked for: a name, or a tuple that begins with a short one."""

    known: list[str] = attrs.field(converter=_list)
    """The names in the cache."""

    def __str__(self) -> str:
        if not self.known:
            return f"No {self.name!r} in this cache, which is empty."
        parts = self.name if isinstance(self.name, tuple) else (self.name,)
        near = closest(str(max(parts, key=lambda part: len(str(part)), default="")), self.known)
        return (
            f"No {self.name!r} in this cache. Closest: {', '.join(map(repr, near))}. "
            f"It holds {len(self.known)}; cache.names has them all."
        )


@attrs.define(slots=False)
class AmbiguousName(TenterhookError, KeyError):
    """A short name stands for several points of a block."""

    name: Any
    """What was asked for."""

    meanings: list[str] = attrs.field(converter=_list)
    """The names that it may mean."""

    def __str__(self) -> str:
        return (
            f"{self.name!r} may mean any of {', '.join(map(repr, self.meanings))}. "
            "Write more of the name."
        )


@attrs.define(slots=False)
class NotAGPT(TenterhookError, ValueError):
    """A model that cannot be loaded with hook points: neither a GPT-2 nor Llama-like."""

    name: str
    """The name it was asked for by, without `points:`."""

    why: str
    """A sentence on what is in the way."""

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot be loaded with hook points: {self.why} 'points:' takes GPT-2, "
            "Llama, Mistral, Qwen2 and Qwen3 models; load it without hook points as "
            f"{self.name!r}, whose layers have names too."
        )


@attrs.define(slots=False)
class NotATransformer(TenterhookError, ValueError):
    """A cache whose model has no residual stream that is known."""

    kind: str
    """The class of its model; `""` where it has none."""

    def __str__(self) -> str:
        what = f"a {self.kind}" if self.kind else "not known"
        return (
            f"The model of this cache is {what}, so its residual stream cannot be taken apart. "
            "Take the cache of run_with_cache on a HookedGPT or HookedLlama, or set cache.model."
        )


@attrs.define(slots=False)
class NoTokenizer(TenterhookError, ValueError):
    """A model that was given text, and has no tokenizer."""

    kind: str
    """The class of the model."""

    def __str__(self) -> str:
        return (
            f"This {self.kind} has no tokenizer, so it takes token ids alone. Set model.tokenizer, "
            "or load it by name: load_model('points:gpt2').module."
        )


@attrs.define(slots=False)
class NotOneToken(TenterhookError, ValueError):
    """A text that is not one token."""

    text: str
    """What was asked for."""

    tokens: list[str] = attrs.field(converter=_list)
    """The tokens that it is."""

    def __str__(self) -> str:
        if not self.tokens:
            return f"{self.text!r} has no token."
        return (
            f"{self.text!r} is {len(self.tokens)} tokens, {', '.join(map(repr, self.tokens))}. "
            "Give one of them; the first of a word begins with its space."
        )
