"""The commands that core itself has; those of plugins join them and take none of their names."""

COMMANDS = {
    "capture": "tenterhook_cli.capture:capture",
    "layers": "tenterhook_cli.layers:layers",
    "plugins": "tenterhook_cli.plugins:plugins",
    "runs": "tenterhook_cli.runs:runs",
    "work": "tenterhook_cli.work:work",
}
