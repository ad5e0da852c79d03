"""Door to `tenterhook_capture.testing.text_models`, of the distribution `tenterhook-capture`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_capture.testing.text_models", "tenterhook-capture")
