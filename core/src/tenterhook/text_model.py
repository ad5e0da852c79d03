"""Door to `tenterhook_capture.text_model`, of the distribution `tenterhook-capture`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_capture.text_model", "tenterhook-capture")
