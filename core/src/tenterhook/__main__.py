"""`python -m tenterhook` is the command `tenterhook`."""

from tenterhook._cli import main

main()
