"""Which part of an activation: tokens, rows of the batch, features, calls. Values that serialise.

Token positions count the real tokens of each row, padding left out, from the first token that
the model has seen: on the left or on the right, in one forward or step by step with a cache.
"""

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activations import parameters_of
from tenterhook.html import table
from tenterhook_selections.at_work import SelectionAtWork
from tenterhook_selections.generation import copies_of, running_generation
from tenterhook_selections.positions import (
    InRows,
    Positions,
    in_rows,
    indices_of,
    is_among,
    is_in_rows,
    positions_of,
    slice_of,
)
from tenterhook_selections.tokens import Seen
from tenterhook_selections.words import check_word, generated, is_word, prompt, selected_by


def _tokens_of(where: Any) -> Positions | InRows | None:
    """Return positions, or the word, in the form that a `Selection` keeps."""
    if (rows := in_rows(where)) is not None:
        return rows
    if isinstance(where, str) and where != "last" and is_word(where):
        check_word(where)
        return where
    return positions_of(where)


def _at_least_one(_: object, attribute: "attrs.Attribute[int]", value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name}={value!r} is not a whole number of at least 1.")


@attrs.frozen
class Selection:
    """A part of the activations of a layer; what is `None` selects everything."""

    tokens: Positions | InRows | None = attrs.field(default=None, converter=_tokens_of)
    """Positions among the real tokens of each row, negative ones counting from the latest token; or
    a list of such for each row, or a bool mask `(batch, seq)` of the columns that the model is
    given, in a generation those of the prompt; or the name of a selector that a plugin offers,
    `"last"`, `"prompt"`, `"generated"` among them."""

    phase: Literal["prompt", "generated"] | None = attrs.field(default=None)
    """Tokens that were given, or tokens that the model generated."""

    rows: Positions | None = attrs.field(default=None, converter=positions_of)
    """Rows of the batch; in `generating`, as `LanguageModel.generate` has it, all beams or samples
    of a row."""

    features: Positions | None = attrs.field(default=None, converter=positions_of)
    """Indices along the last axis."""

    every: int = attrs.field(default=1, validator=_at_least_one)
    """The first call of a layer and each `every`-th one after it."""

    step: Positions | None = attrs.field(default=None, converter=positions_of)
    """Forwards of a generation, or of the model in this scope, from 0 on."""

    heads: Positions | None = attrs.field(default=None, converter=positions_of)
    """Heads of an attention, at layers whose activation has an axis of them."""

    @step.validator
    def _check_step(self, _: object, step: Positions | None) -> None:
        part = slice_of(step) if isinstance(step, str) else None
        found = step if isinstance(step, tuple) else (part and part.start, part and part.stop)
        if any(at is not None and at < 0 for at in found):
            raise ValueError(
                f"step={step!r} counts from the end, which is not known while it runs. Count from "
                "0, or give a slice as '2:'."
            )

    @phase.validator
    def _check_phase(self, _: object, phase: object) -> None:
        if phase not in (None, "prompt", "generated"):
            raise ValueError(f"phase={phase!r} is not 'prompt' or 'generated'.")

    def _repr_html_(self) -> str:
        found = {
            each.name: (getattr(self, each.name), each.default) for each in attrs.fields(Selection)
        }
        chosen = [(name, value) for name, (value, default) in found.items() if value != default]
        return table([("selects", "of"), *(chosen or [("everything", "")])])

    @property
    def of_tokens(self) -> bool:
        """Whether it selects among tokens."""
        return self.tokens is not None or self.phase is not None

    @property
    def everything(self) -> bool:
        """Whether it selects all there is."""
        parts = (self.tokens, self.phase, self.rows, self.features, self.step, self.heads)
        return self.every == 1 and all(part is None for part in parts)

    def positions(self, count: int) -> Sequence[int]:
        """Return the selected ones of `count` tokens, ascending, those alone that are there."""
        if self.tokens is None:
            return range(count)
        if isinstance(self.tokens, str):
            if is_word(self.tokens):
                raise ValueError(
                    f"tokens={self.tokens!r} is known in a forward alone, not beforehand. Give "
                    "positions, a slice as '2:5', or 'last'."
                )
            return range(count)[slice_of(self.tokens)]
        if any(isinstance(at, tuple) for at in self.tokens):
            raise ValueError("Tokens of each row are known in a forward alone, not beforehand.")
        found = {at if at >= 0 else count + at for at in self.tokens if isinstance(at, int)}
        return sorted(at for at in found if 0 <= at < count)

    def token_mask(self, shape: torch.Size, device: torch.device, seen: Seen | None) -> Tensor:
        """Return which rows and tokens are selected, a bool mask of the first axis or two.

        `shape` is the activation's, `(batch, seq, ...)` or, as some layers have it,
        `(batch * seq, features)`; `seen` is what the forward was given. Raises `ValueError` where
        tokens are selected and the activation has no axis of them.
        """
        flat = seen is not None and len(shape) == 2 and shape[0] == seen.real.numel()
        if seen is not None and flat and (self.of_tokens or shape[0] != len(seen.real)):
            whole = torch.Size((*seen.real.shape, shape[1]))
            mask = self.token_mask(whole, device, seen)
            return (mask if mask.ndim == 2 else mask[:, None].expand(whole[:2])).reshape(-1)
        rows = self._row_mask(shape[0], seen, device)
        if not self.of_tokens:
            return rows
        if len(shape) < 3 or (seen is not None and tuple(shape[:2]) != tuple(seen.real.shape)):
            said = "" if seen is None else f", here {tuple(seen.real.shape)}"
            raise ValueError(
                f"Tokens are selected, and the activation of shape {tuple(shape)} does not have "
                f"the axes of batch and tokens{said}, and features after them."
            )
        if len(shape) > 3 and (seen is None or shape[2] == shape[1]):
            raise ValueError(
                f"Tokens are selected, and which of the axes of the activation of shape "
                f"{tuple(shape)} they are on cannot be told."
            )
        seen = seen or Seen.of_all(shape[0], shape[1])
        mask = seen.real.clone()
        if isinstance(self.tokens, str) and is_word(self.tokens):
            mask &= selected_by(self.tokens, seen)
        elif isinstance(self.tokens, tuple) and isinstance(self.tokens[0], tuple):
            where: Any = self.tokens
            mask &= is_in_rows(where, seen.position, seen.known, seen.copies, seen.first)
        elif self.tokens is not None:
            among: Any = self.tokens
            mask &= is_among(among, seen.position, seen.known)
        if self.phase is not None:
            mask &= generated(seen) if self.phase == "generated" else prompt(seen)
        return mask.to(device) & rows[:, None]

    def is_at(self, step: int) -> bool:
        """Whether a step is selected, counted from 0."""
        if self.step is None:
            return True
        if isinstance(self.step, str):
            part = slice_of(self.step)
            return step in range(part.start or 0, part.stop or step + 1, part.step or 1)
        return step in self.step

    def feature_index(self, count: int, device: torch.device) -> Tensor | None:
        """Return the selected features of `count`, long `(n,)`; `None` for all of them.

        Raises `IndexError` for a feature that is not there.
        """
        if self.features is None:
            return None
        return indices_of(self.features, count, "feature").to(device)

    def head_index(self, count: int, device: torch.device) -> Tensor | None:
        """Return the selected heads of `count`, long `(n,)`; `None` for all of them.

        Raises `IndexError` for a head that is not there.
        """
        return None if self.heads is None else indices_of(self.heads, count, "head").to(device)

    def _row_mask(self, batch: int, seen: Seen | None, device: torch.device) -> Tensor:
        if self.rows is None:
            return torch.ones(batch, dtype=torch.bool, device=device)
        copies = copies_of(batch, running_generation()) if seen is None else seen.copies
        mask = torch.zeros(batch // copies, dtype=torch.bool)
        mask[indices_of(self.rows, batch // copies, "row")] = True
        return mask.repeat_interleave(copies).to(device)

    def begin(self, model: nn.Module) -> SelectionAtWork:
        """Return the selection at work in one scope on `model`.

        Raises `ValueError` where tokens are selected in a model with two sequences of them.
        """
        check_one_sequence(self, model)
        return SelectionAtWork(self, model)


def check_one_sequence(selection: Selection | None, module: nn.Module) -> None:
    """Raise `ValueError` where tokens are selected in a model with two sequences of them."""
    if selection is None or not selection.of_tokens:
        return
    kind: Any = type(module)
    if "decoder_input_ids" in parameters_of(kind):
        raise ValueError(
            f"{type(module).__name__} has two sequences, the encoder's and the decoder's, and "
            f"{selection} does not say whose tokens. Attach to one of its parts and select there: "
            "tenterhook.attach(model.get_encoder()), or get_decoder()."
        )
