"""What goes wrong when something is to be shown."""

from collections.abc import Sequence

import attrs

from tenterhook.errors import TenterhookError
from tenterhook.one_line import printable, type_name


@attrs.define(slots=False)
class NotShown(TenterhookError, TypeError):
    """A page was given something that nobody knows how to show."""

    given: object

    def __str__(self) -> str:
        return (
            f"A {type_name(self.given)} is nothing that a page shows. Give a run, a part (`tokens`,"
            " `lens`, `attention`, `examples`, `grid`, `diff`), or an object with `_repr_html_`."
        )


@attrs.define(slots=False)
class WrongShape(TenterhookError, ValueError):
    """Numbers do not go with what they are of."""

    what: str
    shape: Sequence[int]
    expected: str

    def __str__(self) -> str:
        return f"{self.what} has the shape {tuple(self.shape)}, not {self.expected}."


@attrs.define(slots=False)
class UnknownQuantity(TenterhookError, ValueError):
    """Tokens were to be coloured by something that is not known here."""

    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        names = ", ".join(map(printable, self.known))
        return f"by={printable(self.name)!r} is not among: {names}."


@attrs.define(slots=False)
class UnreadableVector(TenterhookError, ValueError):
    """A file does not hold what it was given for."""

    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"{printable(self.path)} {self.why}. A direction or a probe is a .safetensors or .npy "
            "file of numbers, as `safetensors.torch.save_file({'direction': v}, path)` writes it."
        )


@attrs.define(slots=False)
class NoSuchDocument(TenterhookError, IndexError):
    """The run has no rows of a document that was asked for."""

    document: int
    documents: int
    run: str

    def __str__(self) -> str:
        return (
            f"Run {printable(self.run)!r} has no rows of document {self.document} that can be "
            f"read; its {self.documents:,} documents are numbered from 0."
        )


@attrs.define(slots=False)
class NothingToShow(TenterhookError, LookupError):
    """A run has no rows that can be shown."""

    run: str
    why: str

    def __str__(self) -> str:
        return f"Run {printable(self.run)!r} has nothing to show: {self.why}."


@attrs.define(slots=False)
class UnknownFormat(TenterhookError, ValueError):
    """A picture is to be written to a file whose ending says no format that is known."""

    path: str
    known: Sequence[str]

    def __str__(self) -> str:
        return f"{printable(self.path)} ends in none of: {', '.join(self.known)}."


@attrs.define(slots=False)
class SeveralLayers(TenterhookError, ValueError):
    """A vector was to be added to one layer, and it was not said to which."""

    layers: Sequence[str]

    def __str__(self) -> str:
        names = ", ".join(map(printable, self.layers))
        return f"A vector is added to one layer: give one of {names}."
