"""What may be wrong with what an SAE is given; each names the value and the way out."""

from collections.abc import Sequence
from typing import Any

from tenterhook import TenterhookError
from tenterhook.errors import closest


class WrongWidth(TenterhookError, ValueError):
    """An activation, or latents, do not have the width that the SAE was made for."""

    def __init__(self, expected: int, found: int, where: Any = None, *, latents: bool = False):
        super().__init__(expected, found, where)
        self.expected, self.found, self.where, self.latents = expected, found, where, latents

    def __str__(self) -> str:
        if self.latents:
            return f"This SAE has {self.expected} latents, and it was given {self.found} to decode."
        place = "what it was given" if self.where is None else f"layer {self.where!r}"
        return (
            f"This SAE takes {self.expected} inputs, and {place} has {self.found} features. "
            f"Attach it to the layer it was trained on, or make one with n_inputs={self.found}."
        )


class NoSuchLatent(TenterhookError, IndexError):
    """A latent that this SAE does not have."""

    def __init__(self, latent: Any, count: int, names: Sequence[str] = ()) -> None:
        super().__init__(latent, count, names)
        self.latent, self.count, self.names = latent, count, tuple(names)

    def __str__(self) -> str:
        said = f"There is no latent {self.latent!r}: the latents are 0 to {self.count - 1}."
        if isinstance(self.latent, str):
            near = closest(self.latent, self.names) if self.names else []
            said += f" Closest name: {near[0]!r}." if near else " None of them has a name."
        return said


class BadSetting(TenterhookError, ValueError):
    """A setting has a value that it cannot have."""

    def __init__(self, name: str, value: Any, valid: str) -> None:
        super().__init__(name, value, valid)
        self.name, self.value, self.valid = name, value, valid

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} is not {self.valid}."


class NoTexts(TenterhookError, RuntimeError):
    """Top texts are asked for that nobody tracked."""

    def __str__(self) -> str:
        return (
            "Texts are not tracked. Call sae.concepts.enable_text_tracking(top_k=10), then run "
            "the model on some texts."
        )


class UnknownArchitecture(TenterhookError, ValueError, LookupError):
    """A saved SAE is of a kind that cannot be read."""

    def __init__(self, where: str, architecture: Any, known: Sequence[str]) -> None:
        super().__init__(where, architecture, known)
        self.where, self.architecture, self.known = where, architecture, tuple(known)

    def __str__(self) -> str:
        return (
            f"{self.where} holds an SAE of architecture {self.architecture!r}; those that can be "
            f"read are {', '.join(self.known)}."
        )


class UnreadableSae(TenterhookError, ValueError):
    """A folder does not hold an SAE, or holds one that is damaged or not of the kind it says."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where} cannot be read as an SAE: {self.reason}"


class SaeExists(TenterhookError, FileExistsError):
    """There is something where an SAE or a checkpoint is to be written."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where, self.what = where, what

    def __str__(self) -> str:
        return f"{self.where} {self.what}. Nothing was overwritten."


class NotFinite(TenterhookError, ValueError):
    """The activations hold NaN or infinity."""

    def __init__(self, count: int, rows: int, what: str) -> None:
        super().__init__(count, rows, what)
        self.count, self.rows, self.what = count, rows, what

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.count} of {self.rows} rows hold NaN or infinity. "
            "Leave those rows out, or capture them in a wider dtype."
        )


class NoRows(TenterhookError, ValueError):
    """There is nothing to train on, or to evaluate with."""

    def __init__(self, where: str, remedy: str = "Capture some texts first.") -> None:
        super().__init__(where, remedy)
        self.where, self.remedy = where, remedy

    def __str__(self) -> str:
        return f"{self.where} holds no rows. {self.remedy}"


class OtherCheckpoint(TenterhookError, ValueError):
    """A checkpoint belongs to another training."""

    def __init__(self, where: str, what: str, found: Any, expected: Any) -> None:
        super().__init__(where, what, found, expected)
        self.where, self.what, self.found, self.expected = where, what, found, expected

    def __str__(self) -> str:
        return (
            f"The checkpoint in {self.where} was made with {self.what}={self.found!r}, and this "
            f"training has {self.what}={self.expected!r}. Give the same settings to go on with it, "
            "or another folder. Nothing was overwritten."
        )
