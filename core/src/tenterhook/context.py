"""What the hooks of one model share: the model, its tokenizer, its store."""

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

import attrs
import torch
from torch import nn


def _view() -> Any:
    """Return a field that nobody sets but the registry."""
    return attrs.field(init=False, factory=dict, on_setattr=attrs.setters.frozen)


@attrs.define(eq=False, repr=False, slots=False)
class HookContext:
    """The model that hooks stand on and what belongs to it; each registered hook has it."""

    model: nn.Module
    model_id: str = attrs.field(kw_only=True, default="")
    tokenizer: Any = attrs.field(kw_only=True, default=None)
    store: Any = attrs.field(kw_only=True, default=None)
    _special_token_ids: Collection[int] | None = attrs.field(kw_only=True, default=None)

    _hook_registry: Mapping[str, Mapping[Any, Any]] = _view()
    """`{layer_signature: {hook_type: [(hook, handle), ...]}}`, a live read-only view."""

    _hook_id_map: Mapping[str, tuple[str, Any, Any]] = _view()
    """`{hook_id: (layer_signature, hook_type, hook)}`, a live read-only view."""

    def __attrs_post_init__(self) -> None:
        self.model_id = self.model_id or type(self.model).__name__

    def take(self, other: "HookContext") -> None:
        """Take over what `other` was told of the model."""
        for name in ("tokenizer", "store", "_special_token_ids"):
            if getattr(other, name) is not None:
                setattr(self, name, getattr(other, name))
        if other.model_id != type(other.model).__name__:
            self.model_id = other.model_id

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter or buffer; the CPU where it has none.

        Of weights that accelerate has offloaded, the one that they are brought to for a call.
        """
        tensor = _first_tensor(self.model)
        if tensor is not None and tensor.is_meta:
            hooks = (getattr(module, "_hf_hook", None) for module in self.model.modules())
            found = (getattr(hook, "execution_device", None) for hook in hooks)
            return torch.device(next((each for each in found if each is not None), "meta"))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's first floating-point parameter or buffer."""
        tensor = _first_tensor(self.model, floating=True)
        return torch.get_default_dtype() if tensor is None else tensor.dtype

    @property
    def special_token_ids(self) -> set[int]:
        """Ids that stand for no text: those that were set, else the tokenizer's own."""
        ids: Any = self._special_token_ids
        if ids is None:
            ids = getattr(self.tokenizer, "all_special_ids", None) or ()
        return {int(id) for id in ids}

    @special_token_ids.setter
    def special_token_ids(self, ids: Collection[int] | None) -> None:
        self._special_token_ids = None if ids is None else tuple(ids)

    def __repr__(self) -> str:
        return f"HookContext(model_id={self.model_id!r}, device={self.device}, dtype={self.dtype})"


def _first_tensor(model: nn.Module, floating: bool = False) -> torch.Tensor | None:
    tensors = chain(model.parameters(), model.buffers())
    return next((each for each in tensors if not floating or each.is_floating_point()), None)
