from tenterhook_cli.testing import CommandContract


class TestSae(CommandContract):
    """`tenterhook sae` does what every command does."""

    name = "sae"
