"""What this distribution offers to tenterhook; imports none of it."""

from tenterhook import Extension, hookimpl


@hookimpl
def tenterhook_selectors() -> list[Extension]:
    """Name the selector."""
    return [
        Extension(
            name="quoted",
            target="tenterhook_quoted.selector:quoted",
            help="The tokens inside double quotes.",
        )
    ]
