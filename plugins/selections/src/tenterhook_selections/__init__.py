"""Which tokens, rows, features and calls a hook is for.

Importing this imports no torch, so that the plugin of this distribution is found without it; each
name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_selections.generate_calls import known_searches
    from tenterhook_selections.generation import RunningGeneration
    from tenterhook_selections.here import tokens_here
    from tenterhook_selections.measuring import measured
    from tenterhook_selections.own_loops import generating
    from tenterhook_selections.positions import Tokens, Where
    from tenterhook_selections.putting_back import PutBack
    from tenterhook_selections.roles import Roles
    from tenterhook_selections.selection import Selection
    from tenterhook_selections.tokens import Seen
    from tenterhook_selections.watch import Watch

__all__ = [
    "PutBack",
    "Roles",
    "RunningGeneration",
    "Seen",
    "Selection",
    "Tokens",
    "Watch",
    "Where",
    "generating",
    "known_searches",
    "measured",
    "tokens_here",
]

_HOMES = {
    "PutBack": "putting_back",
    "Roles": "roles",
    "RunningGeneration": "generation",
    "Seen": "tokens",
    "Selection": "selection",
    "Tokens": "positions",
    "Watch": "watch",
    "Where": "positions",
    "generating": "own_loops",
    "known_searches": "generate_calls",
    "measured": "measuring",
    "tokens_here": "here",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
