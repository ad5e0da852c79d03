"""What the hooks of one model share: the model, its tokenizer, its store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from tenterhook._dispatch.sites import Registration
    from tenterhook.hooks import Hook, HookType
    from tenterhook.registry import HookRegistry


class HookContext:
    """The model that hooks stand on and what belongs to it; each registered hook has it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        model_id: str | None = None,
        tokenizer: Any = None,
        store: Any = None,
        special_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.model_id = model_id if model_id is not None else type(model).__name__
        self.tokenizer = tokenizer
        self.store = store
        self._special_token_ids = special_token_ids
        self._layers: Callable[[], HookRegistry | None] = _nothing
        """A weak reference, so that a model is freed as soon as it is dropped."""

    def take(self, other: "HookContext") -> None:
        """Take over what `other` was told of the model."""
        if other.tokenizer is not None:
            self.tokenizer = other.tokenizer
        if other.store is not None:
            self.store = other.store
        if other.model_id != type(other.model).__name__:
            self.model_id = other.model_id
        if other._special_token_ids is not None:
            self._special_token_ids = other._special_token_ids

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter or buffer; the CPU where it has none."""
        tensor = _first_tensor(self.model)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's first floating-point parameter or buffer."""
        tensor = _first_tensor(self.model, floating=True)
        return torch.get_default_dtype() if tensor is None else tensor.dtype

    @property
    def special_token_ids(self) -> set[int]:
        """Ids that stand for no text: those that were set, else the tokenizer's own."""
        ids = self._special_token_ids
        if ids is None:
            ids = getattr(self.tokenizer, "all_special_ids", None) or ()
        return {int(id) for id in ids}

    @special_token_ids.setter
    def special_token_ids(self, ids: Sequence[int] | set[int] | None) -> None:
        self._special_token_ids = None if ids is None else tuple(ids)

    @property
    def _hook_registry(self) -> "Mapping[str, Mapping[HookType, list[tuple[Hook, Registration]]]]":
        """`{layer_signature: {hook_type: [(hook, handle), ...]}}`, a live read-only view."""
        return _View(lambda: {} if (layers := self._layers()) is None else layers.by_layer())

    @property
    def _hook_id_map(self) -> "Mapping[str, tuple[str, HookType, Hook]]":
        """`{hook_id: (layer_signature, hook_type, hook)}`, a live read-only view."""
        return _View(lambda: {} if (layers := self._layers()) is None else layers.by_id())

    def __repr__(self) -> str:
        return f"HookContext(model_id={self.model_id!r}, device={self.device}, dtype={self.dtype})"


class _View(Mapping[Any, Any]):
    """A mapping that is made anew each time it is read."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __getitem__(self, key: Any) -> Any:
        return self._make()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())

    def __repr__(self) -> str:
        return repr(self._make())


def _nothing() -> None:
    return None


def _first_tensor(model: nn.Module, floating: bool = False) -> torch.Tensor | None:
    for group in (model.parameters(), model.buffers()):
        for tensor in group:
            if not floating or tensor.is_floating_point():
                return tensor
    return None
