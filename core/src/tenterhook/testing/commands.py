"""Door to `tenterhook_cli.testing`, of the distribution `tenterhook-cli`."""

from tenterhook._doors import open_door

open_door(__name__, "tenterhook_cli.testing", "tenterhook-cli")
