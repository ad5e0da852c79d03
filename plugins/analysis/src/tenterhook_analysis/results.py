"""What all results have: arrays with the names of their axes, a table, a picture.

A result is arrays of torch on the CPU. `axes` says what each number of an axis stands for, `arrays`
which axes each array has; the table of `to_pandas()` has a row for each place on the axes.
"""

import abc
import importlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, final

import attrs
from torch import Tensor

from tenterhook_analysis.grids import Grid


@final
@attrs.frozen(eq=False)
class Array:
    """Numbers or texts, and what their axes are."""

    values: "Tensor | Sequence[Any]"
    """A tensor on the CPU, or lists in lists where it is text."""
    axes: tuple[str, ...]
    """The name of each axis, in order."""


class Result(abc.ABC):
    """What an analysis found."""

    @property
    @abc.abstractmethod
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """The axes by name, each with what its places are called."""

    @property
    @abc.abstractmethod
    def arrays(self) -> Mapping[str, Array]:
        """The arrays by name."""

    @abc.abstractmethod
    def grid(self) -> Grid:
        """Return it as rows and columns, as it is drawn here and on a page."""

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`: a row for each place on the axes, a column for each array.

        Arrays that lack an axis are repeated along it. Raises `ImportError`, with what to install,
        where pandas is not there.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError(
                'Tables are those of pandas: pip install "tenterhook-analysis[pandas]".'
            ) from error
        names, arrays = list(self.axes), self.arrays
        places = list(itertools.product(*(range(len(each)) for each in self.axes.values())))
        columns: dict[str, list[Any]] = {
            name: [self.axes[name][place[at]] for place in places] for at, name in enumerate(names)
        }
        for name, array in arrays.items():
            at = [names.index(axis) for axis in array.axes]
            values = array.values.tolist() if isinstance(array.values, Tensor) else array.values
            columns[name] = [_picked(values, [place[each] for each in at]) for place in places]
        return pandas.DataFrame(columns)

    def plot(self, ax: Any = None) -> Any:
        """Draw it with matplotlib, on `ax` where that is given, and return the axes.

        Raises `ImportError`, with what to install, where matplotlib is not there.
        """
        return self.grid().plot(ax)

    def _repr_html_(self) -> str:
        return self.grid().to_html()


def _picked(values: Any, place: Sequence[int]) -> Any:
    for each in place:
        values = values[each]
    return values
