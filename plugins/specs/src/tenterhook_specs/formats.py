"""Specs as text: TOML and JSON, and YAML where PyYAML is installed."""

import importlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tenterhook.plugins import MissingDependency
from tenterhook_specs.errors import BadSpec
from tenterhook_specs.values import plain, structure

T = TypeVar("T")
Format = Literal["toml", "yaml", "json"]
_ENDINGS: dict[str, Format] = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(spec: Any, format: Format = "toml") -> str:
    """Return a spec, or any frozen class of plain values, as text that `loads` reads.

    Raises `NotDescribable` for a value without a plain form.
    """
    values = plain(spec, type(spec).__name__)
    match format:
        case "toml":
            return _toml(values)
        case "json":
            return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        case "yaml":
            text: str = _yaml().safe_dump(values, sort_keys=False)
            return text
    raise _no_format(format)


def loads(text: str, kind: type[T], format: Format = "toml", *, where: str = "the spec") -> T:
    """Return the spec that the text says.

    Raises `BadSpec` for text that is not of the format, and for what `structure` refuses.
    """
    if format not in get_args(Format):
        raise _no_format(format)
    try:
        match format:
            case "toml":
                values: Any = tomllib.loads(text)
            case "json":
                values = json.loads(text)
            case "yaml":
                values = _yaml_values(text)
    except (ValueError, RecursionError) as error:  # both decoders' errors are ValueErrors
        said = " ".join(str(error).split())
        raise BadSpec([f"{where} is no {format.upper()}: {said}"]) from error
    if not isinstance(values, dict):
        raise BadSpec([f"{where} holds a {type(values).__name__}, and must hold a table"])
    return structure(values, kind)


def read_spec(path: str | Path, kind: type[T]) -> T:
    """Read a spec from a file: `.toml`, `.json`, or `.yaml` (`pip install 'tenterhook[yaml]'`).

    Raises `BadSpec`, `MissingDependency` for YAML without PyYAML, `OSError` where the file cannot
    be read.
    """
    path = Path(path)
    return loads(path.read_text(encoding="utf-8"), kind, _format_of(path), where=str(path))


def write_spec(spec: Any, path: str | Path) -> None:
    """Write a spec to a file, in the format of its ending, in place of what was there."""
    path = Path(path)
    path.write_text(dumps(spec, _format_of(path)), encoding="utf-8")


def _format_of(path: Path) -> Format:
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        endings = ", ".join(_ENDINGS)
        raise BadSpec([f"{path} has no ending that says its format; use one of {endings}"])
    return found


def _no_format(format: object) -> BadSpec:
    return BadSpec([f"format={format!r} is not one of {', '.join(get_args(Format))}"])


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise MissingDependency("A spec in YAML", "yaml", "'tenterhook[yaml]'") from error


def _yaml_values(text: str) -> Any:
    yaml = _yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """Write what `plain` returns: values first, then tables, then arrays of tables."""
    lines, below = [], []
    for key, value in table.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping):
            below.append(f"[{name}]\n{_toml(value, name)}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            below += [f"[[{name}]]\n{_toml(each, name)}" for each in value]
        else:
            lines.append(f"{_key(key)} = {_toml_value(value)}\n")
    return "\n".join(filter(None, ["".join(lines), *below]))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, int | float):
        return repr(value)  # nan, inf and exponents are written alike
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    return f"[{', '.join(map(_toml_value, value))}]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml_text(key)


def _toml_text(text: str) -> str:
    """Quote text; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
