"""The options of a capture are written once: whoever takes or shows them agrees with the class."""

import inspect
import typing
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from tenterhook_capture import BadArgument, CaptureOptions, save_activations
from tenterhook_capture.option_fields import default_of, described, option
from tenterhook_capture.options import CaptureKeywords, KeywordsBesideBatchSize
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_selections import Selection, Where
from tenterhook_store import MemoryStore

PAGE = Path(__file__).parents[3] / "docs/reference/captures.md"
NAMES = {"torch": torch, "Selection": Selection, "Where": Where}


def taken(field: "attrs.Attribute[Any]") -> Any:
    """Return the type of what a field takes."""
    if field.name == "keep_rows":
        return bool | None
    if field.converter is None:
        return field.type
    convert = typing.cast("typing.Callable[..., Any]", field.converter)
    (parameter,) = inspect.signature(convert).parameters
    return typing.get_type_hints(convert, localns=NAMES)[parameter]


def test_every_field_is_an_option() -> None:
    """None is kept with a run that nobody can be told of."""
    assert [*described(CaptureOptions)] == [field.name for field in attrs.fields(CaptureOptions)]


def test_keywords_are_the_fields() -> None:
    """Their names and types, for type checkers; only `batch_size` has a place of its own."""
    fields = {field.name: taken(field) for field in attrs.fields(CaptureOptions)}
    assert typing.get_type_hints(CaptureKeywords, localns=NAMES) == fields
    del fields["batch_size"]
    assert typing.get_type_hints(KeywordsBesideBatchSize, localns=NAMES) == fields


def test_a_running_python_shows_them() -> None:
    """`help(save_activations)` has each option with its default."""
    parameters = inspect.signature(save_activations).parameters
    shown = {name: parameters[name].default for name in described(CaptureOptions)}
    assert shown == {field.name: default_of(field) for field in attrs.fields(CaptureOptions)}
    assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in parameters.values()}


def row(name: str, default: Any, help: str) -> str:
    """Return an option as a line of the reference."""
    text = "none" if default in (None, ()) else f"`{default!r}`"
    return f"| `{name}` | {text} | {help} |"


def test_the_reference_has_them() -> None:
    """In the order of the class, with default and meaning; paste what is missing."""
    wanted = [
        row(name, default_of(field), about.help)
        for name, (field, about) in described(CaptureOptions).items()
    ]
    lines = PAGE.read_text().splitlines()
    first = lines.index("| `CaptureOptions` | default | means |") + 2
    assert lines[first : first + len(wanted)] == wanted
    assert not lines[first + len(wanted)].startswith("|")


def test_an_option_that_there_is_not() -> None:
    """The one that was meant is named."""
    with pytest.raises(TypeError, match=r"'batchsize' is no option of .*'batch_size'\?"):
        save_activations(WordModel(), "head", ["a"], MemoryStore(), batchsize=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number, 1 or more"),
        ({"batch_tokens": 2.5}, r"batch_tokens=2\.5 must be a whole number"),
        ({"top_k": True}, "top_k=True must be a whole number"),
        ({"writing": "quick"}, "writing='quick' must be 'auto', 'inline' or 'thread'"),
        ({"long_documents": "cut"}, "long_documents='cut' must be 'truncate', 'split' or 'head'"),
        ({"codec": "lz4"}, "codec='lz4' must be 'none', 'zstd' or 'blosc'"),
        ({"dtype": torch.int32}, "dtype='int32' must be one of float16"),
        ({"reduce": "median"}, "reduce='median' must be one or more of mean"),
        ({"keep_rows": False}, "keep_rows=False must be True where nothing is reduced"),
        ({"tokens": Selection(tokens="last", rows=0)}, "must be a selection of tokens and of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense(given: dict[str, Any], problem: str) -> None:
    """It is refused with the value and what there is."""
    with pytest.raises(BadArgument, match=problem):
        CaptureOptions.of(given)


def test_defaults_that_follow_from_others() -> None:
    """Rows are kept unless something is reduced, or where they are asked for."""
    assert CaptureOptions.of({"keep_rows": None}).keep_rows
    assert not CaptureOptions.of({"reduce": "mean"}).keep_rows
    assert CaptureOptions.of({"reduce": ["topk", "mean"], "keep_rows": True}).keep_rows
    assert CaptureOptions.of({"reduce": "topk, mean"}).reduce == ("mean", "topk")


def test_options_of_ones_own() -> None:
    """A class of somebody else's has options in the same way."""

    @attrs.frozen(kw_only=True)
    class Settings:
        workers: int | None = option(None, help="Processes.", group="Engine", least=1)
        kind: str = option("a", help="Which.", group="Engine", choices=("a", "b"))
        name: str = "not shown"

    assert [*described(Settings)] == ["workers", "kind"]
    assert (Settings().workers, Settings(workers=2).workers) == (None, 2)
    with pytest.raises(BadArgument, match="workers=0 must be"):
        Settings(workers=0)
    with pytest.raises(BadArgument, match="kind='c' must be 'a' or 'b'"):
        Settings(kind="c")
