"""What can be wrong with a plugin, or with the name of an extension."""

import attrs

from tenterhook.errors import TenterhookError, TenterhookWarning, closest
from tenterhook.one_line import printable
from tenterhook.plugins.first_party import RESERVED


@attrs.frozen
class PluginProblem:
    """What is wrong with an installed plugin, and what to do about it."""

    entry_point: str | None = attrs.field(converter=attrs.converters.optional(printable))
    """`None` where the distribution's list of entry points could not be read."""
    distribution: str | None = attrs.field(converter=attrs.converters.optional(printable))
    version: str | None = attrs.field(converter=attrs.converters.optional(printable))
    cause: str
    remedy: str
    clashes: bool = False
    """Whether the plugin is there all the same, but for a name that another has too."""

    def __str__(self) -> str:
        name = f"Plugin {self.entry_point!r}" if self.entry_point else "A plugin"
        origin = f" of {self.distribution} {self.version}" if self.distribution else ""
        outcome = "clashes with another" if self.clashes else "was left out"
        return f"{name}{origin} {outcome}: {self.cause} {self.remedy}"


class PluginWarning(TenterhookWarning):
    """An installed plugin was left out, or failed at what it was asked for."""


@attrs.define
class PluginError(TenterhookError, ValueError):
    """A plugin cannot be registered."""

    plugin: str
    cause: str

    def __str__(self) -> str:
        return f"Plugin {self.plugin!r} cannot be registered: {self.cause}"


@attrs.define
class BrokenPlugins(TenterhookError, RuntimeError):
    """Strict mode: some installed plugins cannot be loaded."""

    problems: tuple[PluginProblem, ...]

    def __str__(self) -> str:
        return " ".join(str(problem) for problem in self.problems)


@attrs.define
class UnknownExtension(TenterhookError, LookupError):
    """No plugin that is loaded registers this name."""

    kind: str
    name: str
    known: tuple[str, ...]
    detail: str = ""
    """Why the first-party plugin that has it is not loaded, though it is installed."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """The known names that look most like it, the most alike first."""
        return tuple(closest(self.name, self.known))

    @property
    def distribution(self) -> str | None:
        """The first-party distribution that has it, if one does."""
        return RESERVED.get((self.kind, self.name))

    def __str__(self) -> str:
        hint = "See `tenterhook plugins list`."
        if self.distribution:
            hint = self.detail or f"It comes with `pip install {self.distribution}`."
        elif self.nearest:
            hint = f"Did you mean {self.nearest[0]!r}?"
        return f"No loaded plugin has the {named(self.kind, self.name)}. {hint}"


@attrs.define
class AmbiguousExtension(TenterhookError, LookupError):
    """Several plugins register this name, and nobody said which is meant."""

    kind: str
    name: str
    origins: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        what = capital(named(self.kind, self.name))
        return f"{what} is offered by {' and by '.join(self.origins)}. {self.remedy}"


@attrs.define
class BrokenExtension(TenterhookError, RuntimeError):
    """Something that a plugin offers is not what its kind of extension is."""

    what: str
    cause: str
    repair: str

    def __str__(self) -> str:
        return f"{self.what} {self.cause}. {self.repair}"


class MissingDependency(TenterhookError, ImportError):
    """Something that a plugin offers needs a package that is not installed."""

    def __init__(self, what: str, module: str, install: str) -> None:
        super().__init__(what, module, install)
        self.what, self.module, self.install = what, module, install
        self.name = module

    def __str__(self) -> str:
        return (
            f"{self.what} needs the module {self.module!r}, which is not installed: "
            f"`pip install {self.install}`."
        )


def named(kind: str, name: str) -> str:
    """Return what an extension is called in a sentence: `store 'ZarrStore'`."""
    return f"{kind.removesuffix('s').replace('_', ' ')} {name!r}"


def capital(text: str) -> str:
    """Return text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
