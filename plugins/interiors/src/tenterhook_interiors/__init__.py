"""Names for what happens inside attention and experts of Hugging Face models.

Importing this imports neither torch nor transformers; each name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_interiors.finding import find_points
    from tenterhook_interiors.translations import (
        LIBRARIES,
        NoTranslation,
        from_library,
        to_library,
    )

_HOMES = {
    "LIBRARIES": "translations",
    "NoTranslation": "translations",
    "find_points": "finding",
    "from_library": "translations",
    "to_library": "translations",
}

__all__ = ["LIBRARIES", "NoTranslation", "find_points", "from_library", "to_library"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
