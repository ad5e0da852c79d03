"""Door to `tenterhook_store.schemes`, of the distribution `tenterhook-store`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_store.schemes", "tenterhook-store")
