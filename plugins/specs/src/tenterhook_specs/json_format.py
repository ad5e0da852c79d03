"""Specs as JSON."""

import json
from typing import Any

from tenterhook_specs.spec_format import SpecFormat


class _Json:
    def loads(self, text: str) -> Any:
        return json.loads(text, object_pairs_hook=_table)

    def dumps(self, values: Any) -> str:
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table; where a key stands twice Python would silently take the second."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r} stands twice in one table")
        table[key] = value
    return table


JSON: SpecFormat = _Json()
