"""Files of names of latents, to share them: JSON, `{"17": "question"}`."""

import os
from collections.abc import Mapping
from pathlib import Path

from tenterhook.one_line import shown
from tenterhook_sae.errors import UnreadableSae
from tenterhook_sae.files import latent_number, write_json
from tenterhook_sae.reading import read_object


def read_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Return the names that a file holds, by number of the latent.

    Raises `UnreadableSae` (a `ValueError`) for what is no object of texts by number. Whether there
    are such latents, whoever takes the names asks.
    """
    where = os.fspath(path)
    found = {}
    for key, name in read_object(Path(path), where).items():
        try:
            number = latent_number(key)
        except ValueError as error:
            raise UnreadableSae(where, str(error)) from error
        if not isinstance(name, str):
            raise UnreadableSae(where, f"names: {shown(name)} of latent {number} is no text")
        found[number] = name
    return found


def write_names(names: Mapping[int, str], path: str | os.PathLike[str]) -> None:
    """Write names to a file, which is there whole or not at all."""
    write_json(Path(path), {str(number): name for number, name in sorted(names.items())})
