"""For tests of plugins: that what is written comes back, hooks from specs and values from formats.

`DetectorContract` and `ControllerContract` of `tenterhook.testing.hooks` ask it of each hook where
this distribution is installed; `SpecFormatContract` is inherited by whoever offers a format.
"""

import copy
from typing import Any

import pytest

from tenterhook.hooks import Hook
from tenterhook_specs.errors import NotDescribable
from tenterhook_specs.formats import dumps, loads
from tenterhook_specs.hooks import HookSpec, ModelSpec, describe_hook, make_hook
from tenterhook_specs.parameters import parameters_of
from tenterhook_specs.spec_format import SpecFormat
from tenterhook_specs.values import plain, structure

__all__ = ["SpecFormatContract", "check_round_trip"]


def check_round_trip(hook: Hook) -> None:
    """Describe a hook, write that as text, read it, and make an equal hook of it.

    The hook has the layer that it is for. One of a function that has no import path may say that
    it cannot be described: the test is skipped then, and says so.
    """
    try:
        spec = describe_hook(hook)
    except NotDescribable as error:
        if "import path" in str(error) or "in a script" in str(error):
            pytest.skip(str(error))
        raise
    read = loads(dumps(spec), HookSpec)
    allow = [type(hook).__module__.partition(".")[0], *_homes_of_functions(hook)]
    again = make_hook(read, allow=allow)
    again.layer_signature = hook.layer_signature
    assert type(again) is type(hook)
    assert describe_hook(again) == spec


def _homes_of_functions(hook: Hook) -> list[str]:
    """Return the packages of the functions that a hook was made with."""
    values = (getattr(hook, name, None) for name in parameters_of(type(hook)))
    homes = {str(getattr(value, "__module__", "")) for value in values if callable(value)}
    return sorted(home.partition(".")[0] for home in homes if home)


VALUES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "numbers": {"int": -3, "large": 2**63 - 1, "float": 0.1, "whole": 2.0, "small": 5e-324},
    "booleans": {"yes": True, "no": False},
    "texts": {"empty": "", "spaces": "  a ", "lines": "a\n b\r\n", "ü": "ü\u20ac\U0001f600"},
    "texts like others": {"a": "true", "b": "1", "c": "1e3", "d": "null", "e": "no", "f": "~"},
    "texts with signs": {"a": "'\"\\", "b": "# a: [b] = {c}", "c": "- x", "d": "\t\x7f\u2028"},
    "keys": {"a.b": 1, "": 2, "a b": 3, '"': 4, "1": 5, "true": 6, "#": 7},
    "lists": {"empty": [], "mixed": [1, 2.0, "a", True, []], "nested": [[1], [[2]]]},
    "tables": {"a": {"b": {"c": 1}}, "empty": {}, "list": [{"a": 1}, {}, {"a": {"b": [1]}}]},
    "a table in lists": {"a": [[{"b": 1}], {"c": [{"d": 2}]}, 3]},
}
"""Plain values that specs hold, by what is odd about them."""


class SpecFormatContract:
    """Inherit and give `format`: what is written is read again, as it was.

    class TestMyFormat(SpecFormatContract):
        format = my_package.MY_FORMAT
        no_text = "{"
    """

    format: SpecFormat
    no_text: str = "\0"
    """A text that is not of the format."""

    @pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
    def test_values_come_back(self, values: dict[str, Any]) -> None:
        """Equal, and of the same types."""
        text = self.format.dumps(copy.deepcopy(values))
        assert isinstance(text, str)
        found = self.format.loads(text)
        assert found == values
        assert repr(_sorted(found)) == repr(_sorted(values))  # 1 is not True, nor 2 2.0

    def test_it_writes_the_same_each_time(self) -> None:
        """Files are compared, and kept under version control."""
        values = {"b": 1, "a": [1, {"d": 2, "c": 3}]}
        assert self.format.dumps(values) == self.format.dumps(copy.deepcopy(values))

    def test_writing_changes_nothing(self) -> None:
        """What is given is the caller's."""
        values = {"a": [1, {"b": 2}]}
        self.format.dumps(values)
        assert values == {"a": [1, {"b": 2}]}

    def test_a_spec_comes_back(self) -> None:
        """As `write_spec` and `read_spec` have it."""
        spec = ModelSpec(
            hooks=(
                HookSpec(hook="Scale", layer=-1, parameters={"factor": 2.0}),
                HookSpec(hook="AddVector", layer="h.1", parameters={"vector": [0.5, -1.0]}),
            )
        )
        read = self.format.loads(self.format.dumps(plain(spec, "spec")))
        assert structure(read, ModelSpec) == spec

    def test_what_is_not_of_the_format(self) -> None:
        """A `ValueError`, which says something."""
        with pytest.raises(ValueError, match=r"\S"):
            self.format.loads(self.no_text)


def _sorted(values: Any) -> Any:
    """Return values with the keys of every table in one order."""
    if isinstance(values, dict):
        return {key: _sorted(values[key]) for key in sorted(values)}
    if isinstance(values, list):
        return [_sorted(each) for each in values]
    return values
