"""Records: what was written comes back, and no byte of it changes unnoticed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_store import DamagedStore
from tenterhook_zarr._records import sealed, unsealed

TRICKY = st.sampled_from(["crc32c", "crc32b", "d", "", "é", '\n  "crc32c": "00000000",\n'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=9) | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(
    (st.text(max_size=9) | TRICKY).filter(lambda key: key != "crc32c"), VALUES
)


@settings(max_examples=200, deadline=None)
@given(facts=RECORDS)
def test_records_come_back(facts: dict[str, Any]) -> None:
    """Whatever is in them, names and texts that look like the seal included."""
    assert unsealed(sealed(facts), "here") == facts


@settings(max_examples=200, deadline=None)
@given(facts=RECORDS, data=st.data())
def test_a_changed_byte_is_told(facts: dict[str, Any], data: st.DataObject) -> None:
    """A byte that is another, or that is gone, is found wherever it is."""
    record = bytearray(sealed(facts))
    at = data.draw(st.integers(0, len(record) - 1))
    change = data.draw(st.integers(0, 255))
    if change:
        record[at] ^= change
    else:
        del record[at]
    with pytest.raises(DamagedStore, match=r"here: (this is no record|its checksum says)"):
        unsealed(bytes(record), "here")
