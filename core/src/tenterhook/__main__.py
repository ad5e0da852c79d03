"""`python -m tenterhook` is the command `tenterhook`."""

from tenterhook._cli import main

if __name__ == "__main__":
    main()
