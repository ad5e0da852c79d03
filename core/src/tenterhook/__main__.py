"""`python -m tenterhook` is the command `tenterhook`."""

from tenterhook_cli import main

if __name__ == "__main__":
    main()
