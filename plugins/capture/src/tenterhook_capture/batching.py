"""How a capture shares documents among forwards: what was asked for, and what that means.

It is part of what a run is, for the last bits of a float follow from the shape of a batch. Where
something is left open a run says what was chosen, so that any process goes on with that. Runs of
versions without a budget were begun in batches of `EARLIER`, and go on in those.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from tenterhook_capture.options import CaptureOptions


@attrs.frozen(kw_only=True)
class Batching:
    """How documents share forwards, with nothing left open."""

    batch_size: int | None
    """Documents at most; `None` for any number."""
    batch_tokens: int | None
    """Tokens at most, padding counted; `None` for any number."""
    bucket: bool
    """Whether documents are run by length."""

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> "Batching":
        """Return what a run's spec says; what an earlier version left out was as in `EARLIER`."""
        return cls(**{key: spec.get(key, value) for key, value in attrs.asdict(EARLIER).items()})

    @classmethod
    def wanted(cls, options: CaptureOptions, budget: Callable[[], int]) -> "Batching":
        """Return what options mean; `budget` is asked where they leave open how many tokens.

        A number of documents means just that: no budget and no bucketing beside it, unless these
        are given too.
        """
        tokens, by_size = options.batch_tokens, options.batch_size is not None
        if tokens is None and not by_size:
            tokens = budget()
        bucket = not by_size if options.bucket is None else options.bucket
        return cls(batch_size=options.batch_size, batch_tokens=tokens, bucket=bucket)

    @classmethod
    def earlier(cls, options: CaptureOptions) -> "Batching":
        """Return what the same options meant before there was a budget."""
        given = {key: getattr(options, key) for key in attrs.asdict(EARLIER)}
        return attrs.evolve(EARLIER, **{k: v for k, v in given.items() if v is not None})

    def values(self) -> dict[str, Any]:
        """Return it as fields of a `CaptureSpec` or of `CaptureOptions`."""
        return attrs.asdict(self)


EARLIER = Batching(batch_size=32, batch_tokens=None, bucket=False)
"""What was the default of versions without a budget."""


def leaves_budget_open(options: CaptureOptions) -> bool:
    """Whether it is left to us how many tokens run at once."""
    return options.batch_size is None and options.batch_tokens is None
