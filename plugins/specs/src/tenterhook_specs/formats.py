"""Specs as text and as files, in the formats that plugins offer: ours are TOML, JSON and YAML.

A format turns text into plain values and back; what they say is checked here, for all formats
alike, before `structure` makes a spec of them.
"""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from tenterhook.one_line import printable, type_name
from tenterhook.plugins import PluginManager, Registered, default_manager
from tenterhook_specs import plugin
from tenterhook_specs.errors import BadSpec
from tenterhook_specs.plain_values import MOST_REPEATED, check_plain
from tenterhook_specs.spec_format import SpecFormat
from tenterhook_specs.values import plain, structure

T = TypeVar("T")

LONGEST = 2**24
"""Characters that a text is read of, unless more are asked for."""


def dumps(spec: Any, format: str = "toml") -> str:
    """Return a spec, or any frozen class of plain values, as text that `loads` reads.

    Raises `NotDescribable` for a value without a plain form.
    """
    registered = _registered(format)
    text = _format(registered).dumps(plain(spec, type(spec).__name__))
    if not isinstance(text, str):
        raise registered.broken(f"wrote a {type_name(text)}, and no text")
    return text


def loads(
    text: str,
    kind: type[T],
    format: str = "toml",
    *,
    where: str = "the spec",
    longest: int = LONGEST,
) -> T:
    """Return the spec that the text says; of a text from a stranger give a small `longest`.

    Raises `BadSpec` for text that is not of the format or has more than `longest` characters, for
    values that are no plain ones, too many (as aliases of aliases say them) or too deep, for keys
    that stand twice, and for what `structure` refuses.
    """
    registered = _registered(format)
    if len(text) > longest:
        raise BadSpec(
            [f"{where} has more than {longest:,} characters; give a larger longest to read it"]
        )
    reader = _format(registered)
    try:
        values = reader.loads(text)
    except BadSpec:
        raise
    except (ValueError, RecursionError) as error:  # the decoders' errors are ValueErrors
        raise BadSpec([f"{where} is no {format.upper()}: {printable(str(error))}"]) from error
    check_plain(values, most=len(text) + MOST_REPEATED, where=where)
    if not isinstance(values, dict):
        raise BadSpec([f"{where} holds a {type_name(values)}, and must hold a table"])
    return structure(values, kind)


def read_spec(path: str | Path, kind: type[T], *, longest: int = LONGEST) -> T:
    """Read a spec from a file, in the format of its ending.

    Ours are `.toml`, `.json`, `.yaml` and `.yml` (`pip install 'tenterhook[yaml]'`). Raises as
    `loads` does, `BadSpec` for another ending, `MissingDependency` for YAML without PyYAML,
    `OSError` where the file cannot be read.
    """
    path = Path(path)
    format = _format_of(path)
    if path.exists() and not path.is_file():  # a pipe would wait for whoever writes to it
        raise BadSpec([f"{path} is no file that can be read as a spec"])
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(longest + 1)
    except UnicodeDecodeError as error:
        raise BadSpec([f"{path} is no text in UTF-8: {error}"]) from error
    return loads(text, kind, format, where=str(path), longest=longest)


def write_spec(spec: Any, path: str | Path) -> None:
    """Write a spec to a file, in the format of its ending, in place of what was there."""
    path = Path(path)
    path.write_text(dumps(spec, _format_of(path)), encoding="utf-8")


def _format_of(path: Path) -> str:
    format = path.suffix.lower().removeprefix(".")
    known = _known()
    if format not in known and not default_manager().clash("spec_formats", format):
        endings = ", ".join(f".{name}" for name in known)
        raise BadSpec([f"{path} has no ending that says its format; use one of {endings}"])
    return format


@cache
def _ours() -> PluginManager:
    manager = PluginManager(autoload=False)
    manager.register(plugin, "specs")
    return manager


def _known() -> dict[str, Registered]:
    """Return the formats by name: ours whatever plugins are loaded, and those of plugins."""
    managers = _ours(), default_manager()
    return {name: each for one in managers for name, each in one.extensions("spec_formats").items()}


def _registered(format: str) -> Registered:
    known = _known()
    if format in known:
        return known[format]
    if clash := default_manager().clash("spec_formats", format):
        raise clash
    raise BadSpec([f"format={format!r} is not one of {', '.join(known)}"])


def _format(registered: Registered) -> SpecFormat:
    found: SpecFormat = registered.load()
    for name in ("loads", "dumps"):
        if not callable(getattr(found, name, None)):
            raise registered.broken(f"has no function {name!r}")
    return found
