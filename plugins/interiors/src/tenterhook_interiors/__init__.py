"""Names for what happens inside attention and experts of Hugging Face models.

Importing this imports neither torch nor transformers; each name is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
