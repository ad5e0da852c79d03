"""What a run will hold, fixed before anything runs: its arrays, its rows, its units of work."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final, overload

import attrs
from attrs import validators

from tenterhook_store.notebook import plan_html
from tenterhook_store.structuring import strict_converter, structured

ROW_ARRAYS: Mapping[str, str] = {"token": "int32", "document": "int64", "position": "int32"}
"""The arrays beside the layers, one number per row, and their dtypes."""

CODECS = ("none", "zstd", "blosc")
"""What may compress the rows of layers: nothing, zstd, or lz4 with bitshuffle (blosc)."""

_positive = validators.and_(validators.instance_of(int), validators.ge(1))


@attrs.frozen
class LayerArray:
    """The rows of one layer."""

    name: str = attrs.field(validator=validators.instance_of(str))
    """The layer's dotted name, or `input` or `output` for the whole model."""

    features: int = attrs.field(validator=_positive)

    dtype: str = attrs.field(
        validator=validators.and_(validators.instance_of(str), validators.min_len(1))
    )
    """As torch calls it: `float32`, `bfloat16`."""


@attrs.frozen
class Unit:
    """A range of rows that is computed, written and committed as one."""

    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


def _as_tuple(layers: Iterable[LayerArray]) -> tuple[LayerArray, ...]:
    return tuple(layers)


@attrs.frozen(kw_only=True)
class RunPlan:
    """What a run holds when it is complete.

    Unit `n` is the rows from `n * rows_per_unit`, so that each unit is whole shards of every
    array and no two writers share a file.
    """

    rows: int = attrs.field(validator=_positive)
    rows_per_unit: int = attrs.field(validator=_positive)
    documents: int = attrs.field(validator=_positive)
    """How many documents the rows come from; `document` of a row is below it."""

    layers: tuple[LayerArray, ...] = attrs.field(converter=_as_tuple)
    """Empty for a run that stores of each row its token, document and position alone."""

    spec: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """What the bytes follow from, in plain JSON values; two runs with equal plans are one run."""

    codec: str = attrs.field(default="none")
    """How a store that can compresses the rows, one of `CODECS`; what is read is the same."""

    about: Mapping[str, Any] = attrs.field(factory=dict, eq=False)
    """What else is worth knowing, in plain JSON values; no part of the run's identity."""

    @layers.validator
    def _check_layers(self, attribute: object, layers: tuple[LayerArray, ...]) -> None:
        names = [layer.name for layer in layers]
        if len(set(names)) < len(names):
            raise ValueError(f"layers={names} names one of them twice.")

    @codec.validator
    def _check_codec(self, attribute: object, codec: str) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec={codec!r} is none of {', '.join(CODECS)}.")

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return -(-self.rows // self.rows_per_unit)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all layers together."""
        from tenterhook_store.tensors import item_bytes

        return sum(each.features * item_bytes(each.dtype) for each in self.layers)

    def unit(self, number: int) -> Unit:
        """Return the unit of that number; `IndexError` where there is none."""
        if not 0 <= number < self.unit_count:
            raise IndexError(f"Unit {number} is not among the {self.unit_count} of the plan.")
        start = number * self.rows_per_unit
        return Unit(number, start, min(start + self.rows_per_unit, self.rows))

    def units(self) -> "Units":
        """Return all units, in order: a sequence that makes each when it is asked for."""
        return Units(self, range(self.unit_count))

    def layer(self, name: str) -> LayerArray:
        """Return the array of that layer; `KeyError` where there is none."""
        for each in self.layers:
            if each.name == name:
                return each
        raise KeyError(name)

    def _repr_html_(self) -> str:
        return plan_html(self)

    def to_json(self) -> str:
        """Return it as JSON, the same text for the same plan."""
        return json.dumps(strict_converter().unstructure(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "RunPlan":
        """Read what `to_json` wrote; a `ValueError` that says what is wrong with it."""
        return structured(cls, json.loads(text))

    def differences(self, other: "RunPlan") -> list[str]:
        """Return where the other plan is not this one, a phrase each; empty where they are equal.

        Where the specs differ, only those differences are returned: the others follow from them.
        """
        mine, theirs = (_flat(strict_converter().unstructure(plan)) for plan in (self, other))
        keys = [
            key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)
        ]
        keys = [key for key in keys if not key.startswith("about.")]
        keys = [key for key in keys if key.startswith("spec.")] or keys
        return [_phrase(key.removeprefix("spec."), theirs, mine, key) for key in keys]


@final
class Units(Sequence[Unit]):
    """Units of a plan, in order; of any number of them, in no memory but that of the numbers."""

    def __init__(self, plan: RunPlan, numbers: Sequence[int]) -> None:
        """Those of rising numbers, as a range or `UnitNumbers`."""
        self._plan = plan
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Unit]:
        return map(self._plan.unit, self._numbers)

    @overload
    def __getitem__(self, key: int) -> Unit: ...
    @overload
    def __getitem__(self, key: slice) -> "Units": ...
    def __getitem__(self, key: int | slice) -> "Unit | Units":
        if isinstance(key, slice):
            return Units(self._plan, self._numbers[key])
        return self._plan.unit(self._numbers[key])

    @property
    def rows(self) -> int:
        """How many rows they have together; none of them is made."""
        if not self._numbers:
            return 0
        size, last = self._plan.rows_per_unit, self._plan.unit(self._numbers[-1])
        return (len(self._numbers) - 1) * size + last.rows

    def __contains__(self, unit: object) -> bool:
        return (
            isinstance(unit, Unit)
            and unit.number in self._numbers
            and unit == self._plan.unit(unit.number)
        )

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Units | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Units({len(self):,} of {self._plan.rows_per_unit:,} rows)"


def _phrase(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any], key: str) -> str:
    if name.endswith("fingerprint"):
        return f"{name.removesuffix('_fingerprint')} not the same"
    return f"{name} is {_short(theirs, key)} there and {_short(mine, key)} here"


def _short(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    shown = repr(values[key])
    return shown if len(shown) <= 40 else f"{shown[:30]}...{shown[-7:]}"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves by their path; of a list of things with names, by those."""
    parts: Any = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple) and value and all(_name(each) for each in value):
        parts = [(_name(each), {k: v for k, v in each.items() if k != "name"}) for each in value]
    if parts is None:
        # Tuples come back from JSON as lists.
        return {path: json.loads(json.dumps(value))}
    return {
        name: found
        for key, each in parts
        for name, found in _flat(each, f"{path}.{key}" if path else key).items()
    }


def _name(value: Any) -> Any:
    return isinstance(value, Mapping) and value.get("name")
