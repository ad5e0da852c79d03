"""What a plugin declares: a name, where the thing lives, one line of help.

Declaring imports nothing heavy; `Extension.load` does, when somebody asks for the thing.
"""

import importlib
import re
from typing import Any, final

import attrs

from tenterhook.one_line import shown, type_name

LONGEST_NAME = 100
LONGEST_HELP = 200

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+")
"""A URL scheme. It has two characters at least: `C:` is a drive."""


def _check_text(_: object, attribute: "attrs.Attribute[Any]", text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{attribute.name}={shown(text)} is of type {type_name(text)}. Give text.")


def _check_name(_: object, attribute: "attrs.Attribute[Any]", name: str) -> None:
    parts = name.split(".")
    if len(parts) > 2 or not all(part.replace("-", "_").isidentifier() for part in parts):
        raise ValueError(
            f"{attribute.name}={name!r} is not a name. Write a class name, a scheme without its "
            "colon, or for a command 'word' or 'group.word'."
        )
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{attribute.name}={name[:20]!r}... is longer than {LONGEST_NAME}.")


def _check_target(_: object, attribute: "attrs.Attribute[Any]", target: str) -> None:
    module, colon, name = target.partition(":")
    if not (colon and name and all(part.isidentifier() for part in f"{module}.{name}".split("."))):
        raise ValueError(
            f"{attribute.name}={target!r} is not an import target. "
            "Write it as 'package.module:Name', for example 'tenterhook_zarr:ZarrStore'."
        )


def _check_example(_: object, attribute: "attrs.Attribute[Any]", example: str) -> None:
    if example:
        _check_target(_, attribute, example)


def _check_help(_: object, attribute: "attrs.Attribute[Any]", help: str) -> None:
    if not help.strip() or not help.isprintable():
        raise ValueError(f"{attribute.name}={help!r} is not one line of help.")
    if len(help) > LONGEST_HELP:
        raise ValueError(f"{attribute.name}={help[:20]!r}... is longer than {LONGEST_HELP}.")


def _check_needs(_: object, attribute: "attrs.Attribute[Any]", needs: str) -> None:
    if not needs.isprintable():
        raise ValueError(f"{attribute.name}={needs!r} is not what one types after `pip install`.")


def _check_schemes(_: object, attribute: "attrs.Attribute[Any]", schemes: object) -> None:
    if not isinstance(schemes, tuple):
        raise TypeError(
            f"{attribute.name}={shown(schemes)} is of type {type_name(schemes)}. "
            "Give a tuple, as ('sqlite',)."
        )
    for each in schemes:
        if not (isinstance(each, str) and SCHEME.fullmatch(each) and len(each) <= LONGEST_NAME):
            raise ValueError(
                f"{attribute.name} has {shown(each)}, which is no scheme. Write two letters or "
                "more, in lower case and without the colon, as 'sqlite'."
            )


@final
@attrs.frozen
class Extension:
    """One thing that a plugin offers: a hook, a store, a model loader, a command, ..."""

    name: str = attrs.field(validator=[_check_text, _check_name])
    """Class name of a hook or store; scheme (`tiny`) of a loader or data source; else a word.

    A command's name may have a dot: `sae.plot` adds `plot` to the group `sae`."""

    target: str = attrs.field(validator=[_check_text, _check_target])
    """Where it is, as `package.module:Name`; imported by `load` and not before."""

    help: str = attrs.field(validator=[_check_text, _check_help])
    """One line, printable, that says what it does."""

    needs: str = attrs.field(
        default="",
        kw_only=True,
        validator=[_check_text, _check_needs],
    )
    """What to `pip install` where its import finds a module missing: `"my-plugin[plots]"`.

    By default what the distribution says it requires."""

    example: str = attrs.field(
        default="",
        kw_only=True,
        validator=[_check_text, _check_example],
    )
    """A function that makes one for contract tests, as `package.module:name`.

    It returns a fresh hook for a layer of 8 features (told `batch` and `seq` if it takes them, for
    a hook that is made for one shape); given a folder, a store in it; or the name of
    a small model, without the scheme. `tenterhook plugins check` calls it where the thing cannot be
    made of its defaults."""

    schemes: tuple[str, ...] = attrs.field(default=(), kw_only=True, validator=_check_schemes)
    """URL schemes of the places that a store serves: with `("sqlite",)` it is asked for
    `sqlite:runs.db`. Stores alone have them."""

    def load(self) -> Any:
        """Import the target and return it.

        Raises whatever the import raises, `AttributeError` where the module has no such name.
        """
        return _imported(self.target)

    def load_example(self) -> Any:
        """Import the function that makes one for tests; `None` where there is none."""
        return _imported(self.example) if self.example else None


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
