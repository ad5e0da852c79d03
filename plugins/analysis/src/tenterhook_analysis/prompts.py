"""Two prompts of the same number of tokens, run as a pair; metrics of what the model says of them.

Blocks before the one that is patched do the same in every run, so they need not run: each returns
what it returned of the corrupt prompt. That is done where nothing changes activations on the way,
and where the model's logits come out the same; a model whose later blocks read more of the earlier
ones than the residual stream is run whole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook.activity import changing
from tenterhook_analysis.errors import (
    BadMetric,
    NoReadout,
    NoSuchPosition,
    NotByToken,
    UnequalPrompts,
)
from tenterhook_analysis.lens import strings_of
from tenterhook_analysis.readout import Readout
from tenterhook_transformers.errors import EmptyText, TooLong
from tenterhook_transformers.evaluating import evaluating
from tenterhook_transformers.families import has_fixed_positions, model_inputs, takes
from tenterhook_transformers.language_model import LanguageModel

Metric = Callable[[Tensor], Any]
"""Makes one number of the logits of one prompt, `(1, tokens, vocabulary)`."""

SAME = 1e-4
"""How far logits may be from those of a whole forward, by norm, for blocks to be left out."""


def logit_difference(lm: LanguageModel, right: str | int, wrong: str | int) -> Metric:
    """Return a metric: by how much the logit of `right` is above that of `wrong` at the last token.

    They are texts of one token, as `" the"`, or token ids. Raises `NotOneToken` (a `ValueError`).
    """
    one, other = (
        lm.single_token(each) if isinstance(each, str) else each for each in (right, wrong)
    )
    return lambda logits: logits[0, -1, one] - logits[0, -1, other]


@attrs.frozen(eq=False)
class Prompts:
    """A clean and a corrupt prompt, ready to be run with some layers watched."""

    lm: LanguageModel
    clean: dict[str, Tensor]
    corrupt: dict[str, Tensor]
    """What the model's forward takes, each of one row."""
    layers: tuple[str, ...]
    positions: tuple[int, ...]
    metric: Metric

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        clean: str,
        corrupt: str,
        metric: Metric,
        layers: Sequence[str | int] | None,
        positions: Sequence[int] | None,
    ) -> "Prompts":
        """Raises `UnequalPrompts`, `NoSuchPosition`, `EmptyText`, `TooLong`, `UnknownLayer`."""
        index = lm.layers.index
        names = index.blocks() if layers is None else [each.name for each in index.expand(layers)]
        both = [lm.tokenize([text]) for text in (clean, corrupt)]
        counts = [each["input_ids"].shape[1] for each in both]
        if counts[0] != counts[1]:
            tokens = tuple(tuple(strings_of(lm, each["input_ids"][0].tolist())) for each in both)
            raise UnequalPrompts(*tokens)
        count = counts[0]
        if not count:
            raise EmptyText(0)
        limit = lm.max_tokens if has_fixed_positions(lm.module) else None
        if limit is not None and count > limit:
            raise TooLong(0, count, limit)
        asked = range(count) if positions is None else positions
        for at in asked:
            if not -count <= at < count:
                raise NoSuchPosition(at, count)
        more = {"use_cache": False} if takes(lm.module, "use_cache") else {}
        inputs = [{**model_inputs(lm.module, each), **more} for each in both]
        places = tuple(at % count for at in asked)
        return cls(lm, inputs[0], inputs[1], tuple(names), places, metric)

    def run(self, inputs: dict[str, Any], rows: int = 1) -> Tensor:
        """Return the logits of so many rows of one prompt, hooks and open scopes included."""
        many = {
            name: value.expand(rows, -1) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        with evaluating(self.lm.module):
            output = self.lm(**many)
        if getattr(output, "logits", None) is None:
            raise NoReadout(type(self.lm.module).__name__, "its output has none")
        logits: Tensor = output.logits
        return logits

    def watched(self, inputs: dict[str, Any], *more: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of one prompt, and what the layers returned of it, `(1, tokens, ...)`.

        Raises `NotByToken` for a layer with no axis of tokens after the first.
        """
        names = list(dict.fromkeys([*self.layers, *more]))
        with torch.no_grad(), self.lm.capture(*names) as captured:
            logits = self.run(inputs)
        found = {name: captured.last(name) for name in names}
        count = inputs["input_ids"].shape[1]
        for name, value in found.items():
            if value.shape[:2] != (1, count):
                raise NotByToken(name, tuple(value.shape), count)
        return logits, found

    def measure(self, logits: Tensor) -> Tensor:
        """Return the metric of each row, `[rows]`; `BadMetric` where it is not a number."""
        found = []
        for row in torch.split(logits, 1):
            value = torch.as_tensor(self.metric(row))
            if value.numel() != 1:
                raise BadMetric(tuple(value.shape))
            found.append(value.reshape(()))
        return torch.stack(found)

    def tokens(self, inputs: dict[str, Any]) -> tuple[str, ...]:
        """Return what the tokens of a prompt stand for."""
        return tuple(strings_of(self.lm, inputs["input_ids"][0].tolist()))


class Shortcut:
    """Starts forwards of the corrupt prompt at a block, where that gives what whole ones do."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._blocks = prompts.lm.layers.index.blocks()
        self._in_tuples: bool | None = None
        self.logits, self.corrupt = self._look()

    def _look(self) -> tuple[Tensor, dict[str, Tensor]]:
        prompts = self._prompts
        index = prompts.lm.layers.index
        modules = [index.resolve(name).module for name in self._blocks]
        # A hook on a block would run again on what the block is said to return.
        is_hooked = any(each._forward_hooks or each._forward_pre_hooks for each in modules)
        if is_hooked or changing(prompts.lm.layers) or len(modules) < 2:
            return prompts.watched(prompts.corrupt)
        logits, found = prompts.watched(prompts.corrupt, *self._blocks)
        try:
            self._in_tuples = Readout(prompts.lm).in_tuples
        except NoReadout:
            return logits, found
        self._outputs = [found[name] for name in self._blocks]
        with torch.no_grad(), self.before(self._blocks[-1], 1):
            short = prompts.run(prompts.corrupt)
        far = (short - logits).float().norm() / logits.float().norm().clamp_min(1e-30)
        if not far <= SAME:
            self._in_tuples = None
        return logits, found

    @contextmanager
    def before(self, layer: str, rows: int) -> Iterator[None]:
        """Leave out the blocks before the one that a layer is in, for forwards of so many rows."""
        number = next(
            (
                at
                for at, block in enumerate(self._blocks)
                if layer == block or layer.startswith(f"{block}.")
            ),
            0,
        )
        with ExitStack() as scopes:
            if self._in_tuples is not None and number:
                stream = self._outputs[number - 1]
                given = stream.expand(rows, *stream.shape[1:])
                answer = (given,) if self._in_tuples else given
                for block in self._blocks[:number]:
                    scopes.enter_context(self._prompts.lm.replace(block, answer))
            yield
