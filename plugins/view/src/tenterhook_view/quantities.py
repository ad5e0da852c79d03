"""What tokens are coloured by: a number for each, worked out of a layer's rows block by block."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor

from tenterhook_view.errors import UnknownQuantity, WrongShape
from tenterhook_view.parts import Series
from tenterhook_view.run_tokens import RunTokens, blocks

if TYPE_CHECKING:
    from tenterhook_store import Run

MOST_NUMBERS = 100_000
"""Tokens times layers on a page at most: fewer tokens are shown of a run of many layers."""

LATENTS = 8
"""Latents of a sparse autoencoder that are shown: those that are most active."""


class Encodes(Protocol):
    """A sparse autoencoder, as far as it is needed here."""

    n_inputs: int
    n_latents: int

    def encode(self, x: Tensor, /) -> Tensor:
        """Return the latents `(..., n_latents)` of activations `(..., n_inputs)`."""


@attrs.frozen(kw_only=True, eq=False)
class Quantity:
    """How a row becomes a number."""

    name: str
    of: Callable[[Tensor], Tensor]
    """Takes rows `[n, features]` in float32, gives float `[n]`."""
    is_signed: bool = False
    width: int | None = None
    """Features that a layer must have; any number, without it."""
    least: int = 1
    """Features that a layer must have at least."""

    def series(self, tokens: RunTokens, layer: str) -> Series:
        """Return the numbers of a layer's rows."""
        values = torch.cat([self.of(rows).float() for rows in blocks(tokens, layer)])
        return Series(name=self.name, layer=layer, values=values, is_signed=self.is_signed)


def norm() -> Quantity:
    """Return the length (L2) of a row."""
    return Quantity(name="norm", of=lambda rows: torch.linalg.vector_norm(rows, dim=1))


def feature(number: int) -> Quantity:
    """Return a feature of the layer, by its number."""
    return Quantity(
        name=f"feature {number}",
        of=lambda rows: rows[:, number],
        is_signed=True,
        least=number + 1,
    )


def direction(vector: Tensor, *, name: str = "direction", bias: float = 0.0) -> Quantity:
    """Return the dot product with a vector `[features]`, plus a number: a direction, a probe.

    Raises `WrongShape` for anything but a vector.
    """
    if vector.ndim != 1 or not len(vector):
        raise WrongShape(name, vector.shape, "(features,)")
    plain = vector.detach().float().cpu()
    return Quantity(
        name=name, of=lambda rows: rows @ plain + bias, is_signed=True, width=len(plain)
    )


def latents(
    sae: Encodes, tokens: RunTokens, layer: str, numbers: Sequence[int] | None = None
) -> Iterator[Series]:
    """Yield the latents of a layer's rows: those asked for, else the most active of them.

    The rows are read twice where none are asked for, so that no more latents are in memory than of
    a block. Raises `WrongShape` for a layer of another width, `UnknownQuantity` for a latent that
    the SAE does not have.
    """
    for each in numbers or ():
        if not 0 <= each < sae.n_latents:
            known = [f"latent:0 to latent:{sae.n_latents - 1}"]
            raise UnknownQuantity(f"latent:{each}", known)
    chosen = list(numbers) if numbers is not None else _most_active(sae, tokens, layer)
    found = torch.cat([each[:, chosen] for each in _encoded(sae, tokens, layer)])
    for at, number in enumerate(chosen):
        yield Series(name=f"latent {number}", layer=layer, values=found[:, at].contiguous())


@torch.no_grad()
def _encoded(sae: Encodes, tokens: RunTokens, layer: str) -> Iterator[Tensor]:
    most = max(1, 2**22 // sae.n_latents)
    for rows in blocks(tokens, layer):
        if rows.shape[1] != sae.n_inputs:
            raise WrongShape(f"Layer {layer}", rows.shape, f"(rows, {sae.n_inputs}), as the SAE's")
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            yield sae.encode(some).float().cpu()


def _most_active(sae: Encodes, tokens: RunTokens, layer: str) -> list[int]:
    highest = torch.zeros(sae.n_latents)
    for found in _encoded(sae, tokens, layer):
        highest = torch.maximum(highest, found.amax(0))
    best: list[int] = highest.topk(min(LATENTS, sae.n_latents)).indices.tolist()
    return best


def layers_of(run: "Run", layer: str | int | Sequence[str | int] | None) -> list[str]:
    """Return the names of the layers asked for; all without any. Raises `NotCaptured`."""
    if layer is None:
        return list(run.layers)
    asked = [layer] if isinstance(layer, str | int) else list(layer)
    return list(dict.fromkeys(run[each].name for each in asked))


def fitting(run: "Run", layers: Sequence[str], quantity: Quantity) -> list[str]:
    """Return those layers that have the features a quantity is of.

    Raises `WrongShape` where there is none.
    """
    widths = {each: run[each].shape[1] for each in layers}
    found = [
        each
        for each, width in widths.items()
        if quantity.width in (None, width) and width >= quantity.least
    ]
    if not found:
        there = ", ".join(f"{each}: {width}" for each, width in [*widths.items()][:8])
        needed = quantity.width or quantity.least
        raise WrongShape(quantity.name, (needed,), f"of the features of a layer ({there})")
    return found


def quantity_named(by: str, known: Sequence[str] = ("norm", "feature:N", "surprise")) -> Quantity:
    """Return what a word means: `norm`, or `feature:17`. Raises `UnknownQuantity`."""
    word, _, number = by.partition(":")
    if by == "norm":
        return norm()
    if word == "feature" and number.isdecimal():
        return feature(int(number))
    raise UnknownQuantity(by, known)


def as_vector(values: Any) -> Tensor:
    """Return numbers, of whatever kind, as a float32 vector on the CPU."""
    return torch.as_tensor(values).detach().float().cpu().flatten()
