"""An extension that a plugin registered: where it comes from, and how it is imported."""

import contextlib
import inspect
import re
import shlex
from importlib import metadata
from typing import Any

import attrs

from tenterhook.extensions import Extension
from tenterhook.one_line import error_line, printable, shown, type_name
from tenterhook.plugins.entry_points import normal_name
from tenterhook.plugins.problems import BrokenExtension, MissingDependency, singular


@attrs.frozen
class Registered:
    """An extension and where it comes from."""

    extension: Extension
    kind: str
    """One of `tenterhook.hookspecs.KINDS`, or `"schemes"` for a store that is asked for so."""
    name: str
    """What it is asked for by: the extension's name, or a scheme."""
    plugin: str
    """The name of the plugin: its entry point's, or the one it was registered by."""
    distribution: str | None
    """`None` for a plugin that was registered by hand."""
    version: str | None

    @property
    def origin(self) -> str:
        """The plugin, its distribution and version, as people say it."""
        release = " ".join(part for part in (self.distribution, self.version) if part)
        return f"plugin {self.plugin!r}" + (f" ({release})" if release else "")

    def load(self) -> Any:
        """Import the thing and return it.

        Raises `MissingDependency` (an `ImportError`), with the pip command, where a package that
        it needs is not installed; `ImportError` where the plugin has no such thing, or its import
        would end the program; and whatever else the import raises, with a note that names the
        plugin.
        """
        try:
            return self.extension.load()
        except KeyboardInterrupt:
            raise
        except ModuleNotFoundError as error:
            if error.name is None or f"{self._module}.".startswith(f"{error.name}."):
                raise self._declared_wrongly() from error
            install = self.extension.needs or self._installing(error.name)
            raise MissingDependency(capital(self._what), printable(error.name), install) from error
        except Exception as error:
            # The target, and not code that it runs, asks for an attribute.
            names = self.extension.target.partition(":")[2].split(".")
            if isinstance(error, AttributeError) and error.name in names:
                raise self._declared_wrongly() from error
            error.add_note(f"It was raised by the import of {self._what}.")
            raise
        except BaseException as error:  # it would end the program
            did = f"raised {error_line(error)}"
            if isinstance(error, SystemExit):
                did = f"called sys.exit({shown(error.code)})"
            raise ImportError(
                f"The import of {self._what} {did}. Update {self.distribution or 'it'}.",
                name=self._module,
            ) from error

    def call(self, *arguments: Any, **keywords: Any) -> Any:
        """Import the thing, call it and return what it returns.

        Raises `BrokenExtension` where it cannot be called so or would be awaited, what `load`
        raises, and what the call does.
        """
        target = self.load()
        if not callable(target):
            raise self.broken(f"is of type {type_name(target)}, which cannot be called")
        if mismatch := _mismatch(target, arguments, keywords):
            raise self.broken(f"cannot be called as its kind is ({mismatch})")
        answer = target(*arguments, **keywords)
        if inspect.iscoroutine(answer):
            answer.close()  # or Python complains that nobody awaited it
            raise self.broken("is called, not awaited: write `def`, not `async def`")
        return answer

    def broken(self, cause: str) -> BrokenExtension:
        """Return the error to raise where it is not what its kind of extension is."""
        return BrokenExtension(capital(self._what), cause, f"Update {self.distribution or 'it'}.")

    @property
    def _what(self) -> str:
        return f"{singular(self.kind)} {self.name!r} of {self.origin}"

    def _declared_wrongly(self) -> ImportError:
        return ImportError(
            f"Plugin {self.plugin!r} has no {self.extension.target!r}, which it declares as "
            f"{self.extension.name!r}. Update {self.distribution or 'it'}.",
            name=self._module,
        )

    @property
    def _module(self) -> str:
        return self.extension.target.partition(":")[0]

    def _installing(self, module: str) -> str:
        """Return what pip has to install, as the distribution's own requirements say it."""
        top = normal_name(module.partition(".")[0])
        installed = metadata.requires(self.distribution) if self.distribution else None
        for requirement in installed or ():
            found = re.match(r"[\w.-]+", requirement)
            if found and normal_name(found[0]) == top:
                extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", requirement)
                return shlex.quote(f"{self.distribution}[{extra[1]}]") if extra else found[0]
        return printable(top)


def _mismatch(call: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """Say why the call does not take the arguments; nothing where it does, or does not tell."""
    with contextlib.suppress(ValueError, TypeError):  # some builtins have no signature
        signature = inspect.signature(call)
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            return str(error)
    return ""


def capital(text: str) -> str:
    """Return text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
