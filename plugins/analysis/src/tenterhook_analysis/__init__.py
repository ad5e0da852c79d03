"""What people compute of models every week: lenses, patching, attribution, vectors, probes.

Importing this imports no torch; each name is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_analysis.attribution import LogitAttribution, direct_logit_attribution
    from tenterhook_analysis.errors import (
        AnalysisWarning,
        BadMetric,
        NoReadout,
        NoSuchPosition,
        NotASum,
        NotByToken,
        UnequalPrompts,
        WrongWidth,
    )
    from tenterhook_analysis.grids import Grid
    from tenterhook_analysis.lens import LogitLens, logit_lens
    from tenterhook_analysis.patching import (
        PatchGrid,
        attribution_patching,
        integrated_gradients,
        patch_grid,
    )
    from tenterhook_analysis.prompts import logit_difference
    from tenterhook_analysis.results import Array, Result

_HOMES = {
    "AnalysisWarning": "errors",
    "Array": "results",
    "BadMetric": "errors",
    "Grid": "grids",
    "LogitAttribution": "attribution",
    "LogitLens": "lens",
    "NoReadout": "errors",
    "NoSuchPosition": "errors",
    "NotASum": "errors",
    "NotByToken": "errors",
    "PatchGrid": "patching",
    "Result": "results",
    "UnequalPrompts": "errors",
    "WrongWidth": "errors",
    "attribution_patching": "patching",
    "direct_logit_attribution": "attribution",
    "integrated_gradients": "patching",
    "logit_difference": "prompts",
    "logit_lens": "lens",
    "patch_grid": "patching",
}

__all__ = [
    "AnalysisWarning",
    "Array",
    "BadMetric",
    "Grid",
    "LogitAttribution",
    "LogitLens",
    "NoReadout",
    "NoSuchPosition",
    "NotASum",
    "NotByToken",
    "PatchGrid",
    "Result",
    "UnequalPrompts",
    "WrongWidth",
    "attribution_patching",
    "direct_logit_attribution",
    "integrated_gradients",
    "logit_difference",
    "logit_lens",
    "patch_grid",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
