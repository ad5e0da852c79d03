"""Door to `tenterhook_specs`, of the distribution `tenterhook-specs`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_specs", "tenterhook-specs")
