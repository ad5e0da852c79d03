"""Where a store is to be: a path, or the URL of an object store."""

import os
import re
from urllib.parse import unquote, urlsplit

import attrs

from tenterhook_store import NotAStore

SCHEMES = ("s3", "gs", "az", "memory")


@attrs.frozen
class ObjectUrl:
    """The URL of a place in an object store."""

    scheme: str
    bucket: str
    prefix: str
    """Without slashes at its ends."""

    def __str__(self) -> str:
        return f"{self.scheme}://{'/'.join(part for part in (self.bucket, self.prefix) if part)}"


def split_url(path: str | os.PathLike[str]) -> ObjectUrl | None:
    """Return the parts of a URL; `None` for a path, and for a `file://` URL.

    Raises `NotAStore` for a URL of another kind, or that could leave its prefix.
    """
    text = os.fspath(path)
    short = re.match(r"([A-Za-z0-9]+):(?!//)", text) if isinstance(path, str) else None
    if short and short[1].lower() in (*SCHEMES, "file") and not os.path.lexists(text):
        scheme, rest = short[1].lower(), text[short.end() :]
        raise NotAStore(text, f"write {scheme}://{rest}, or ./{text} for a folder of that name")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if found is None or found[1].lower() == "file":
        return None
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in (*SCHEMES, "file"))
        raise NotAStore(text, f"no store is kept at {scheme}://; it is one of {known}, or a path")
    bucket, _, prefix = text[found.end() :].partition("/")
    parts = [part for part in prefix.split("/") if part]
    if not bucket and scheme != "memory":
        raise NotAStore(text, f"the bucket is missing; write {scheme}://BUCKET/PREFIX")
    if not re.fullmatch(r"[\w.$-]*", bucket, re.ASCII):
        shown = f"{scheme}://...{text[text.rfind('@') :]}" if "@" in bucket else text
        reason = (
            "a bucket has letters, digits, '-', '_' and '.' alone; write "
            f"{scheme}://BUCKET/PREFIX, and give credentials by the environment"
        )
        raise NotAStore(shown, reason)
    if {".", ".."} & set(parts) or any(letter in text for letter in "?#\0\\"):
        raise NotAStore(text, "a prefix has no '.', '..', '?', '#' or backslash")
    return ObjectUrl(scheme, bucket, "/".join(parts))


def local_path_of(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the path of a `file://` URL, or the path as it is."""
    text = os.fspath(path)
    if not text.lower().startswith("file://"):
        return path
    url = urlsplit(text)
    if url.netloc not in ("", "localhost"):
        raise NotAStore(text, "a file:// URL has no host; write file:///folder")
    return unquote(url.path)
