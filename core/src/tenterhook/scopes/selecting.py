"""What a scope knows of a selector: that it says which part of an activation is meant.

Core does not know what a token is. A selector is handed what would run at a layer, and gives what
runs there in its place. `tenterhook.selections.Selection` is the selector that comes with the
distribution tenterhook-selections; any object with these methods serves as well.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

from torch import Tensor, nn

from tenterhook._dispatch.entries import Entry
from tenterhook._dispatch.frames import NO_STEPS, Place, Steps
from tenterhook._dispatch.sites import Side, site_of
from tenterhook.errors import closest

if TYPE_CHECKING:
    from tenterhook.selections import Tokens, Where


class Selector(Protocol):
    """Which part of each activation a scope is for. Immutable; shared by scopes and threads."""

    def begin(self, model: nn.Module) -> "Selecting":
        """Return the selector at work, for one opening of a scope on `model`.

        Raises `ValueError` where it makes no sense for this model.
        """


class Selecting(Protocol):
    """A selector in one open scope.

    It is a step of the scope, too: `before(module, args, kwargs)` is called before each forward of
    one of its `modules`, `after(module, args, kwargs, output)` after it, and `detecting()` gives
    itself, since it looks on while controllers are off.
    """

    places: Sequence[Place]
    """What else is entered when the scope opens, and left when it closes."""

    receipt: Any
    """What was changed: `calls`, `tokens`, and `change` or `None`."""

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The model, and those of its parts whose forwards it looks at."""

    def change(self, entry: Entry) -> Entry:
        """Return what runs `entry` at one layer, for the selected part alone."""

    def recorder(self, layer: str, at: int, form: Any) -> Any:
        """Return the `Recorder` that keeps the selected part of what `layer` gives.

        Its `where` is a list, of where the tokens of each call stood.
        """

    def by_row(self, calls: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Return what was kept of each row, `(tokens, features)`, in token order."""

    def unmatched(self, *, so_far: bool = False) -> list[str]:
        """Return, once, a sentence that says where nothing was selected; none if all matched.

        It says why. `so_far` leaves out what a later run of the model may well select.
        """


class Selected(TypedDict, total=False):
    """What `capture`, `steer`, `hooks` and `register_hook` take to select a part.

    The fields of `tenterhook.selections.Selection`, or one of these whole.
    """

    tokens: "Tokens | None"
    phase: Literal["prompt", "generated"] | None
    rows: "Where | None"
    features: "Where | None"
    heads: "Where | None"
    every: int
    step: "Where | None"
    selection: Selector | None


def selector_of(given: Selected) -> Selector | None:
    """Return the selector, given whole or in parts; `None` where everything is selected.

    The parts go unread to `Selection`; where the distribution that has it is not installed, its
    door raises `ImportError` with the pip command. Raises `TypeError` for a part that it lacks.
    """
    if not given:  # nearly always
        return None
    parts: dict[str, Any] = {**given}
    selection: Selector | None = parts.pop("selection", None)
    if unknown := sorted(parts.keys() - Selected.__annotations__.keys()):
        close = closest(unknown[0], [*Selected.__annotations__], 1)
        raise TypeError(f"There is no argument {unknown[0]!r}. Did you mean {close[0]!r}?")
    if all(part is None or (name, part) == ("every", 1) for name, part in parts.items()):
        return None if getattr(selection, "everything", False) else selection
    if selection is not None:
        raise ValueError(f"Give either selection={selection!r} or its parts, not both.")
    from tenterhook.selections import Selection

    return Selection(**parts)


def steps_of(selectings: Iterable[Selecting]) -> dict[Place, Steps]:
    """Return where selectors look on."""
    steps: dict[Place, Steps] = {}
    for each in selectings:
        at = [site_of(m, side) for m in each.modules for side in get_args(Side)]
        steps |= dict.fromkeys(each.places, NO_STEPS)
        steps |= {site: steps.get(site, NO_STEPS) + Steps((each,)) for site in at}
    return steps
