"""What this distribution offers to tenterhook; imports nothing heavy."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_stores() -> Sequence[Extension]:
    """Declare the store that needs no other distribution."""
    return [
        Extension(
            "MemoryStore",
            "tenterhook_store.memory:MemoryStore",
            "Tensors and runs in memory, for as long as the store lives.",
            example="tenterhook_store.examples:memory",
        )
    ]
