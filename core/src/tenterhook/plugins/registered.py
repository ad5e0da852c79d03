"""An extension that a plugin registered: where it comes from, and how it is imported."""

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


@attrs.frozen(kw_only=True)
class Registered:
    """An extension and where it comes from."""

    extension: Extension
    kind: str
    """One of `tenterhook.hookspecs.KINDS`."""
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
        except ModuleNotFoundError as error:
            own = self.extension.target.partition(":")[0]
            if error.name is None or f"{own}.".startswith(f"{error.name}."):
                raise self._declared_wrongly() from error
            raise self._missing(error.name) from error
        except KeyboardInterrupt:
            raise
        except Exception as error:
            if isinstance(error, AttributeError) and self._names(error.name):
                raise self._declared_wrongly() from error
            error.add_note(f"It was raised by the import of {self._what}.")
            raise
        except BaseException as error:  # it would end the program
            did = f"raised {error_line(error)}"
            if isinstance(error, SystemExit):
                did = f"called sys.exit({shown(error.code)})"
            raise ImportError(
                f"The import of {self._what} {did}. Update {self.distribution or 'it'}.",
                name=self.extension.target.partition(":")[0],
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
        what = self._what[0].upper() + self._what[1:]
        return BrokenExtension(what, cause, f"Update {self.distribution or 'it'}.")

    @property
    def _what(self) -> str:
        return f"{singular(self.kind)} {self.extension.name!r} of {self.origin}"

    def _names(self, attribute: str | None) -> bool:
        """Say whether the target, and not code that it runs, asks for an attribute."""
        return attribute in self.extension.target.partition(":")[2].split(".")

    def _declared_wrongly(self) -> ImportError:
        return ImportError(
            f"Plugin {self.plugin!r} has no {self.extension.target!r}, which it declares as "
            f"{self.extension.name!r}. Update {self.distribution or 'it'}.",
            name=self.extension.target.partition(":")[0],
        )

    def _missing(self, module: str) -> MissingDependency:
        what = self._what[0].upper() + self._what[1:]
        return MissingDependency(what, module, self.extension.needs or self._installing(module))

    def _installing(self, module: str) -> str:
        """Return what pip has to install, as the distribution's own requirements say it."""
        top = printable(normal_name(module.partition(".")[0]))
        for requirement in _requirements(self.distribution):
            found = re.match(r"[\w.-]+", requirement)
            if found and normal_name(found[0]) == top:
                extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", requirement)
                return shlex.quote(f"{self.distribution}[{extra[1]}]") if extra else found[0]
        return top


def _mismatch(call: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """Say why the call does not take the arguments; nothing where it does, or does not tell."""
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):  # some builtins have none
        return ""
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        return str(error)
    return ""


def _requirements(distribution: str | None) -> list[str]:
    if distribution is None:
        return []
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
