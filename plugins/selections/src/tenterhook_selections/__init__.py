"""Which tokens, rows, features and calls a hook is for."""

from tenterhook_selections.generation import Generation, generating
from tenterhook_selections.positions import Where
from tenterhook_selections.selection import Selection
from tenterhook_selections.tokens import Seen
from tenterhook_selections.watch import Watch

__all__ = ["Generation", "Seen", "Selection", "Watch", "Where", "generating"]
