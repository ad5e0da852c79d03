"""What is printed for people: lines, in which nothing tells the terminal what to do.

Names, texts and errors come from stores, models and data sets that somebody else made. A control
character in one of them could clear the screen, set its title, or forge a line of ours.
"""

import unicodedata

import click

CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode that are escaped: controls, what is not seen, halves of letters, ends of
lines."""


def echo(*lines: str, err: bool = False) -> None:
    """Print lines, to stderr with `err`; what is in a line stays in it."""
    click.echo("\n".join(map(escaped, lines)), err=err)


def escaped(text: str) -> str:
    """Return text as one line, with control characters as Python writes them."""
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in CONTROL else each
        for each in text
    )
