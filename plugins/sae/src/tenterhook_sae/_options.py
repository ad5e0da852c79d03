"""Options of `tenterhook sae`: finite numbers, lists with commas in them, those of texts."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range; NaN, which is in none, passes click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


class Several(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has it without
    """One value or more of a type, with commas between them, each once."""

    def __init__(self, each: "click.ParamType[Any]") -> None:
        self.each = each
        self.name = f"{each.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if not all(map(str.strip, value.split(","))):
            self.fail(f"{value!r} lacks a value: give them with commas between.", param, ctx)
        found = [self.each.convert(each.strip(), param, ctx) for each in value.split(",")]
        for at, one in enumerate(found):
            if one in found[:at]:
                self.fail(f"{value!r} has {one} twice.", param, ctx)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        found = self.each.get_metavar(param, ctx) or self.each.name.upper()
        return f"{found},..."


def several(
    name: str, each: click.ParamType[Any], default: str | None, help: str, *more: str
) -> Callable[[F], F]:
    """An option that takes one value or a list."""
    return click.option(
        *(name, *more), type=Several(each), default=default, show_default=True, help=help
    )


_OF_TEXTS = (
    click.option("--data", help="Texts; those an SAE was trained on by default, where it knows."),
    click.option("--field", help="The field of text in records."),
    click.option("--layer", help="The layer; the one it was trained on by default."),
    click.option("--sample-limit", type=click.IntRange(1), help="Documents at most."),
    click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True),
    click.option("--device", help="Where the model and the SAE run."),
)


def of_texts(command: F) -> F:
    """Give a command the options of texts that a model reads: data, field, layer and others."""
    for option in reversed(_OF_TEXTS):
        command = option(command)
    return command
