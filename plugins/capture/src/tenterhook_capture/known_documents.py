"""Documents of a run that was begun, as its plan has them: not read again.

A process whose tokens are shared needs the texts for nothing, unless fields of their records are
kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tenterhook_capture.documents import DataName
from tenterhook_store import Run


@attrs.frozen(eq=False)
class KnownDocuments:
    """The documents that a run was begun with."""

    count: int
    fingerprint: str
    described: Mapping[str, Any]
    origin: DataName
    """The name that they are read by on this machine."""
    are_messages: bool
    fields: Mapping[str, Sequence[Any]] = attrs.field(factory=dict, init=False)
    fields_fingerprint: str | None = attrs.field(default=None, init=False)
    hashes: None = attrs.field(default=None, init=False)
    """They are with the run, where it has them."""

    @classmethod
    def of_run(cls, run: Run, origin: DataName) -> "KnownDocuments":
        """Take them from a plan of ours that keeps no fields."""
        about, spec = run.plan.about, run.plan.spec
        return cls(
            count=spec["documents"],
            fingerprint=spec["documents_fingerprint"],
            described=about["documents"],
            origin=origin,
            are_messages="template" in about,
        )

    def __len__(self) -> int:
        return self.count

    def describe(self) -> dict[str, Any]:
        """Say what they are, as who began the run said."""
        return dict(self.described)
