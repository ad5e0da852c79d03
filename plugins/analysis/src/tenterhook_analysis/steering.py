"""A prompt gone on with while a vector is added to a layer, once for each scale."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor

from tenterhook.hooks import HookError
from tenterhook_analysis.errors import WrongWidth
from tenterhook_analysis.grids import Grid
from tenterhook_analysis.results import Array, Result
from tenterhook_store.progress import showing
from tenterhook_transformers.language_model import LanguageModel


@final
@attrs.frozen(eq=False, kw_only=True)
class Steered(Result):
    """What came of each prompt at each scale."""

    layer: str
    prompts: tuple[str, ...]
    scales: tuple[float, ...]
    texts: Sequence[Sequence[str]]
    """The continuations, a list of one for each scale for each prompt."""

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """Prompt and scale."""
        return {"prompt": self.prompts, "scale": self.scales}

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The continuations."""
        return {"text": Array(self.texts, ("prompt", "scale"))}

    def grid(self) -> Grid:
        """Return a row for each prompt, a column for each scale."""
        return Grid(
            title=f"Steered at {self.layer}",
            rows=self.prompts,
            columns=[f"{each:g}" for each in self.scales],
            values=torch.zeros(len(self.prompts), len(self.scales)),
            value_name="scale",
            texts=self.texts,
            hovers=self.texts,
        )

    def __repr__(self) -> str:
        return f"Steered({self.layer!r}, {len(self.prompts)} prompts, scales={list(self.scales)})"


def steered(
    lm: LanguageModel,
    prompts: str | Sequence[str],
    layer: str | int,
    vector: Tensor,
    scales: Sequence[float] = (0.0, 2.0, 4.0, 8.0),
    **generate: Any,
) -> Steered:
    """Go on with prompts while `scale * vector` is added at every token of a layer, at each scale.

    `generate` goes to `lm.generate`; without it 30 tokens are made, the likeliest each time.
    Source: Turner et al. 2023, "Steering language models with activation engineering". Cost: one
    generation for each scale, of all prompts together. Raises `WrongWidth` (a
    `ValueError`) for a vector that does not fit, and what `lm.generate` raises.
    """
    given = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    settings = {"max_new_tokens": 30, "do_sample": False, **generate}
    name = lm.layers.index.resolve(layer).name
    columns = []
    with showing(f"Steering at {name}", len(scales), "scales") as work:
        for scale in scales:
            try:
                with lm.steer(name, _Adds(name, vector * scale)):
                    columns.append(lm.generate(list(given), **settings).continuations)
            except HookError as error:
                if isinstance(error.__cause__, WrongWidth):
                    raise error.__cause__ from None
                raise
            work()
    return Steered(
        layer=name,
        prompts=given,
        scales=tuple(map(float, scales)),
        texts=[list(row) for row in zip(*columns, strict=True)],
    )


class _Adds:
    """Adds a vector to what a layer returns."""

    def __init__(self, layer: str, vector: Tensor) -> None:
        self._layer, self._vector = layer, vector

    def __call__(self, activation: Tensor) -> Tensor:
        if activation.shape[-1] != len(self._vector):
            raise WrongWidth(self._layer, activation.shape[-1], len(self._vector))
        return activation + self._vector.to(activation)
