"""What others called things is printed, and tells the terminal nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenterhook_cli.terminal import echo, escaped


@given(text=st.text())
def test_what_is_escaped_is_one_line_without_controls(text: str) -> None:
    """Whatever the text, no control character is left, and nothing that can be seen is lost."""
    shown = escaped(text)
    assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in shown)
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown  # no half of a letter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.layers.0", "model.layers.0"),
        ("größe, 名前, a b", "größe, 名前, a b"),
        ("\x1b[2Jx\x07", r"\x1b[2Jx\x07"),
        ("one\ntwo\tthree", r"one\ntwo\tthree"),
        ("a\u202eb", r"a\u202eb"),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    """Letters of every language stay, controls are written as Python writes them."""
    assert escaped(text) == shown


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each argument is a line, on stdout or stderr."""
    echo("one\ntwo", "three")
    echo("four", err=True)
    assert capsys.readouterr() == ("one\\ntwo\nthree\n", "four\n")
