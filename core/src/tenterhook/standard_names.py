"""Door to `tenterhook_transformers.standard_names`, of `tenterhook-transformers`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_transformers.standard_names", "tenterhook-transformers")
