"""Specs as TOML. Python reads it and does not write it, so the writer is here."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from tenterhook_specs.plain_values import DEEPEST
from tenterhook_specs.spec_format import SpecFormat

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# What is not closed ends with the text or line: each alternative always matches, in linear time.
_QUOTED = re.compile(
    r'"""(?:\\.|.)*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\[^\n]|[^"\n])*+"?|'
    r"'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
# Possessive (`++`): it looks at each character once, however it fails.
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")


class _Toml:
    def loads(self, text: str) -> Any:
        # tomllib takes time of the square of a key's parts: minutes for 200 kB of `a.a.a.`.
        if _LONG_KEY.search(_QUOTED.sub("_", text)):
            raise ValueError(f"a key has more than {DEEPEST} parts")
        return tomllib.loads(text)

    def dumps(self, values: Any) -> str:
        return _table(values)


TOML: SpecFormat = _Toml()


def _table(table: Mapping[str, Any], path: str = "") -> str:
    """Write a table: values first, then tables, then arrays of tables."""
    lines, below = [], []
    for key, value in table.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping):
            below.append(f"[{name}]\n{_table(value, name)}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            below += [f"[[{name}]]\n{_table(each, name)}" for each in value]
        else:
            lines.append(f"{_key(key)} = {_value(value)}\n")
    return "\n".join(filter(None, ["".join(lines), *below]))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)  # nan, inf and exponents are written alike
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return f"[{', '.join(map(_value, value))}]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """Quote text; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
