"""When a hook runs: the values that `HookType` has. Light, so that everything may import it."""

import enum


class HookType(enum.StrEnum):
    """When a hook runs."""

    FORWARD = "forward"
    """After a module's forward: sees inputs and output, may replace the output."""

    PRE_FORWARD = "pre_forward"
    """Before a module's forward: sees positional and keyword inputs, may replace them."""

    BACKWARD = "backward"
    """When the gradient with respect to the module's output is known; may replace it."""

    @classmethod
    def _missing_(cls, value: object) -> "HookType":
        valid = ", ".join(repr(member.value) for member in cls)
        raise ValueError(f"{value!r} is not a hook type. The hook types are {valid}.")
