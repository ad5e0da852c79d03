"""The commands that core itself has; those of plugins join them and take none of their names."""

COMMANDS = {
    "capture": "tenterhook._cli.capture:capture",
    "layers": "tenterhook._cli.layers:layers",
    "plugins": "tenterhook._cli.plugins:plugins",
    "runs": "tenterhook._cli.runs:runs",
    "work": "tenterhook._cli.work:work",
}
