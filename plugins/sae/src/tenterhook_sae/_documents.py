"""The texts that commands of `tenterhook sae` read."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tenterhook_capture.documents import Documents
    from tenterhook_sae.sae import Sae


def documents_of(
    sae: "Sae", data: str | None, field: str | None, sample_limit: int | None
) -> "Documents":
    """Return the texts that are named, or those that an SAE was trained on, where it knows."""
    from tenterhook_capture.documents import read_documents

    name = data if data is not None else sae.about.get("data")
    if name is None:
        raise click.UsageError("This SAE does not say what it was trained on: give --data.")
    return read_documents(name, field=field).first(sample_limit)
