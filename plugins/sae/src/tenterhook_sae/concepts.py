"""Concepts: what latents stand for, and what is done to them. `sae.concepts`."""

import threading
from asyncio import Task, _get_running_loop, current_task
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from numbers import Real
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from tenterhook import HookContext
from tenterhook_sae.errors import BadSetting, NoSuchLatent, NoTexts
from tenterhook_sae.following import Following
from tenterhook_sae.limits import BEST, LARGEST, whole
from tenterhook_sae.sparse_latents import SparseLatents
from tenterhook_sae.top_texts import TopTextList, TopTexts
from tenterhook_selections import Selection, Where

Latent = int | str
"""A latent by its number, or by the name it was given."""


def _number(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    bound = attribute.name in ("minimum", "maximum")
    if value is None and bound:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not -LARGEST <= value <= LARGEST:
        raise BadSetting(attribute.name, value, f"a finite number, {LARGEST:.0e} at most in size")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise BadSetting("name", name, "a text")


@attrs.frozen(kw_only=True)
class Manipulation:
    """What is done to one latent: `scale * z + add`, kept between `minimum` and `maximum`.

    Where a selection is given it counts there alone.
    """

    scale: float = attrs.field(default=1.0, validator=_number)
    add: float = attrs.field(default=0.0, validator=_number)
    minimum: float | None = attrs.field(default=None, validator=_number)
    maximum: float | None = attrs.field(default=None, validator=_number)
    selection: Selection | None = None

    def __attrs_post_init__(self) -> None:
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise BadSetting("minimum", low, f"at most maximum={high}")
        if self.selection is not None and self.selection.features is not None:
            raise ValueError(
                f"features={self.selection.features!r} selects inputs of the SAE, and a "
                "manipulation changes one latent. Leave features out."
            )

    @property
    def changes_nothing(self) -> bool:
        """Whether every latent stays what it is."""
        return self.scale == 1 and self.add == 0 and self.minimum is None and self.maximum is None

    def of(self, latent: Tensor) -> Tensor:
        """Return the changed activations of the latent, of the same shape and dtype."""
        new = latent * self.scale if self.scale != 1 else latent
        new = new + self.add if self.add else new
        if self.minimum is not None or self.maximum is not None:
            new = new.clamp(self.minimum, self.maximum)
        return new


@attrs.frozen(eq=False)
class Change:
    """A manipulation of a latent that counts here and now."""

    latent: int
    manipulation: Manipulation
    following: Following
    calls: "count[int]" = attrs.field(factory=count)

    def apply(self, columns: Tensor, column: int, shape: torch.Size) -> Tensor:
        """Return `columns`, `(rows, latents)`, with one of them changed where it is selected.

        `shape` is the activation's, `(batch, seq, n_inputs)` or what the layer has.
        """
        changed = self.manipulation.of(columns[:, column])
        selection = self.manipulation.selection
        if selection is not None:
            if next(self.calls) % selection.every:
                return columns
            mask = selection.token_mask(shape, columns.device, self.following.seen_for(selection))
            mask = mask.reshape(mask.shape + (1,) * (len(shape) - 1 - mask.ndim))
            mask = mask.expand(shape[:-1]).reshape(-1)
            changed = torch.where(mask, changed, columns[:, column])
        new = columns.clone()
        new[:, column] = changed
        return new


@attrs.frozen(eq=False)
class _Manipulated:
    """Manipulations of one open `manipulated` block, of the thread or task that opened it."""

    concepts: "Concepts"
    changes: Mapping[int, Sequence[Change]]
    thread: int
    task: "Task[Any] | None"


_open: ContextVar[tuple[_Manipulated, ...]] = ContextVar("tenterhook_sae_manipulated", default=())


class Concepts:
    """What the latents of one SAE stand for, and what is done to them."""

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents
        self._names: dict[int, str] = {}
        self._standing: tuple[Change, ...] = ()
        self._texts: TopTexts | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._following = Following()
        self._context: HookContext | None = None
        self._selecting = 0
        """How many open `manipulated` blocks select tokens or rows."""

    # --- names

    @property
    def names(self) -> Mapping[int, str]:
        """The names of latents, by number; saved with the SAE. Set, they replace all there were."""
        return dict(sorted(self._names.items()))

    @names.setter
    def names(self, names: Mapping[int, str]) -> None:
        given: dict[str, int] = {}
        for latent, name in names.items():
            self.number(latent)
            _check_name(name)
            if given.setdefault(name, latent) != latent:
                raise BadSetting("name", name, f"free: it is the name of latent {given[name]}")
        self._names = dict(names)

    def name(self, latent: Latent, name: str | None) -> None:
        """Give a latent a name, by which it can be asked for too; `None` takes it away.

        Raises `NoSuchLatent`, and `BadSetting` (a `ValueError`) for a name that is empty or
        another latent's.
        """
        number = self.number(latent)
        if name is None:
            self._names.pop(number, None)
            return
        _check_name(name)
        taken = next((n for n, known in self._names.items() if known == name and n != number), None)
        if taken is not None:
            raise BadSetting("name", name, f"free: it is the name of latent {taken}")
        self._names[number] = name

    def number(self, latent: Latent) -> int:
        """Return the number of a latent that is given by number or name.

        Raises `NoSuchLatent` (an `IndexError`), naming the range, and `TypeError` for what is
        neither.
        """
        if isinstance(latent, str):
            for number, name in self._names.items():
                if name == latent:
                    return number
            raise NoSuchLatent(latent, self.n_latents, list(self._names.values()))
        if type(latent) is not int:
            raise TypeError(f"A latent is an int or a name, not {latent!r}.")
        if not 0 <= latent < self.n_latents:
            raise NoSuchLatent(latent, self.n_latents)
        return latent

    # --- manipulations

    @property
    def manipulations(self) -> Mapping[int, Sequence[Manipulation]]:
        """The standing manipulations of each latent, in the order in which they apply."""
        found: dict[int, list[Manipulation]] = {}
        for change in self._standing:
            found.setdefault(change.latent, []).append(change.manipulation)
        return found

    def manipulate_concept(
        self,
        neuron_idx: Latent,
        scale: float = 1.0,
        *,
        add: float = 0.0,
        minimum: float | None = None,
        maximum: float | None = None,
        tokens: Where | None = None,
        phase: Literal["prompt", "generated"] | None = None,
        rows: Where | None = None,
        every: int = 1,
        selection: Selection | None = None,
    ) -> None:
        """Have the latent be `scale * z + add`, kept within the bounds, until it is reset.

        The other latents stay, bit for bit. `scale=0` removes it; equal bounds set it. `tokens`,
        `phase`, `rows` and `every`, or a `selection`, say where: see `tenterhook.Selection`. It
        takes the place of what stood for the same latent and selection; those for different
        selections apply one after the other.

        Raises `NoSuchLatent` (an `IndexError`), and `ValueError` for what is no finite number.
        """
        number = self.number(neuron_idx)
        parts = (tokens, phase, rows)
        if any(part is not None for part in parts) or every != 1:
            if selection is not None:
                raise ValueError(f"Give either selection={selection!r} or its parts, not both.")
            selection = Selection(tokens=tokens, phase=phase, rows=rows, every=every)
        manipulation = Manipulation(
            scale=scale, add=add, minimum=minimum, maximum=maximum, selection=_part(selection)
        )
        change = Change(number, manipulation, self._following)
        with self._lock:
            key = number, manipulation.selection
            others = [c for c in self._standing if (c.latent, c.manipulation.selection) != key]
            self._standing = tuple(others) if manipulation.changes_nothing else (*others, change)
            self._follow()

    def reset_manipulations(self) -> None:
        """Take back every standing manipulation; open `manipulated` blocks keep theirs."""
        with self._lock:
            self._standing = ()
            self._follow()

    @contextmanager
    def manipulated(
        self, manipulations: "Mapping[Latent, float | Manipulation | Sequence[Manipulation]]"
    ) -> Iterator[None]:
        """Have latents manipulated in this block: `{42: 1.5}`, a number being the scale.

        Seen only by the thread or asyncio task that opened it. What stands for a latent, or was
        said of it in a block around this one, is put aside; other latents keep theirs.

        Raises as `manipulate_concept` does.
        """
        changes = {
            self.number(latent): [
                Change(self.number(latent), each, self._following) for each in _several(asked)
            ]
            for latent, asked in manipulations.items()
        }
        scope = _Manipulated(self, changes, threading.get_ident(), _task())
        selects = any(c.manipulation.selection for each in changes.values() for c in each)
        token = _open.set((*_open.get(), scope))
        with self._lock:
            self._selecting += selects
            self._follow()
        try:
            yield
        finally:
            _open.reset(token)
            with self._lock:
                self._selecting -= selects
                self._follow()

    def changes(self) -> list[Change]:
        """Return what is to be done to latents in a forward of this thread or task, in order."""
        scopes = [s for s in _open.get() if s.concepts is self]
        if not scopes:
            return list(self._standing)
        table: dict[int, Sequence[Change]] = {}
        for change in self._standing:
            table[change.latent] = [*table.get(change.latent, ()), change]
        here = threading.get_ident(), _task()
        for scope in scopes:
            if (scope.thread, scope.task) == here:
                table.update(scope.changes)
        return [c for each in table.values() for c in each if not c.manipulation.changes_nothing]

    def apply(self, latents: Tensor) -> Tensor:
        """Return latents `(..., n_latents)` as the manipulations that count here change them.

        All others are the same, bit for bit; `latents` itself is not written to.
        """
        flat = latents.reshape(-1, self.n_latents)
        for change in self.changes():
            flat = change.apply(flat, change.latent, latents.shape)
        return flat.reshape(latents.shape)

    # --- top texts

    def enable_text_tracking(self, top_k: int = 10) -> None:
        """Keep, per latent, the `top_k` texts that activate it most, from now on.

        Padding and special tokens do not count. A text has one entry per latent, at its most
        activating token. Needs memory for `n_latents * (top_k + 1)` entries and the texts that
        they name. Called again it begins anew.

        Raises `BadSetting` (a `ValueError`) where `top_k` is no whole positive number.
        """
        top_k = whole("top_k", top_k, most=BEST)
        with self._lock:
            self._texts = TopTexts(self.n_latents, top_k)
            self._follow()

    def disable_text_tracking(self) -> None:
        """Look at no more texts; what was found stays."""
        if self._texts is not None:
            self._texts.enabled = False
        with self._lock:
            self._follow()

    @property
    def tracks_texts(self) -> bool:
        """Whether texts are looked at."""
        return self._texts is not None and self._texts.enabled

    def get_top_texts(self, neuron_idx: Latent) -> TopTextList:
        """Return the texts that activated a latent most, over everything run so far, best first.

        Fewer than `top_k` where fewer texts activated it. Raises `NoSuchLatent`, and `NoTexts`
        (a `RuntimeError`) where tracking was never enabled.
        """
        number = self.number(neuron_idx)
        if self._texts is None:
            raise NoTexts
        return self._texts.best(number)

    def track(self, latents: Tensor | SparseLatents) -> None:
        """Take note of the latents of one call, where texts are tracked; the hook calls it.

        They are `(batch, seq, n_latents)`, or as the layer has its axes.
        """
        texts = self._texts
        if texts is not None and texts.enabled:
            texts.see(latents, self._following, self._context)

    # --- the model

    def set_context(self, context: HookContext | None) -> None:
        """Set the context of the model that the SAE is attached to; the hook calls it."""
        with self._lock:
            self._context = context
            self._follow()

    def _follow(self) -> None:
        """Follow the model's forwards while what they were given is needed."""
        needed = self._selecting > 0 or any(c.manipulation.selection for c in self._standing)
        texts = self._texts if self.tracks_texts else None
        context = self._context if needed or texts is not None else None
        self._following.follow(
            None if context is None else context.model, None if texts is None else texts.ended
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle holds: names and standing manipulations."""
        standing = [(c.latent, c.manipulation) for c in self._standing]
        return {"n_latents": self.n_latents, "names": dict(self._names), "standing": standing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.n_latents, self._names, self._texts = state["n_latents"], state["names"], None
        self._prepare()
        self._standing = tuple(Change(n, m, self._following) for n, m in state["standing"])

    def __repr__(self) -> str:
        return (
            f"Concepts({self.n_latents} latents, {len(self._names)} named, "
            f"{len(self.manipulations)} manipulated)"
        )


def _part(selection: Selection | None) -> Selection | None:
    return None if selection is None or selection.everything else selection


def _several(asked: "float | Manipulation | Sequence[Manipulation]") -> list[Manipulation]:
    if isinstance(asked, Manipulation):
        return [asked]
    if isinstance(asked, Sequence) and all(isinstance(each, Manipulation) for each in asked):
        return list(asked)
    return [Manipulation(scale=asked)]  # type: ignore[arg-type]  # anything else raises there


def _task() -> "Task[Any] | None":
    return None if _get_running_loop() is None else current_task()
