"""Door to `tenterhook.plugins.schemes`, of the distribution `tenterhook-core`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook.plugins.schemes", "tenterhook-core")
