"""Which tokens, rows, features and calls a hook is for."""

from tenterhook_selections.selection import Generation, Seen, Selection, Watch, Where, generating

__all__ = ["Generation", "Seen", "Selection", "Watch", "Where", "generating"]
