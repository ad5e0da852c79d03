from tenterhook_cli.testing import CommandContract


class TestTokens(CommandContract):
    """`tenterhook tokens` does what every command does."""

    name = "tokens"
    works = ("tiny:", "In the beginning")
    lists = works
