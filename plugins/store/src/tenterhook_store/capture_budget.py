"""The memory that a capture in a scope may hold, and the store that takes what goes over it.

A capture fills a list for each layer. With a budget it fills the lists made here, which count. What
happens when a layer has run:

1. The capture makes its copy and appends it to the layer's list.
2. The memory under the copy is added up, each block of it once: with `detach=False` tensors are the
   model's own, and several may be views of one block.
3. Where that is more than the budget and somebody has taken tensors out of the lists, what they
   hold is counted anew. Between two such counts the number is never too small.
4. What does not fit is dropped, and `OverBudget` ends the forward; or it goes to the store. Then
   the list holds a `_Spilled` in its place, which is loaded each time that it is read.

Several threads may fill the lists of one capture: `tenterhook.carry` takes it into them.
"""

import math
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import attrs
import torch
from torch import Tensor, nn

from tenterhook_store.errors import BadSetting, OverBudget

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store

UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@attrs.frozen(eq=False)
class CaptureBudget:
    """How much one opening of a capture may hold in memory, and where the rest goes."""

    limit: int
    """Bytes."""
    store: "Store | None" = None
    """What takes the tensors that do not fit; `None` where they are an error."""

    @classmethod
    def of(cls, budget: Any, store: "Store | None" = None, *, detach: bool = True) -> Self:
        """Read what a capture was given: bytes, or an amount as `"2GiB"`.

        Raises `BadSetting` (a `ValueError`) for anything else, for a store without a budget, and
        for one beside `detach=False`.
        """
        if budget is None:
            raise BadSetting("budget", None, "given with store=, which takes what goes over it")
        if store is not None and not detach:
            raise BadSetting("detach", False, "True with store=, which keeps no graph")
        return cls(_bytes_of(budget), store)

    def lists(self, layers: Iterable[str]) -> dict[str, list[Tensor]]:
        """Return the lists that one opening fills, empty, by layer."""
        account = _Account(self)
        account.lists = [BudgetedList(layer, account) for layer in layers]
        return {each.layer: each for each in account.lists}


def _bytes_of(amount: Any) -> int:
    """Return an amount of memory in bytes; `BadSetting` for what is none."""
    if isinstance(amount, str):
        units = {unit.lower(): size for unit, size in UNITS.items()} | {"": 1}
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", amount.strip().lower(), re.ASCII)
        if found and found[2] in units:
            return int(float(found[1]) * units[found[2]])
    elif (
        isinstance(amount, int | float) and not isinstance(amount, bool) and 0 <= amount < math.inf
    ):
        return int(amount)
    expected = f"bytes, as 2 * 1024**3, or a number and one of {', '.join(UNITS)}, as '2GiB'"
    raise BadSetting("budget", amount, expected)


class BudgetedList(list[Tensor]):
    """What a capture with a budget has of one layer: a list, read as any other.

    Reading a tensor that went to the store loads it: a new one each time, on the device that it
    came from.
    """

    def __init__(self, layer: str, account: "_Account") -> None:
        super().__init__()
        self.layer, self._account = layer, account

    def held(self) -> "list[Tensor | _Spilled]":
        """Return what is in the list, nothing loaded."""
        return [*super().__iter__()]

    def append(self, tensor: Tensor) -> None:
        """Take one more tensor, if it fits; see `CaptureBudget`."""
        self._account.take(self.layer, tensor, super().append)

    def __setitem__(self, at: Any, tensor: Any) -> None:
        if isinstance(at, slice):
            super().__setitem__(at, tensor)
        else:  # as a search through beams does, at its end
            self._account.exchange(
                super().__getitem__(at), tensor, partial(super().__setitem__, at)
            )

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return [_loaded(each) for each in found] if isinstance(at, slice) else _loaded(found)

    def __iter__(self) -> Iterator[Tensor]:
        return map(_loaded, super().__iter__())

    def __reversed__(self) -> Iterator[Tensor]:
        return map(_loaded, super().__reversed__())

    def __add__(self, other: Any) -> Any:
        return [*self, *other]

    def copy(self) -> list[Tensor]:
        """Return a plain list, all of it loaded."""
        return [*self]

    def pop(self, at: SupportsIndex = -1) -> Tensor:
        """Take a tensor out, which leaves room for another."""
        found: Tensor = _loaded(super().pop(at))
        return found

    def __repr__(self) -> str:
        return repr([*self])

    def __reduce__(self) -> Any:
        return list, ([*self],)


@attrs.define(eq=False)
class _Account:
    """What the lists of one opening hold together."""

    budget: CaptureBudget
    lists: list[BudgetedList] = attrs.field(factory=list)
    held: int = 0
    """Bytes: no less than those of the tensors in the lists."""
    blocks: dict[Any, int] = attrs.field(factory=dict)
    """The size of each block of memory that is counted in `held`."""
    taken: int = 0
    """How many were appended; where the lists are shorter, somebody has taken some out."""
    name: str = attrs.field(factory=lambda: f"captures/{uuid.uuid4().hex[:12]}")
    lock: Any = attrs.field(factory=threading.Lock)

    def take(self, layer: str, tensor: Tensor, append: Callable[[Any], None]) -> None:
        """Append a tensor of a layer to its list, or what stands for it.

        Raises `OverBudget`, and what the store raises.
        """
        with self.lock:
            fits = self._count(tensor)
            self.taken += fits or self.budget.store is not None
            if fits:
                append(tensor)
        if not fits:
            append(self._spilled(layer, tensor))

    def exchange(self, old: Any, new: Tensor, put: Callable[[Any], None]) -> None:
        """Put a tensor of the same size in the place of one: to the store, if that went there."""
        if isinstance(old, _Spilled):
            put(self._spilled("", new))
            return
        with self.lock:
            before, after = _blocks(old), _blocks(new)
            self.held += max(0, sum(after.values()) - sum(before.values()))
            for block in before:
                self.blocks.pop(block, None)
            self.blocks |= after
            put(new)

    def _count(self, tensor: Tensor) -> bool:
        """Count a tensor, if it fits; the lock is held."""
        blocks = _blocks(tensor)
        if self.held + self._more(blocks) > self.budget.limit:
            there = sum(map(len, self.lists))
            if there < self.taken:
                self._count_anew()
                self.taken = there
        more = self._more(blocks)
        if self.held + more > self.budget.limit:
            return False
        self._add(blocks, more)
        return True

    def _count_anew(self) -> None:
        self.held, self.blocks = 0, {}
        for each in (tensor for layer in self.lists for tensor in layer.held()):
            if isinstance(each, Tensor):
                blocks = _blocks(each)
                self._add(blocks, self._more(blocks))

    def _more(self, blocks: dict[Any, int]) -> int:
        # A block that somebody let go of may be another's now, of another size. Until all is
        # counted anew the larger one counts.
        return sum(max(0, size - self.blocks.get(at, 0)) for at, size in blocks.items())

    def _add(self, blocks: dict[Any, int], more: int) -> None:
        self.held += more
        for at, size in blocks.items():
            self.blocks[at] = max(size, self.blocks.get(at, 0))

    def _spilled(self, layer: str, tensor: Tensor) -> "_Spilled":
        store = self.budget.store
        if store is None or not _is_whole(tensor):
            raise OverBudget(
                layer=layer,
                tensor=f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
                size=sum(_blocks(tensor).values()),
                held=self.held,
                budget=self.budget.limit,
                in_transform=store is not None,
            )
        name = f"{self.name}/{uuid.uuid4().hex[:12]}"
        store.save_tensor(name, tensor)
        return _Spilled(store, name, tensor.device)


@attrs.frozen(eq=False)
class _Spilled:
    """A tensor that is in the store.

    Functions of torch that look into a list themselves, as `torch.cat` does, take it for a tensor.
    """

    store: "Store"
    name: str
    device: torch.device

    def load(self) -> Tensor:
        """Return the tensor."""
        return self.store.load_tensor(self.name).to(self.device)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {name: _loaded(value) for name, value in (kwargs or {}).items()}
        return function(*_loaded(args), **given)


def _loaded(value: Any) -> Any:
    """Return a tensor for what stands for one, also inside the lists and tuples of a call."""
    if isinstance(value, _Spilled):
        return value.load()
    if type(value) in (tuple, list, BudgetedList):
        return [_loaded(each) for each in value]
    return value


# --- the memory under a tensor

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_SPARSE = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
"""The methods that give what a sparse tensor is made of."""


def _blocks(tensor: Tensor) -> dict[Any, int]:
    """Return the size in bytes of each block of memory under a tensor, by where it is."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    parts: list[Tensor] = []
    if flatten is not None and type(tensor) not in _PLAIN:
        parts = [getattr(tensor, name) for name in flatten()[0]]
    elif tensor.layout in _SPARSE:
        parts = [getattr(tensor, name)() for name in _SPARSE[tensor.layout]]
    if parts:
        return {at: size for part in parts for at, size in _blocks(part).items()}
    if not _is_whole(tensor):
        return {id(tensor): tensor.numel() * tensor.element_size()}
    if tensor.is_meta:
        return {}
    storage = tensor.untyped_storage()
    return {(tensor.device, storage.data_ptr()): storage.nbytes()}


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor has memory: one that a transform of `torch.func` wraps has none."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return tensor.layout is not torch.strided
    return True
