"""What a plugin declares: a name, where the thing lives, one line of help.

Declaring imports nothing heavy; `Extension.load` does, when somebody asks for the thing.
"""

import pkgutil
import re
from collections.abc import Callable
from typing import Any, final

import attrs

from tenterhook.one_line import shown, type_name

LONGEST = 200
"""Characters of each text: lists and errors show them."""

SCHEME = re.compile(r"[a-z][a-z0-9+.-]{1,99}")
"""A URL scheme. It has two characters at least: `C:` is a drive."""

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_TARGET = f"{_DOTTED}:{_DOTTED}"


def _text(pattern: str, expected: str) -> Callable[..., None]:
    """Return a validator: a text is short, can be printed and has the pattern."""

    def check(_: object, attribute: "attrs.Attribute[str]", text: object) -> None:
        what = f"{attribute.name}={shown(text)}"
        if not isinstance(text, str):
            raise TypeError(f"{what} is of type {type_name(text)}. Give text.")
        if len(text) > LONGEST or not text.isprintable() or not re.fullmatch(pattern, text):
            raise ValueError(f"{what} is not {expected}, in {LONGEST} characters at most.")

    return check


_is_name = _text(
    r"[^\W\d][\w-]*(\.[^\W\d][\w-]*)?",
    "a name: of a class, a scheme without its colon, or for a command 'word' or 'group.word'",
)
_is_target = _text(_TARGET, "an import target as 'package.module:Name'")
_is_example = _text(f"({_TARGET})?", "an import target as 'package.module:name'")
_is_help = _text(r".*\S.*", "one line of help")
_is_requirement = _text(".*", "what one types after `pip install`")
_is_scheme = _text(SCHEME.pattern, "a scheme: two letters or more, lower case, without its colon")


def _are_schemes(extension: object, attribute: "attrs.Attribute[Any]", schemes: object) -> None:
    if not isinstance(schemes, tuple):
        raise TypeError(f"schemes={shown(schemes)} is no tuple. Give one, as ('sqlite',).")
    for each in schemes:
        _is_scheme(extension, attribute, each)


@final
@attrs.frozen
class Extension:
    """One thing that a plugin offers: a hook, a store, a model loader, a command, ..."""

    name: str = attrs.field(validator=_is_name)
    """Class name of a hook or store; scheme (`tiny`) of a loader or data source; else a word.

    A command's name may have a dot: `sae.plot` adds `plot` to the group `sae`."""

    target: str = attrs.field(validator=_is_target)
    """Where it is, as `package.module:Name`; imported by `load` and not before."""

    help: str = attrs.field(validator=_is_help)
    """One line, printable, that says what it does."""

    needs: str = attrs.field(default="", kw_only=True, validator=_is_requirement)
    """What to `pip install` where its import finds a module missing: `"my-plugin[plots]"`.

    By default what the distribution says it requires."""

    example: str = attrs.field(default="", kw_only=True, validator=_is_example)
    """A function that makes one for contract tests, as `package.module:name`.

    It returns a fresh hook for a layer of 8 features (told `batch` and `seq` if it takes them, for
    a hook that is made for one shape); given a folder, a store in it; or the name of
    a small model, without the scheme. `tenterhook plugins check` calls it where the thing cannot be
    made of its defaults."""

    schemes: tuple[str, ...] = attrs.field(default=(), kw_only=True, validator=_are_schemes)
    """URL schemes of the places that a store serves: with `("sqlite",)` it is asked for
    `sqlite:runs.db`. Stores alone have them."""

    def load(self) -> Any:
        """Import the target and return it.

        Raises whatever the import raises, `AttributeError` where the module has no such name.
        """
        return pkgutil.resolve_name(self.target)

    def load_example(self) -> Any:
        """Import the function that makes one for tests; `None` where there is none."""
        return pkgutil.resolve_name(self.example) if self.example else None
