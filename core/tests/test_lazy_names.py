"""Packages whose names are imported when they are first used."""

import importlib
import sys
from pathlib import Path

import pytest


def test_a_name_is_imported_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stays; names that are not there say so, and `dir` lists those to come."""
    package = tmp_path / "some_names"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "from tenterhook.lazy_names import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'one': 'numbers', 'gone': 'numbers'})\n"
    )
    package.joinpath("numbers.py").write_text("one = object()\n")
    monkeypatch.syspath_prepend(tmp_path)

    found = importlib.import_module("some_names")

    assert "some_names.numbers" not in sys.modules
    assert {"one", "gone"} <= {*dir(found)}
    assert found.one is sys.modules["some_names.numbers"].one
    assert vars(found)["one"] is found.one
    with pytest.raises(AttributeError, match="module 'some_names' has no attribute 'two'"):
        found.two  # noqa: B018
    with pytest.raises(AttributeError, match=r"some_names\.numbers.* has no attribute 'gone'"):
        found.gone  # noqa: B018
