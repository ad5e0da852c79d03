"""From the residual stream to logits, by the model's own code, with its blocks left out.

The model is copied without what is large: the copy has modules of its own and the model's weights,
and in the place of each block something that returns the rows it is told. So whatever the model
does after its last block is done, a final norm, a factor, a cap, a bias, whichever its family; and
none of the hooks that stand on the model sees rows that it never computed.

What stands in an instance as `forward` is left out with the blocks, but for accelerate's, which
fetches weights that lie elsewhere.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.one_line import error_line
from tenterhook_analysis.errors import NoReadout, WrongWidth
from tenterhook_transformers.families import takes, unwrapped
from tenterhook_transformers.language_model import LanguageModel

MOST_LOGITS = 2**24
"""How many logits are computed at once: 64 MB of float32."""

_HOOKS = [name for name in vars(nn.Module()) if "hook" in name]


class Readout:
    """What a model makes of the residual stream after its last block: `readout(rows)`, logits."""

    def __init__(self, model: LanguageModel) -> None:
        """Raises `NoReadout` where no logits follow from rows."""
        index = model.layers.index
        blocks = [index.resolve(name).module for name in index.blocks()]
        self._inner: Any = unwrapped(model.module)
        self._given = _Given()
        self._copy = _without(self._inner, blocks, self._given)
        self._device = model.context.device
        self.dtype: torch.dtype = getattr(self._inner, "dtype", torch.float32)
        self._more = {"use_cache": False} if takes(self._inner, "use_cache") else {}
        name = type(self._inner).__name__
        if not blocks:
            raise NoReadout(name, "it has no blocks")
        self.vocabulary, self.width = self._probe(name)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return logits `[n, vocabulary]` of rows `[n, features]`, in the model's dtype.

        Where there are many, ask for some at a time: `at_once`.
        """
        output = self._run(rows.to(self._device, self.dtype)[:, None])
        return output[:, 0]

    @property
    def in_tuples(self) -> bool:
        """Whether the blocks return a tuple, the stream first, and not the stream itself."""
        return self._given.in_tuple

    @property
    def at_once(self) -> int:
        """How many rows are to be given at once."""
        return max(1, MOST_LOGITS // self.vocabulary)

    def check(self, layer: str, width: int) -> None:
        """Raise `WrongWidth` unless rows of a layer are as wide as the stream."""
        if width != self.width:
            raise WrongWidth(layer, width, self.width)

    def _run(self, rows: Tensor) -> Tensor:
        self._given.rows = rows
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=self._device)
        with torch.no_grad():
            output = self._copy(input_ids=ids, **self._more)
        logits: Tensor = output.logits
        return logits

    def _probe(self, name: str) -> tuple[int, int]:
        """Find out whether blocks return a tensor or a tuple of one; return the sizes."""
        config = self._inner.config.get_text_config()
        width = int(config.hidden_size)
        zeros = torch.zeros(2, 1, width, device=self._device, dtype=self.dtype)
        reason = "its output has none"
        for self._given.in_tuple in (False, True):
            try:
                logits = self._run(zeros)
            except Exception as error:  # noqa: BLE001 - of whatever model, and it is shown
                reason = error_line(error)
                continue
            if logits.ndim == 3 and logits.shape[:2] == (2, 1):
                return logits.shape[2], width
        raise NoReadout(name, reason)


class _Given:
    """The rows that all blocks return."""

    rows: Tensor
    in_tuple = False


class _Stub(nn.Module):
    """Stands in for a block; what else is asked of it, the block says."""

    def __init__(self, block: nn.Module, given: _Given) -> None:
        super().__init__()
        vars(self)["_block"], vars(self)["_answer"] = block, given

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the rows."""
        given: _Given = vars(self)["_answer"]
        return (given.rows,) if given.in_tuple else given.rows


def _without(model: nn.Module, blocks: list[nn.Module], given: _Given) -> nn.Module:
    """Return a copy of a model that shares its weights and has no blocks, in eval mode."""
    found: dict[int, nn.Module] = {id(block): _Stub(block, given) for block in blocks}

    def copied(module: nn.Module) -> nn.Module:
        if id(module) in found:
            return found[id(module)]
        new = found[id(module)] = module.__class__.__new__(module.__class__)
        own = vars(new)
        own.update(vars(module))
        own.update({name: OrderedDict() for name in _HOOKS if name in own})
        own["_modules"] = {
            name: None if child is None else copied(child)
            for name, child in module._modules.items()
        }
        own["training"] = False
        has_blocks = any(isinstance(each, _Stub) for each in new.modules())
        if has_blocks or "_hf_hook" not in own:
            own.pop("forward", None)
        return new

    made = copied(model)
    for new in [each for each in found.values() if not isinstance(each, _Stub)]:
        own = vars(new)
        for name, value in own.items():
            if isinstance(value, nn.Module) and id(value) in found:
                own[name] = found[id(value)]  # one that is kept beside `_modules`
    return made
