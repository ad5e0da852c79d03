"""What may be wrong with what an SAE is given; each names the value and the way out."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tenterhook import TenterhookError
from tenterhook.errors import closest
from tenterhook.one_line import error_line, shown
from tenterhook_store.errors import BadSetting as BadSetting  # the same one, under both names


def _tuple(names: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(names)


@attrs.define(slots=False)
class WrongWidth(TenterhookError, ValueError):
    """An activation, or latents, do not have the width that the SAE was made for."""

    expected: int
    """How wide it has to be."""

    found: int
    """How wide it is."""

    where: Any = None
    """The layer, where that is known."""

    latents: bool = False
    """Whether it is latents that were to be decoded."""

    outputs: bool = False
    """Whether it is what is to be replaced, and not what is encoded."""

    def __str__(self) -> str:
        if self.latents:
            return f"This SAE has {self.expected} latents, and it was given {self.found} to decode."
        if self.outputs:
            return (
                f"This transcoder gives {self.expected} outputs, and layer {self.where!r} returns "
                f"{self.found} features. Attach it to the layer whose place it was trained to take."
            )
        place = "what it was given" if self.where is None else f"layer {self.where!r}"
        return (
            f"This SAE takes {self.expected} inputs, and {place} has {self.found} features. "
            f"Attach it to the layer it was trained on, or make one with n_inputs={self.found}."
        )


@attrs.define(slots=False)
class WrongParts(TenterhookError, ValueError):
    """Batches are not of the layers that a transcoder or crosscoder is made for."""

    kind: str
    """The class."""

    expected: Sequence[int] = attrs.field(converter=_tuple)
    """How wide each of its layers is."""

    found: Sequence[int] = attrs.field(converter=_tuple)
    """How wide the layers of the batches are."""

    layers: Sequence[Any] = attrs.field(default=(), converter=_tuple)
    """Which these are."""

    def __str__(self) -> str:
        return (
            f"This {self.kind} is made for layers of {' and '.join(map(str, self.expected))} "
            f"features, and the batches are of {', '.join(map(repr, self.layers))}, of "
            f"{' and '.join(map(str, self.found))}. Give batches of these layers, in their order, "
            "or make one of these widths."
        )


@attrs.define(slots=False)
class NotRead(TenterhookError, RuntimeError):
    """A layer that a hook reads beside its own has not run when its own has."""

    layers: Sequence[str] = attrs.field(converter=_tuple)
    """Those that have not run."""

    where: Any
    """The layer that the hook stands at."""

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.layers))
        return (
            f"{names} did not run before layer {self.where!r} in this forward of the model. Attach "
            "it to the last of the layers that it reads, and run the whole model."
        )


@attrs.define(slots=False)
class NoOther(TenterhookError, RuntimeError):
    """A crosscoder of two models does not know what the other model gave."""

    model: str
    """The other one, by the name that the crosscoder has for it."""

    where: Any
    """The layer that the hook stands at."""

    def __str__(self) -> str:
        return (
            f"At layer {self.where!r} nobody said what the model {self.model!r} gave for the same "
            "tokens. Capture it there first, and set it: crosscoder.beside = captured. Rows of "
            "both are measured by tenterhook sae compare SAE --run STORE/alignments/NAME."
        )


@attrs.define(slots=False)
class NoSuchLatent(TenterhookError, IndexError):
    """A latent that this SAE does not have."""

    latent: Any
    """What was asked for: a number, or a name."""

    count: int
    """How many latents there are."""

    names: Sequence[str] = attrs.field(default=(), converter=_tuple)
    """The names that latents have."""

    def __str__(self) -> str:
        message = f"There is no latent {self.latent!r}: the latents are 0 to {self.count - 1}."
        if isinstance(self.latent, str):
            near = closest(self.latent, self.names) if self.names else []
            message += f" Closest name: {near[0]!r}." if near else " None of them has a name."
        return message


class NoTexts(TenterhookError, RuntimeError):
    """Top texts are asked for that nobody tracked."""

    def __str__(self) -> str:
        return (
            "Texts are not tracked. Call sae.concepts.enable_text_tracking(top_k=10), then run "
            "the model on some texts."
        )


@attrs.define(slots=False)
class UnreadableSae(TenterhookError, ValueError):
    """A folder does not hold an SAE, or holds one that is damaged or not of the kind it says."""

    where: str
    """The folder or file."""

    reason: str
    """A sentence on what is wrong with it."""

    def __str__(self) -> str:
        return f"{self.where} cannot be read as an SAE: {self.reason}"


@attrs.define(slots=False)
class UnknownArchitecture(UnreadableSae, LookupError):
    """A saved SAE is of a kind that cannot be read."""

    architecture: Any
    """The kind that it says it is."""

    known: Sequence[str] = attrs.field(converter=_tuple)
    """The kinds that can be read."""

    reason: str = attrs.field(init=False)
    """A sentence on what is wrong with it."""

    @reason.default
    def _say_reason(self) -> str:
        return (
            f"it is of architecture {shown(self.architecture)}; those that can be read are "
            f"{', '.join(self.known)}."
        )

    def __str__(self) -> str:
        return (
            f"{self.where} holds an SAE of architecture {shown(self.architecture)}; those that can "
            f"be read are {', '.join(self.known)}."
        )


@attrs.define(slots=False)
class SaeExists(TenterhookError, FileExistsError):
    """There is something where an SAE or a checkpoint is to be written."""

    where: str
    """The folder."""

    what: str
    """What is there, as what follows its name in a sentence."""

    def __str__(self) -> str:
        return f"{self.where} {self.what}. Nothing was overwritten."


@attrs.define(slots=False)
class NotFinite(TenterhookError, ValueError):
    """The activations hold NaN or infinity."""

    count: int
    """How many rows hold NaN or infinity."""

    rows: int
    """How many rows there are."""

    what: str
    """Which activations they are."""

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.count} of {self.rows} rows hold NaN or infinity. "
            "Leave those rows out, or capture them in a wider dtype."
        )


@attrs.define(slots=False)
class NoRows(TenterhookError, ValueError):
    """There is nothing to train on, or to evaluate with."""

    where: str
    """What holds none."""

    remedy: str = "Capture some texts first."
    """What to do, in a sentence."""

    def __str__(self) -> str:
        return f"{self.where} holds no rows. {self.remedy}"


@attrs.define(slots=False)
class OtherCheckpoint(TenterhookError, ValueError):
    """A checkpoint belongs to another training."""

    where: str
    """The checkpoint's folder."""

    what: str
    """The setting that differs."""

    found: Any
    """Its value in the checkpoint."""

    expected: Any
    """Its value in this training."""

    def __str__(self) -> str:
        return (
            f"The checkpoint in {self.where} was made with {self.what}={self.found!r}, and this "
            f"training has {self.what}={self.expected!r}. Give the same settings to go on with it, "
            "or another folder. Nothing was overwritten."
        )


@attrs.define(slots=False)
class Diverged(TenterhookError, FloatingPointError):
    """A training came to a loss or to weights that are no finite numbers."""

    kind: str
    """The class that was trained."""

    step: int
    """At which step."""

    loss: float
    """What the loss was; NaN where only weights were looked at."""

    learning_rate: float
    """What it was then."""

    def __str__(self) -> str:
        return (
            f"The training of a {self.kind} diverged at step {self.step}: the loss is {self.loss} "
            f"with a learning rate of {self.learning_rate:g}. Give a lower learning_rate, or a "
            "lower clip."
        )


@attrs.define(slots=False)
class TrainingsFailed(TenterhookError, RuntimeError):
    """Of several trainings some ended with an error; the others are done."""

    errors: Mapping[str, Exception]
    """What ended each that failed, by name."""

    done: Sequence[str] = attrs.field(converter=_tuple)
    """The names of those that are done."""

    def __str__(self) -> str:
        count = len(self.errors) + len(self.done)
        said = " ".join(f"{name}: {error_line(error)}" for name, error in self.errors.items())
        others = f"done are {', '.join(self.done)}" if self.done else "none is done"
        return f"Of {count} trainings {len(self.errors)} failed; {others}. {said}"
