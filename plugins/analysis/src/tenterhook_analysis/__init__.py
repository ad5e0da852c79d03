"""What people compute of models every week: lenses, patching, attribution, vectors, probes.

Importing this imports no torch; each name is imported when first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_analysis.attribution import LogitAttribution, direct_logit_attribution
    from tenterhook_analysis.errors import (
        AnalysisWarning,
        BadLabels,
        BadMetric,
        NoReadout,
        NoSuchPosition,
        NotASum,
        NotByToken,
        OtherLayers,
        UnequalPrompts,
        UnreadableVector,
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
    from tenterhook_analysis.probes import Probe, probe
    from tenterhook_analysis.prompts import logit_difference
    from tenterhook_analysis.results import Array, Result
    from tenterhook_analysis.steering import Steered, steered
    from tenterhook_analysis.vectors import SteeringVectors, contrast, load_vector, mean_difference

_HOMES = {
    "AnalysisWarning": "errors",
    "Array": "results",
    "BadLabels": "errors",
    "BadMetric": "errors",
    "Grid": "grids",
    "LogitAttribution": "attribution",
    "LogitLens": "lens",
    "NoReadout": "errors",
    "NoSuchPosition": "errors",
    "NotASum": "errors",
    "NotByToken": "errors",
    "OtherLayers": "errors",
    "PatchGrid": "patching",
    "Probe": "probes",
    "Result": "results",
    "Steered": "steering",
    "SteeringVectors": "vectors",
    "UnequalPrompts": "errors",
    "UnreadableVector": "errors",
    "WrongWidth": "errors",
    "attribution_patching": "patching",
    "contrast": "vectors",
    "direct_logit_attribution": "attribution",
    "integrated_gradients": "patching",
    "load_vector": "vectors",
    "logit_difference": "prompts",
    "logit_lens": "lens",
    "mean_difference": "vectors",
    "patch_grid": "patching",
    "probe": "probes",
    "steered": "steering",
}

__all__ = [
    "AnalysisWarning",
    "Array",
    "BadLabels",
    "BadMetric",
    "Grid",
    "LogitAttribution",
    "LogitLens",
    "NoReadout",
    "NoSuchPosition",
    "NotASum",
    "NotByToken",
    "OtherLayers",
    "PatchGrid",
    "Probe",
    "Result",
    "Steered",
    "SteeringVectors",
    "UnequalPrompts",
    "UnreadableVector",
    "WrongWidth",
    "attribution_patching",
    "contrast",
    "direct_logit_attribution",
    "integrated_gradients",
    "load_vector",
    "logit_difference",
    "logit_lens",
    "mean_difference",
    "patch_grid",
    "probe",
    "steered",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
