"""Documents of unequal length as one batch."""

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

Side = Literal["left", "right"]


@attrs.frozen(eq=False)
class PaddedBatch:
    """Token ids and where they are real, each int64 `(batch, seq)`, on the CPU."""

    input_ids: Tensor
    attention_mask: Tensor
    """1 at real tokens, 0 at padding."""

    def with_column(self, pad_id: int) -> "PaddedBatch":
        """Return it with one more column of padding on the right."""
        ids = torch.nn.functional.pad(self.input_ids, (0, 1), value=pad_id)
        return PaddedBatch(ids, torch.nn.functional.pad(self.attention_mask, (0, 1)))


def pad(documents: Sequence[Sequence[int]], *, side: str, pad_id: int) -> PaddedBatch:
    """Pad the documents to the length of the longest, on the CPU.

    `side` is `"left"` or `"right"`; `pad_id` fills the padded places. There is a document at least.
    """
    longest = max(map(len, documents))
    shape = (len(documents), longest)
    ids = torch.full(shape, pad_id, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, document in enumerate(documents):
        count = len(document)
        place = slice(longest - count, longest) if side == "left" else slice(0, count)
        ids[row, place] = torch.tensor(document, dtype=torch.int64)
        mask[row, place] = 1
    return PaddedBatch(ids, mask)
