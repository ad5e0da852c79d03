"""The text that ships: what `tiny:sample` names, passages that the model was not trained on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tenterhook_tiny.errors import UnknownName

if TYPE_CHECKING:
    from tenterhook_capture.documents import Documents

FIELDS = ("text", "source")


def sample_path() -> Path:
    """Return the file of the text: JSON lines, one document each, with `text` and `source`."""
    return Path(__file__).parent / "sample.jsonl"


def sample_name() -> str:
    """Return what the text is called after `tiny:`, for `tenterhook plugins check`."""
    return "sample"


def read(name: str = "sample", *, field: str | None = None) -> "Documents":
    """Read the documents: `name` is what follows `tiny:`, and there is only `"sample"`.

    A document is some verses of one chapter of the King James Bible, one verse a line.  `field` is
    `"text"` unless given; `"source"` says where the text stands, as in "Genesis 10:1-6".
    Raises `UnknownName`, a `ValueError`, for another name, `UnknownField` for another field.
    """
    from tenterhook_capture.documents import Documents, UnknownField

    if name != "sample":
        raise UnknownName("data set", f"tiny:{name}", ["tiny:sample"])
    field = "text" if field is None else field
    if field not in FIELDS:
        raise UnknownField(field, FIELDS, "tiny:sample")
    lines = sample_path().read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)[field] for line in lines]
    return Documents(texts, source="tiny:sample", field=field)
