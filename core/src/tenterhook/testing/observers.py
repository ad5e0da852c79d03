"""Door to `tenterhook_capture.testing.observers`, of the distribution `tenterhook-capture`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_capture.testing.observers", "tenterhook-capture")
