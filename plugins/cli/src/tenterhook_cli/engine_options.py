"""`--engine` and the settings of the engines that are installed, as options.

A setting is a field of an engine's class, described as `tenterhook_capture.option_fields` has it.
`workers` is the option `--workers` whoever's engine it is of; any other bears its engine's name, as
`--pool-address`.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import click

from tenterhook.errors import TenterhookError
from tenterhook.plugins import MissingDependency, Registered
from tenterhook_capture.engine import make_engine
from tenterhook_capture.option_fields import About, default_of, described
from tenterhook_cli.described_options import described_option
from tenterhook_cli.options import GroupedCommand, GroupedOption, option
from tenterhook_cli.plugin_commands import manager_without_warnings

SHARED = "workers"
"""The setting that is called alike whichever engine has it."""

CHOSEN = f"{__name__}.chosen"
"""Where `ctx.meta` has the name of the engine, of which the command gets the engine itself."""

engine_option = option(
    "--engine",
    metavar="NAME",
    group="Run",
    help="Who does the units, by the name that a plugin gives it: local, unless it is given, does "
    "them in this process.",
)


@attrs.frozen
class _Setting:
    """One setting of one engine."""

    engine: str
    field: "attrs.Attribute[Any]"
    about: About

    @property
    def flag(self) -> str:
        """The option that it is."""
        own = "" if self.field.name == SHARED else f"{self.engine}-"
        return f"--{own}{self.field.name}".replace("_", "-")

    @property
    def parameter(self) -> str:
        """The name of the option's value."""
        return self.flag.removeprefix("--").replace("-", "_")


@attrs.frozen
class NotInstalled:
    """In the place of an engine whose package is missing here: a dry run asks for no more."""

    workers: int


class EngineCommand(GroupedCommand):
    """A command with `--engine`, whose value is the engine, made with the settings given to it."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own, and after `--engine` what installed engines take."""
        own = super().get_params(ctx)
        taken = {flag for each in own for flag in each.opts}
        more: dict[str, click.Parameter] = {}
        for flag, settings in _by_flag(ctx).items():
            if flag not in taken:
                more[flag] = _option(flag, settings)
        at = next((n for n, each in enumerate(own) if "--engine" in each.opts), len(own)) + 1
        return [*own[:at], *more.values(), *own[at:]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and make the engine; `click.UsageError` for a setting that it has not."""
        rest = super().parse_args(ctx, args)
        chosen, given = ctx.params.get("engine"), dict[str, Any]()
        for flag, settings in _by_flag(ctx).items():
            value = ctx.params.pop(settings[0].parameter, None)
            if value is None or value == ():
                continue
            mine = [each for each in settings if each.engine == chosen]
            if not mine:
                engines = " or ".join(each.engine for each in settings)
                there = "no --engine is given" if chosen is None else f"--engine is {chosen}"
                raise click.UsageError(f"{flag} is of the engine {engines}, and {there}.", ctx)
            given[mine[0].field.name] = value
        ctx.meta[CHOSEN] = chosen
        if chosen is not None and not ctx.resilient_parsing:
            try:
                ctx.params["engine"] = make_engine(chosen, **given)
            except MissingDependency:
                if not ctx.params.get("dry_run"):
                    raise
                settings = _all(ctx, chosen)
                found: dict[str, Any] = {each.field.name: each.field.default for each in settings}
                ctx.params["engine"] = NotInstalled((found | given).get(SHARED, 1))
        return rest


def _option(flag: str, settings: list[_Setting]) -> click.Parameter:
    """Return the option of a setting that some engines have."""
    first = settings[0]
    kind = described_option(first.field, first.about)
    defaults = ", ".join(f"{each.engine}: {default_of(each.field)}" for each in settings)
    help = f"{first.about.help} [{defaults}]"
    return GroupedOption(
        [flag, first.parameter], **{**kind, "default": None, "show_default": False, "help": help}
    )


def _by_flag(ctx: click.Context) -> dict[str, list[_Setting]]:
    """Return the settings by their options; click asks for these several times a command."""
    if __name__ in ctx.meta:
        known: dict[str, list[_Setting]] = ctx.meta[__name__]
        return known
    found: dict[str, list[_Setting]] = {}
    for name, registered in manager_without_warnings().extensions("engines").items():
        for each in _settings(name, registered):
            found.setdefault(each.flag, []).append(each)
    ctx.meta[__name__] = found
    return found


def _all(ctx: click.Context, engine: str) -> list[_Setting]:
    return [each for found in _by_flag(ctx).values() for each in found if each.engine == engine]


def _settings(name: str, registered: Registered) -> Iterator[_Setting]:
    try:
        made_by = registered.load()
    except (TenterhookError, ImportError):  # it is told of where it is asked for
        return
    if isinstance(made_by, type) and attrs.has(made_by):
        for field, about in described(made_by).values():
            yield _Setting(name, field, about)
