"""An extension that a plugin registered: where it comes from, and how it is imported."""

import contextlib
import inspect
import re
import shlex
from importlib import metadata
from typing import Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook.extensions import Extension
from tenterhook.one_line import error_line, printable
from tenterhook.plugins.entry_points import normal_name
from tenterhook.plugins.problems import BrokenExtension, MissingDependency, capital, named


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
        release = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.plugin!r}{release}"

    @property
    def what(self) -> str:
        """What it is and of whom, as people say it."""
        return f"{named(self.kind, self.name)} of {self.origin}"

    def load(self) -> Any:
        """Import the thing and return it.

        Raises `MissingDependency` (an `ImportError`), with the pip command, where a package that
        it needs is not installed; `ImportError` where the plugin has no such thing, or its import
        would end the program; and whatever else the import raises, with a note that names the
        plugin.
        """
        module, _, name = self.extension.target.partition(":")
        try:
            return self.extension.load()
        except BaseException as error:
            lacks = getattr(error, "name", None)
            no_module = isinstance(error, ModuleNotFoundError)
            if no_module and lacks and not f"{module}.".startswith(f"{lacks}."):
                install = self.extension.needs or self._installing(lacks)
                raise MissingDependency(capital(self.what), printable(lacks), install) from error
            # The target, and not code that it runs, asks for an attribute.
            if no_module or (isinstance(error, AttributeError) and lacks in name.split(".")):
                why = f"{self.extension.target!r} is not there"
            elif isinstance(error, (Exception, KeyboardInterrupt)):
                error.add_note(f"It was raised by the import of {self.what}.")
                raise
            else:  # it would end the program
                why = error_line(error)
            message = f"{capital(self.what)} cannot be imported: {why}. {self._repair}"
            raise ImportError(message, name=module) from error

    def call(self, *arguments: Any, **keywords: Any) -> Any:
        """Import the thing, call it and return what it returns.

        Raises `BrokenExtension` where it cannot be called so or would be awaited, what `load`
        raises, and what the call does, with a note that names the plugin.
        """
        target = self.load()
        with contextlib.suppress(ValueError):  # some builtins have no signature
            try:
                inspect.signature(target).bind(*arguments, **keywords)
            except TypeError as error:
                cause = f"cannot be called as its kind is ({error_line(error)})"
                raise self.broken(cause) from error
        try:
            answer = target(*arguments, **keywords)
        except Exception as error:
            if not isinstance(error, TenterhookError):  # whose message says what to do
                error.add_note(f"It was raised by {self.what}.")
            raise
        if inspect.iscoroutine(answer):
            answer.close()  # or Python complains that nobody awaited it
            raise self.broken("is called, not awaited: write `def`, not `async def`")
        return answer

    def broken(self, cause: str) -> BrokenExtension:
        """Return the error to raise where it is not what its kind of extension is."""
        return BrokenExtension(capital(self.what), cause, self._repair)

    @property
    def _repair(self) -> str:
        return f"Update {self.distribution or 'it'}."

    def _installing(self, module: str) -> str:
        """Return what pip has to install, as the distribution's own requirements say it."""
        top = normal_name(module.partition(".")[0])
        for requirement in (self.distribution and metadata.requires(self.distribution)) or ():
            found = re.match(r"[\w.-]+", requirement)
            if found and normal_name(found[0]) == top:
                extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", requirement)
                return shlex.quote(f"{self.distribution}[{extra[1]}]") if extra else found[0]
        return printable(top)
