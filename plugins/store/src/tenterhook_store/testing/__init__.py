"""For the tests of plugins: what every store does, as classes to inherit.

- `tenterhook_store.testing.StoreContract`: for a store
- `tenterhook_store.testing.small_runs`: small runs whose rows are known

They need pytest, which nothing else of this package does.
"""

from tenterhook_store.testing.small_runs import a_plan, rows_of, same_bits, write
from tenterhook_store.testing.stores import StoreContract

__all__ = ["StoreContract", "a_plan", "rows_of", "same_bits", "write"]
