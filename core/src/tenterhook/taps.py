"""Door to `tenterhook_taps`, of the distribution `tenterhook-taps`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_taps", "tenterhook-taps")
