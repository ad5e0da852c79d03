"""Options and arguments that several commands have, and the shapes that options come in.

A command with many options is a `GroupedCommand`: its help shows them under headings.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

OTHER = "Other"
"""The heading of options that have none; it stands last."""


class GroupedOption(click.Option):
    """An option that stands under a heading in the help of a `GroupedCommand`."""

    def __init__(self, *args: Any, group: str = OTHER, hint: str = "", **settings: Any) -> None:
        """`hint` is the way out that is shown where the option is given twice."""
        super().__init__(*args, **settings)
        self.group = group
        self.hint = hint or "Give it once."


class OneValueCommand(click.Command):
    """A command that takes one value of an option, unless the option takes several.

    Click takes the last value of an option that is given twice, and says nothing of the first.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; `click.UsageError` for an option that is given twice and takes one value."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option, times in Counter(given).items():
                if isinstance(option, click.Option) and times > 1 and _takes_one_value(option):
                    hint = option.hint if isinstance(option, GroupedOption) else "Give it once."
                    raise click.UsageError(
                        f"{option.opts[0]} is given {times} times and takes one value. {hint}", ctx
                    )
        return super().parse_args(ctx, args)


class GroupedCommand(OneValueCommand):
    """A command that shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order in which these come first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record:
                groups.setdefault(getattr(param, "group", OTHER), []).append(record)
        last = groups.pop(OTHER, [])
        for group, records in [*groups.items(), (OTHER if groups else "Options", last)]:
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _takes_one_value(option: click.Option) -> bool:
    return not (option.multiple or option.is_flag or option.count)


def option(*names: str, group: str = OTHER, **settings: Any) -> Decorator:
    """Return an option that stands under a heading."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)


def plain_value(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read a word, or plain values as JSON, `{...}` itself or a `.json` file; `None` as it is.

    The callback of an option. Raises `click.BadParameter`.
    """
    text = (value or "").strip()
    try:
        if text.endswith(".json"):
            if Path(text).exists() and not Path(text).is_file():
                raise ValueError("this is no file")
            text = Path(text).read_text()
        return json.loads(text) if text.lstrip().startswith("{") else text or None
    except (OSError, ValueError) as error:
        raise click.BadParameter(
            f"{value!r} is neither a word, nor JSON, nor a file of it: {error}", ctx, param
        ) from None


def choice(name: str, choices: Sequence[str], help: str, **settings: Any) -> Decorator:
    """Return an option that is one of some words, the first unless it is given."""
    kind = click.Choice(choices)
    return option(name, type=kind, default=choices[0], show_default=True, help=help, **settings)


def count(name: str, help: str, default: int | None = None, **settings: Any) -> Decorator:
    """Return an option that is a whole number, 1 or more."""
    return option(
        name,
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        show_default=default is not None,
        help=help,
        **settings,
    )


def all_of(*options: Decorator) -> Decorator:
    """Return a decorator that adds options in their order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


of_run = all_of(click.argument("store"), click.argument("run", required=False))
"""The words `STORE [RUN]`."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

tries_option = count(
    "--tries",
    "How often a unit that fails is tried; the others are done whatever becomes of it.",
    default=3,
    group="Run",
)
