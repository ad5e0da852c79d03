"""What can go wrong with a capture before or while it runs."""

from typing import Any

from tenterhook.errors import TenterhookError


class BadArgument(TenterhookError, ValueError):
    """An argument that makes no sense."""

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(name, value, expected)
        self.name, self.value, self.expected = name, value, expected

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} must be {self.expected}."


class NothingToCapture(TenterhookError, ValueError):
    """No document has a token."""

    def __init__(self, source: str, documents: int) -> None:
        super().__init__(source, documents)
        self.source, self.documents = source, documents

    def __str__(self) -> str:
        return (
            f"None of the {self.documents} documents of {self.source} has a token, so there is "
            "nothing to capture. Look at the data, and at the model's tokenizer."
        )


class NotPerToken(TenterhookError, ValueError):
    """A layer's output has no row for each token."""

    def __init__(self, layer: str, found: str, batch: tuple[int, ...]) -> None:
        super().__init__(layer, found, batch)
        self.layer, self.found, self.batch = layer, found, batch

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} gave {self.found} for a batch of (batch, seq) = {self.batch}. "
            "A run keeps a row per token, so the output must be (batch, seq, features). "
            "Choose another layer; `tenterhook layers MODEL` lists them."
        )


class WrongMask(TenterhookError, ValueError):
    """A model's mask does not mark the tokens that it was given."""

    def __init__(self, found: list[int], expected: list[int]) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return (
            f"The model was given documents of {self.expected} tokens and its mask marks "
            f"{self.found}. `run_token_ids` must return a bool mask with one True per token."
        )
