"""Door to `tenterhook_specs.testing`, of the distribution `tenterhook-specs`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_specs.testing", "tenterhook-specs")
