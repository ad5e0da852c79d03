"""Words for tokens, `tokens="last"`: selectors that plugins offer, ours among them.

A selector is a function of the tokens of one forward that says which of them it means.
"""

from functools import cache

import torch
from torch import Tensor

from tenterhook.errors import closest
from tenterhook.plugins import PluginManager, Registered, default_manager
from tenterhook_selections import plugin
from tenterhook_selections.role_masks import has_role
from tenterhook_selections.roles import ROLES, is_role, parse_role
from tenterhook_selections.tokens import Seen


def last(tokens: Seen) -> Tensor:
    """Select the token of each row that was its latest when it was new; bool `(batch, seq)`."""
    return tokens.position == tokens.known - 1


def prompt(tokens: Seen) -> Tensor:
    """Select the tokens that were given; bool `(batch, seq)`."""
    return tokens.position < tokens.prompt[:, None]


def generated(tokens: Seen) -> Tensor:
    """Select the tokens that the model generated; bool `(batch, seq)`."""
    return tokens.position >= tokens.prompt[:, None]


def is_word(text: str) -> bool:
    """Say whether text has the form of a selector's name; positions and slices have not."""
    return text.replace("-", "_").isidentifier() or ("[" in text and is_role(text))


def check_word(word: str) -> None:
    """Raise `ValueError` where there is no selector of that name."""
    if is_role(word):
        parse_role(word)
        return
    known = [*_known(), *ROLES]
    if word in known:
        return
    if clash := default_manager().clash("selectors", word):
        raise ValueError(str(clash)) from clash
    close = closest(word, known)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"{word!r} is not a selection of tokens. {hint}The words there are "
        f"{', '.join(map(repr, known))}; or give an int, several, or a slice as '2:5'."
    )


@cache
def _ours() -> PluginManager:
    manager = PluginManager(autoload=False)
    manager.register(plugin, "selections")
    return manager


def _known() -> dict[str, Registered]:
    """Return the selectors by name: ours whatever plugins are loaded, and those of plugins."""
    managers = _ours(), default_manager()
    return {name: each for one in managers for name, each in one.extensions("selectors").items()}


def selected_by(word: str, tokens: Seen) -> Tensor:
    """Return which tokens the selector of that name means, bool `(batch, seq)` on the CPU.

    Padding is never among them. Raises `BrokenExtension` where the selector returns no such mask,
    and what it raises itself.
    """
    if is_role(word):
        return has_role(tokens, word)
    check_word(word)
    selector = _known()[word]
    found = selector.call(tokens)
    shape = tuple(tokens.real.shape)
    if not (isinstance(found, Tensor) and found.dtype == torch.bool and found.shape == shape):
        what = type(found).__name__
        if isinstance(found, Tensor):
            what = f"{found.dtype} of shape {tuple(found.shape)}"
        raise selector.broken(f"returned {what}, not a bool mask of shape {shape}")
    return found.cpu() & tokens.real
