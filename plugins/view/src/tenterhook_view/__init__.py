"""Pages, pictures and terminal output that show activations.

`page(run).save("run.html")` writes one file that holds everything and fetches nothing. Its parts
are functions of arrays and texts: `tokens`, `lens`, `attention`, `examples`, `grid`, `diff`.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

if TYPE_CHECKING:
    from tenterhook_view.attention_heads import attention
    from tenterhook_view.colored_tokens import tokens
    from tenterhook_view.errors import (
        NoSuchDocument,
        NothingToShow,
        NotShown,
        SeveralLayers,
        UnknownFormat,
        UnknownQuantity,
        UnreadableVector,
        WrongShape,
    )
    from tenterhook_view.parts import Part
    from tenterhook_view.token_grid import grid, lens
    from tenterhook_view.top_examples import examples
    from tenterhook_view.two_texts import diff
    from tenterhook_view.vectors import read_direction, read_probe, read_vector
    from tenterhook_view.whole_page import Page, page

_HOMES = {
    "NoSuchDocument": "errors",
    "NotShown": "errors",
    "NothingToShow": "errors",
    "Page": "whole_page",
    "Part": "parts",
    "SeveralLayers": "errors",
    "UnknownFormat": "errors",
    "UnknownQuantity": "errors",
    "UnreadableVector": "errors",
    "WrongShape": "errors",
    "attention": "attention_heads",
    "diff": "two_texts",
    "examples": "top_examples",
    "grid": "token_grid",
    "lens": "token_grid",
    "page": "whole_page",
    "read_direction": "vectors",
    "read_probe": "vectors",
    "read_vector": "vectors",
    "tokens": "colored_tokens",
}

__all__ = [
    "NoSuchDocument",
    "NotShown",
    "NothingToShow",
    "Page",
    "Part",
    "SeveralLayers",
    "UnknownFormat",
    "UnknownQuantity",
    "UnreadableVector",
    "WrongShape",
    "attention",
    "diff",
    "examples",
    "grid",
    "lens",
    "page",
    "read_direction",
    "read_probe",
    "read_vector",
    "tokens",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
