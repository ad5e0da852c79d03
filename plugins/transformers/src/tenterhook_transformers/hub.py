"""Names of models: folders, and names on the Hugging Face hub; whether the hub can be asked."""

import os
import socket
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from tenterhook_transformers.errors import UnknownModel


def checked_name(name_or_path: str | os.PathLike[str]) -> str:
    """Return the name, a folder's with `~` spelled out; `UnknownModel` where it cannot be right."""
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UnknownModel(name, "the folder has no config.json", _inside(path))
        return str(path)
    if path.is_file():
        raise UnknownModel(
            name, "this is a file", "Name the folder that save_pretrained wrote, with config.json."
        )
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        around = path.parent.is_dir()
        hint = folders_like(path) if around else f"There is no folder {str(path.parent)!r} either."
        raise UnknownModel(name, "there is no such folder", hint)
    return name


def _inside(path: Path) -> str:
    found = sorted(str(config.parent) for config in path.glob("*/config.json"))
    if found:
        return f"There is one in {', '.join(map(repr, found[:3]))}."
    return "Name the folder that save_pretrained wrote."


def folders_like(path: Path) -> str:
    """Return a hint that names folders beside `path` with names like it, if any."""
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    near = get_close_matches(path.name, sorted(names))
    if not near:
        return ""
    return f"Closest folders: {', '.join(repr(str(path.parent / each)) for each in near)}."


def hub_is_out_of_reach() -> bool:
    """Whether the hub's name cannot even be looked up, so that asking it would only take time.

    transformers tries for half a minute. Behind a proxy names need not be known here.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return True
    if getproxies():
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return True
    return False
