"""Door to `tenterhook_capture.testing.datasets`, of the distribution `tenterhook-capture`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_capture.testing.datasets", "tenterhook-capture")
