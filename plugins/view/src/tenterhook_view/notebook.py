"""What a notebook is shown of parts: their markup, styled, with no script, and bounded."""

from functools import cache
from importlib import resources
from typing import Protocol

from tenterhook_view.markup import line

MOST_IN_NOTEBOOK = 60_000
"""Characters of the markup that a notebook is given."""


@cache
def asset(name: str) -> str:
    """Return a file of this package: the style or the script of pages."""
    return resources.files("tenterhook_view").joinpath(name).read_text(encoding="utf-8")


class Shows(Protocol):
    """What has markup: a part."""

    @property
    def title(self) -> str:
        """Its heading."""

    @property
    def markup(self) -> str:
        """HTML."""

    @property
    def preview(self) -> str:
        """The beginning of long markup."""


def in_notebook(*parts: Shows) -> str:
    """Return what a notebook shows of parts: their markup and style, with no script, bounded.

    The style is for what is inside, and nothing else in the notebook.
    """
    style = asset("page.css").replace(":root", ":scope").replace("body {", ":scope {")
    style += "\n.controls, .status { display: none; }"
    found = [f"<div><style>@scope {{\n{style}\n}}</style>"]
    length = len(found[0])
    for at, part in enumerate(parts, 1):
        heading = f"<h3>{line(part.title)}</h3>"
        markup = part.preview if len(part.markup) > MOST_IN_NOTEBOOK // 2 else part.markup
        if not markup or length + len(heading) + len(markup) > MOST_IN_NOTEBOOK:
            left = len(parts) - at + 1
            found.append(
                f"<p>{left} part{'s' if left > 1 else ''} more: too large for a notebook. "
                "<code>page(part).save('page.html')</code> writes a page.</p>"
            )
            break
        found.append(heading + markup)
        length += len(heading) + len(markup)
    return "".join([*found, "</div>"])
