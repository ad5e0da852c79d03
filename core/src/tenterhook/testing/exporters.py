"""Door to `tenterhook_store.testing.exporters`, of the distribution `tenterhook-store`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_store.testing.exporters", "tenterhook-store")
