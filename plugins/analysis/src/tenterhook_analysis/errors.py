"""What can go wrong here, each error a builtin kind too."""

import attrs

from tenterhook.errors import TenterhookError, TenterhookWarning


class AnalysisWarning(TenterhookWarning):
    """A number may not be what its name says; the text says why."""


@attrs.define(slots=False)
class NoReadout(TenterhookError, TypeError):
    """A model whose residual stream no logits follow from."""

    model: str
    """Its class."""

    reason: str

    def __str__(self) -> str:
        return (
            f"No logits follow from what the blocks of {self.model} return: {self.reason}. Give a "
            "model with a head for tokens, as AutoModelForCausalLM loads."
        )


@attrs.define(slots=False)
class WrongWidth(TenterhookError, ValueError):
    """Rows of a layer that are not as wide as what the model's blocks return."""

    layer: str
    width: int
    expected: int

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} has {self.width} features, and what is read as the residual "
            f"stream has {self.expected}. Give a layer that returns the stream, as a block does."
        )


@attrs.define(slots=False)
class UnequalPrompts(TenterhookError, ValueError):
    """Two prompts whose tokens do not stand beside each other."""

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    """The tokens of each."""

    def __str__(self) -> str:
        pairs = zip(self.clean, self.corrupt, strict=False)
        shorter = min(len(self.clean), len(self.corrupt))
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), shorter)
        return (
            f"The clean prompt has {len(self.clean)} tokens and the corrupt one "
            f"{len(self.corrupt)}; they differ from token {at} on: "
            f"{list(self.clean[at : at + 3])!r} and {list(self.corrupt[at : at + 3])!r}. Choose "
            "words of equally many tokens; lm.token_strings(text) shows them."
        )


@attrs.define(slots=False)
class NoSuchPosition(TenterhookError, IndexError):
    """A position that the prompt does not have."""

    position: int
    count: int

    def __str__(self) -> str:
        return (
            f"Position {self.position} is not in a prompt of {self.count} tokens: give "
            f"{-self.count} to {self.count - 1}."
        )


@attrs.define(slots=False)
class BadMetric(TenterhookError, ValueError):
    """A metric that does not give one number."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"The metric returned {list(self.shape)} numbers. It is given the logits of one "
            "prompt, (1, tokens, vocabulary), and returns one number, as "
            "logit_difference(lm, ' right', ' wrong') does."
        )


@attrs.define(slots=False)
class NotByToken(TenterhookError, ValueError):
    """A layer whose activation has no axis of tokens where one is needed."""

    layer: str
    shape: tuple[int, ...]
    tokens: int

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} gives {list(self.shape)} of a prompt of {self.tokens} tokens, "
            "which is not (1, tokens, ...). Give a layer with tokens on its second axis."
        )


@attrs.define(slots=False)
class NotASum(TenterhookError, ValueError):
    """A model whose residual stream is not the sum of its parts."""

    what: str
    """Where it does not add up."""
    reason: str

    def __str__(self) -> str:
        return (
            f"The logit of this model has no direct parts: of {self.what}, {self.reason}. Blocks "
            "that add attention and MLP to the stream, and a final norm, are needed."
        )


@attrs.define(slots=False)
class OtherLayers(TenterhookError, ValueError):
    """Two runs that do not have the same layers, of the same width."""

    run_a: str
    run_b: str
    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Runs {self.run_a!r} and {self.run_b!r} are not of the same layers: "
            f"{', '.join(self.layers_a)}; and {', '.join(self.layers_b)}. Give layers that both "
            "have, of one model."
        )


@attrs.define(slots=False)
class UnreadableVector(TenterhookError, ValueError):
    """A file that no vector can be read of."""

    path: str
    reason: str

    def __str__(self) -> str:
        return (
            f"No vector can be read of {self.path}: {self.reason}. Give a .safetensors file, as "
            "SteeringVectors.save writes, .npy, or .pt of one tensor."
        )


@attrs.define(slots=False)
class BadLabels(TenterhookError, ValueError):
    """Labels that no probe can be fitted to."""

    reason: str

    def __str__(self) -> str:
        return f"No probe can be fitted: {self.reason}."
