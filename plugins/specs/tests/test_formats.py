"""Specs as text: what is read and written, and what is refused before it takes the machine."""

import copy
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tenterhook_specs as specs
from tenterhook.plugins import MissingDependency
from tenterhook_specs import BadSpec, HookSpec, ModelSpec, NotAllowed, NotDescribable


class TestText:
    def test_a_format_is_known_by_its_ending(self, tmp_path: Path) -> None:
        """Written and read."""
        spec = ModelSpec(hooks=(HookSpec(hook="Scale", layer=-1, parameters={"factor": 2.0}),))
        for ending in ("toml", "yaml", "yml", "json"):
            specs.write_spec(spec, tmp_path / f"spec.{ending}")
            assert specs.read_spec(tmp_path / f"spec.{ending}", ModelSpec) == spec
        assert json.loads((tmp_path / "spec.json").read_text()) == {
            "hooks": [{"hook": "Scale", "layer": -1, "parameters": {"factor": 2.0}}]
        }
        with pytest.raises(BadSpec, match=r"use one of \.json, \.toml, \.yaml, \.yml"):
            specs.write_spec(spec, tmp_path / "spec.ini")

    @pytest.mark.parametrize(("form", "text"), [("toml", "a = ["), ("json", "{"), ("yaml", "a: [")])
    def test_text_that_is_not_of_the_format(self, form: Any, text: str) -> None:
        """The decoder's own words, and where."""
        with pytest.raises(BadSpec, match=f"here is no {form.upper()}: "):
            specs.loads(text, ModelSpec, form, where="here")

    def test_a_list_is_no_spec(self) -> None:
        """A spec is a table."""
        with pytest.raises(BadSpec, match="holds a list, and must hold a table"):
            specs.loads("[]", ModelSpec, "json")

    def test_no_format(self) -> None:
        """The formats are named."""
        with pytest.raises(BadSpec, match="format='ini' is not one of json, toml, yaml, yml"):
            specs.dumps(ModelSpec(), "ini")

    def test_yaml_needs_a_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Core does not depend on it; the error has the pip command."""
        monkeypatch.setitem(sys.modules, "yaml", None)

        with pytest.raises(MissingDependency, match=r"`pip install 'tenterhook\[yaml\]'`"):
            specs.dumps(ModelSpec(), "yaml")

    def test_yaml_makes_no_objects(self) -> None:
        """Its tags run nothing."""
        with pytest.raises(BadSpec, match="is no YAML"):
            specs.loads("a: !!python/object/apply:os.system [x]", ModelSpec, "yaml")


@attrs.frozen
class Anything:
    """A class of any plain value, to look at what was read."""

    a: Any = None


LETTERS = list(zip("abcdefghi", "bcdefghij", strict=True))
WRAPPED = (("toml", "a = ", ""), ("json", '{"a": ', "}"), ("yaml", "a: ", ""))
FORMS = ("toml", "json", "yaml")


class TestRefused:
    """A text of a stranger's is refused by its size and shape, before it takes the machine."""

    @pytest.mark.parametrize(
        ("form", "text", "cause"),
        [
            ("json", '{"a": 1, "a": 2}', "the key 'a' stands twice in one table"),
            ("json", '{"a": [{"b": 1, "b": 2}]}', "the key 'b' stands twice"),
            ("toml", "a = 1\na = 2", "is no TOML"),
            ("yaml", "a: 1\na: 2", "line 2: the key 'a' stands twice in one table"),
            ("yaml", "a: {on: 1}", "line 1: the key 'on' is a bool in YAML; put it in quotes"),
            ("yaml", "a: {1: 1}", "the key '1' is a int in YAML; put it in quotes"),
            ("yaml", "a:\n  ? [x]\n  : 1", "line 2: a key is a sequence, and must be text"),
            ("yaml", "a: 2020-01-01", "it is a timestamp in YAML, which is no plain value"),
            ("yaml", "a: !!set {x}", "it is a set in YAML"),
            ("yaml", "a: !mine x", "it is of the tag '!mine', which is no plain value"),
            ("yaml", "a: !!bool x", "is no YAML"),
            ("yaml", "a: &x [*x]", "line 1: an alias stands inside what it names"),
            ("toml", "a = 2020-01-01", "a is a date, which is no plain value; put it in quotes"),
            ("yaml", "", "holds a NoneType, and must hold a table"),
        ],
    )
    def test_what_is_not_plain(self, form: str, text: str, cause: str) -> None:
        """With the line or path, and what to write instead."""
        with pytest.raises(BadSpec, match=cause.replace("[", r"\[")):
            specs.loads(text, Anything, form)

    def test_aliases_of_aliases(self) -> None:
        """Two kilobytes that would be 400 million values, or as many keys."""
        lists = "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in LETTERS)
        merged = "\n".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}" for a, b in LETTERS)
        for text in (f"a: &a [x,x,x]\n{lists}", f"a: &a {{x: 1, y: 2}}\n{merged}"):
            started = time.process_time()
            with pytest.raises(BadSpec, match=r"line \d: aliases repeat more than 100,000 values"):
                specs.loads(text, ModelSpec, "yaml")
            assert time.process_time() - started < 30  # without the check, more than a machine has

    def test_aliases_that_people_write(self) -> None:
        """A vector for several hooks, and settings merged."""
        text = "a: [&v [1.5, 2], *v, &m {x: 1}, {<<: *m, y: 2}]"

        assert specs.loads(text, Anything, "yaml").a == [
            [1.5, 2],
            [1.5, 2],
            {"x": 1},
            {"x": 1, "y": 2},
        ]

    def test_a_slice_in_yaml_is_a_slice(self) -> None:
        """YAML 1.1 would have 125 of it."""
        assert specs.loads("a: [2:5, 2:5.5, 7]", Anything, "yaml").a == ["2:5", "2:5.5", 7]

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            *((form, f"{head}{'[' * 70}{']' * 70}{end}") for form, head, end in WRAPPED),
            *((form, f"{head}{'[' * 99_999}{']' * 99_999}{end}") for form, head, end in WRAPPED),
            ("toml", f"{'a.' * 70}a = 1"),
            ("toml", f"[{'a.' * 100_000}a]"),
            ("toml", f"{'a . ' * 100_000}a = 1"),
            ("toml", '"x".' * 100_000 + "a = 1"),
            ("toml", 'b = "\\"# ' + "'" + '"\n' + f"{'a.' * 100_000}a = 1"),
        ],
        ids=lambda text: text[:10],
    )
    def test_what_is_too_deep(self, form: str, text: str) -> None:
        """Lists and tables inside each other, also those of keys with dots."""
        started = time.process_time()
        with pytest.raises(BadSpec, match=r"64 lists and tables|more than 64 parts|recursion"):
            specs.loads(text, Anything, form)
        assert time.process_time() - started < 30  # without the check, minutes

    def test_dots_in_text_are_no_keys(self) -> None:
        """However many, in strings of all kinds and in comments."""
        dots = "a." * 200
        for quote in ('"', "'", '"""', "'''"):
            assert specs.loads(f"a = {quote}{dots}{quote} # {dots}", Anything).a == dots

    @pytest.mark.parametrize("piece", ['"""\\', "'''\"", '"\\', "a.", "a-", "\\"])
    def test_looking_for_keys_takes_time_of_the_length(self, piece: str) -> None:
        """Whatever the quotes that are open."""
        started = time.process_time()
        with pytest.raises(BadSpec):
            specs.loads(piece * 100_000, Anything)
        assert time.process_time() - started < 30  # of the square, hours

    @pytest.mark.parametrize("form", FORMS)
    def test_what_is_too_long(self, form: str, tmp_path: Path) -> None:
        """A service reads no more than it wants to."""
        spec = Anything("x" * 1000)
        text = specs.dumps(spec, form)
        assert specs.loads(text, Anything, form, longest=len(text)) == spec
        with pytest.raises(BadSpec, match="the spec has more than 999 characters"):
            specs.loads(text, Anything, form, longest=999)

        file = tmp_path / f"long.{form}"
        file.write_text(text)
        with pytest.raises(BadSpec, match=r"long\..* has more than 999 characters"):
            specs.read_spec(file, Anything, longest=999)

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
    @pytest.mark.parametrize("odd", ["pipe", "device", "folder"])
    def test_what_is_no_file(self, odd: str, tmp_path: Path) -> None:
        """A pipe would be waited for, and a device read for ever."""
        path = tmp_path / "spec.toml"
        if odd == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to({"device": "/dev/zero", "folder": str(tmp_path)}[odd])
        with pytest.raises(BadSpec, match=r"spec\.toml is no file that can be read as a spec"):
            specs.read_spec(path, Anything)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        """A mistake of whoever wrote it, so it is said as one."""
        file = tmp_path / "odd.toml"
        file.write_bytes(b'a = "\xff"')

        with pytest.raises(BadSpec, match=r"odd\.toml is no text in UTF-8"):
            specs.read_spec(file, Anything)

    @pytest.mark.parametrize("form", FORMS)
    @given(text=st.text())
    @settings(max_examples=50)
    def test_any_text(self, form: str, text: str) -> None:
        """It is read, or it is a `BadSpec`."""
        try:
            specs.loads(text, Anything, form)
        except BadSpec as error:
            assert str(error).isprintable()  # noqa: PT017 - often there is none


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            BadSpec(["hooks[0]: this", "that?"]),
            NotAllowed("os:system", ["torch"]),
            NotAllowed("a:b", [], "It is defined in c.", "c"),
            NotDescribable("it", "why."),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_an_error_keeps_what_it_says(self, error: Exception) -> None:
        """Copied, and sent to another process; it is equal to itself alone."""
        for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
            assert twin != error
        assert hash(error) == hash(error)

    def test_what_an_error_says_is_an_attribute(self) -> None:
        """For programs that look at it."""
        assert BadSpec(["a", "b"]).mistakes == ("a", "b")
        assert NotAllowed("os:system", ["torch"]).home == "os"
