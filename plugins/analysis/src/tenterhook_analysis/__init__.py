"""What people compute of models every week: lenses, patching, attribution, vectors, probes.

Importing this imports no torch; each name is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_analysis.errors import AnalysisWarning, NoReadout, WrongWidth
    from tenterhook_analysis.grids import Grid
    from tenterhook_analysis.lens import LogitLens, logit_lens
    from tenterhook_analysis.results import Array, Result

_HOMES = {
    "AnalysisWarning": "errors",
    "Array": "results",
    "Grid": "grids",
    "LogitLens": "lens",
    "NoReadout": "errors",
    "Result": "results",
    "WrongWidth": "errors",
    "logit_lens": "lens",
}

__all__ = [
    "AnalysisWarning",
    "Array",
    "Grid",
    "LogitLens",
    "NoReadout",
    "Result",
    "WrongWidth",
    "logit_lens",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
