"""`python -m tenterhook` is the command `tenterhook`, which `tenterhook-cli` brings."""

import sys

from tenterhook._doors import import_from

if __name__ == "__main__":
    try:
        cli = import_from("tenterhook-cli", "tenterhook_cli", wanted="The command tenterhook")
    except ModuleNotFoundError as error:
        if error.name != "tenterhook_cli":
            raise
        sys.exit(f"error: {error}")
    cli.main()
