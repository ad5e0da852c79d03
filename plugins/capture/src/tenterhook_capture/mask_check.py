"""Whether padding changes the rows of real tokens: looked at once, before a run is begun.

A model that does not honour its mask (a state that runs over padding, positions counted from the
first column, a forward that was written for one text) gives each document rows that depend on
which others share its batch. Preparing a capture runs two short documents as one batch anyway, to
see what layers give. The shorter is run once more, alone, and its rows must be the same but for
rounding. A run that is there already was looked at when it was begun.
"""

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_capture.errors import MaskIgnored
from tenterhook_capture.forward import ForwardPass, ForwardResult
from tenterhook_capture.token_rows import ChosenRows, TokenRows
from tenterhook_store import dtype_name
from tenterhook_store.rounding import BOUNDS, bound, narrower, relative_errors

PROBE_TOKENS = 13
"""Tokens of a document that show what a point gives; no number that models have of other things."""

LOOKED_AT = 64
"""Documents among which one of several tokens is looked for."""

SURE = ("float64", "float32")
"""Where one row that is too far off is enough. In fewer bits a mixture of experts may send a token
another way for a tie, so most of the rows must be."""


STEPS_OF = {"high": "float16", "medium": "bfloat16"}
"""Of `torch.set_float32_matmul_precision`, the dtype whose steps factors of float32 have then."""

QUANTISED = {"qint8", "quint8"}
"""Dtypes of weights that are multiplied with activations as int8."""


@attrs.frozen(eq=False)
class PaddedProbe:
    """A short document, and its rows in a batch with a longer one."""

    ids: Sequence[int]
    rows: Mapping[str, Tensor]
    """Each point's, `[tokens, features]`, on the CPU."""
    is_left: bool
    """Whether the padding was before it."""


def probe_documents(tokens: TokenRows) -> list[list[int]]:
    """Return beginnings of two documents, the second shorter than the first where one has tokens.

    One alone, where there is one.
    """
    count = min(LOOKED_AT, tokens.window_count)
    found = (tokens.window(at).ids[:PROBE_TOKENS] for at in range(count))
    longer = next((at for at, ids in enumerate(found) if len(ids) > 1), 0)
    first = tokens.window(longer).ids[:PROBE_TOKENS]
    if count == 1:
        return [first]
    other = tokens.window(1 if longer == 0 else 0).ids
    return [first, other[: max(1, len(first) // 2)]]


def padded_probe(documents: Sequence[Sequence[int]], seen: ForwardResult) -> PaddedProbe | None:
    """Return what the shorter of two documents gave; `None` where nothing was padded."""
    if seen.is_whole:
        return None
    own = seen.real[len(documents[0]) :]
    rows = {name: flat[own.to(flat.device)].cpu() for name, flat in seen.layers.items()}
    width = max(map(len, documents))
    return PaddedProbe(documents[1], rows, is_left=int(own[0]) % width != 0)


def check_mask(
    probe: PaddedProbe | None, forward: ForwardPass, rows: ChosenRows, computed: str
) -> None:
    """Raise `MaskIgnored` where a document's rows depend on padding, and there will be some.

    Takes one forward, of a few tokens. `computed` is the narrowest dtype that rows are computed in.
    """
    if probe is None or rows.shortest == rows.longest:
        return
    alone = forward([probe.ids]).layers
    for name, padded in probe.rows.items():
        found = alone[name].cpu()
        dtype = narrower(computed, dtype_name(found.dtype))
        errors = relative_errors(found, padded)
        far = errors > bound(dtype)
        if bool(far.any()) and (dtype in SURE or float(far.double().mean()) > 0.5):
            raise MaskIgnored(name, float(errors.max()), bound(dtype), probe.is_left)


def computed_in(dtype: object, changes: Sequence[str]) -> str:
    """Return the narrowest dtype that rows are computed in, by name.

    `dtype` is what the model's description says, `changes` have `torch.autocast`. Where float32 is
    multiplied in less, it is the dtype whose steps those have. Activations as int8 with one scale
    for a whole batch, padding included, are no more exact than float8.
    """
    words = str(dtype or "").split(", ")
    words += [each.rpartition(" ")[2].rstrip(")") for each in changes]
    found = "float64"
    for word in words:
        if word in BOUNDS and word != "int8":
            found = narrower(found, word)
    if found == "float64" and "float64" not in words:
        found = "float32"  # nobody says
    if QUANTISED & {*words}:
        return "float8_e4m3fn"
    if found == "float32":
        return STEPS_OF.get(torch.get_float32_matmul_precision(), found)
    return found
