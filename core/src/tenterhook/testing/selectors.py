"""Door to `tenterhook_selections.testing`, of the distribution `tenterhook-selections`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_selections.testing", "tenterhook-selections")
