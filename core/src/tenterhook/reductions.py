"""Door to `tenterhook_store.reductions`, of the distribution `tenterhook-store`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_store.reductions", "tenterhook-store")
