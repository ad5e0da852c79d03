"""Activations to train on, in shuffled batches: from the rows of a run, or live from a model.

Neither ever holds more than a buffer of rows. The same seed gives the same batches, and both go
on where a saved state says.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Protocol, get_args

import attrs
import torch
from torch import Tensor

from tenterhook import attach
from tenterhook_capture.documents import Documents
from tenterhook_capture.text_model import TextModel
from tenterhook_sae.errors import BadSetting, NoRows
from tenterhook_sae.limits import SEEDS, whole
from tenterhook_sae.other_layers import INPUT
from tenterhook_sae.unit_order import RunFollower, UnitOrder
from tenterhook_store import RowLoader, Run

BUFFER = 65_536
"""Rows in the buffer, by default."""

Order = Literal["shuffled", "units"]
"""In which order rows come: blocks from everywhere in the run, or one unit after the other."""


class Batches(Protocol):
    """What a training reads: endless batches, epoch after epoch, that can be resumed."""

    @property
    def width(self) -> int:
        """The features of a row."""

    @property
    def about(self) -> dict[str, Any]:
        """Say what they are of, in plain JSON values; a checkpoint belongs to them."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches `(rows, width)` from where the state stands, without end."""

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, in plain JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


def batch_name(batches: Batches, number: int) -> str:
    """Return what messages call a batch: its number, and of what it is."""
    about = batches.about
    known = [key for key in ("layer", "run", "model") if about.get(key) is not None]
    return f"Batch {number}" + "".join(f" of {key} {about[key]!r}" for key in known)


def _named(source: str | None) -> str | None:
    """Return the name by which documents can be read again; `None` for texts that were given."""
    return None if source == attrs.fields(Documents).source.default else source


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _no_rows(run: Run, layer: str, count: int, rows: slice) -> NoRows:
    if count:
        part = f"{rows.start or 0}:{'' if rows.stop is None else rows.stop}"
        where = f"The part {part} of the {count:,} rows of layer {layer!r} of run {run.id!r}"
        return NoRows(where, "Give other rows.")
    where = f"Layer {layer!r} of run {run.id!r}"
    if run.dropped:
        remedy = "Follow such a run from its beginning (follow=), or capture without keep."
        return NoRows(f"{where}, whose first units were dropped,", remedy)
    if run.is_complete:
        return NoRows(where)
    return NoRows(f"{where}, which is not finished,", "Give its capture again: it goes on.")


class RunBatches:
    """Shuffled batches of the rows of one layer of a run; the run is never loaded whole."""

    def __init__(
        self,
        run: Run,
        layer: str | int | Sequence[str | int],
        *,
        batch_size: int = 4096,
        seed: int = 0,
        rows: slice = slice(None),
        buffer_rows: int = BUFFER,
        order: Order = "shuffled",
        units_at_once: int = 1,
        follow: str | None = None,
    ) -> None:
        """Of the rows in the slice `rows`, so that others can be held out; see `Run.loader`.

        With `order="units"` the run is read from its beginning, `units_at_once` units after each
        other, whose rows are shuffled: an order that a run has too while it is written. A name
        `follow` reads it so, once, and waits for units that are not there yet. It is noted on the
        run, and by each checkpoint which units it needs no more: a run with a limit holds the rows
        of so many bytes at once, and waits for who follows it (`tenterhook capture --keep`).

        Of several layers a row is theirs side by side, in the order given: the input and the
        output of the layer whose place a transcoder takes, or the layers of a crosscoder.

        Batches are `(batch_size, width)`, on the CPU, in the dtype that was stored (float32 for
        rows that were stored as int8).

        Raises `NotCaptured` for a layer the run does not have, `NoRows` and `BadSetting` (each a
        `ValueError`) where there is no row, and for sizes and seeds that cannot be.
        `DroppedRows` says, when training begins, that one begins to follow a run too late.
        """
        batch_size, buffer_rows = (
            whole(name, value)
            for name, value in (("batch_size", batch_size), ("buffer_rows", buffer_rows))
        )
        seed = whole("seed", seed, 0, SEEDS)
        asked = [layer] if isinstance(layer, str | int) else list(layer)
        if not asked:
            raise BadSetting("layer", layer, "the name of a layer, or several of them")
        self._rows = [run[each] for each in asked]
        names = [each.name for each in self._rows]
        if len({*names}) < len(names):
            raise BadSetting("layer", layer, "layers of which each is given once")
        if order not in get_args(Order):
            raise BadSetting("order", order, " or ".join(map(repr, get_args(Order))))
        if follow is not None:
            order = "units"
            if rows != slice(None):
                raise BadSetting("rows", rows, "left out where a run is followed (follow)")
        count = len(self._rows[0]) if follow is None else run.plan.rows
        found = range(*rows.indices(count))
        if not found:
            raise _no_rows(run, names[-1], count, rows)
        if order == "units" and (found.start, found.step) != (0, 1):
            raise BadSetting("rows", rows, "a slice from the first row on, with order='units'")
        self._loader: RowLoader | UnitOrder
        if order == "units":
            self._loader = UnitOrder(
                run,
                names,
                batch_size=batch_size,
                seed=seed,
                rows=found.stop,
                units_at_once=units_at_once,
                follow=follow,
            )
        else:
            self._loader = run.loader(
                names if len(names) > 1 else names[0],
                batch_size,
                seed=seed,
                rows=rows,
                buffer_rows=buffer_rows,
                drop_last=len(found) >= batch_size,
                rank=0,
                world_size=1,
            )
        facts = run.metadata
        self._about = {
            "run": run.id,
            "model": facts.get("spec", {}).get("model"),
            "data": _named(facts.get("documents", {}).get("source")),
            "layer": names[-1],
            **({"layers": names} if len(names) > 1 else {}),
            "rows": [found.start, found.stop],
            "batch_size": batch_size,
            "seed": seed,
            **({"order": order, "units_at_once": units_at_once} if order == "units" else {}),
        }

    @property
    def width(self) -> int:
        """The features of a row."""
        return sum(self.widths)

    @property
    def follower(self) -> RunFollower | None:
        """Who waits for the run, where it is followed."""
        return self._loader.follower if isinstance(self._loader, UnitOrder) else None

    @property
    def most_steps(self) -> int | None:
        """How many batches there are where they come once; `None` where they have no end."""
        loader = self._loader
        if isinstance(loader, UnitOrder) and loader.follower is not None:
            return loader.batches
        return None

    @property
    def widths(self) -> tuple[int, ...]:
        """The features of each layer of a row."""
        return tuple(each.shape[1] for each in self._rows)

    def blocks(self, start: int, stop: int, size: int = 4096) -> Iterator[Tensor]:
        """Yield the run's rows from one number to another in order, `(size, width)` at most."""
        for at in range(start, stop, size):
            yield _side_by_side([each[at : min(at + size, stop)] for each in self._rows])

    @property
    def about(self) -> dict[str, Any]:
        """Run, model, data, layer, rows, batch size and seed."""
        return self._about

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            for batch in self._loader:
                yield batch if isinstance(batch, Tensor) else _side_by_side([*batch.values()])
            if self.follower is not None:
                return

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch and batch, and what the order follows from."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._loader.load_state_dict(state)


class ModelBatches:
    """Shuffled batches of what a layer returns while the model reads documents, nothing stored.

    Documents come in an order that the seed gives, until the buffer is full; its rows are
    shuffled and cut into batches. What is left over is left out of the epoch.
    """

    def __init__(
        self,
        model: TextModel,
        layer: str | int | Sequence[str | int],
        documents: Documents | Iterable[str],
        *,
        batch_size: int = 4096,
        seed: int = 0,
        buffer_rows: int = BUFFER,
        documents_at_once: int = 16,
    ) -> None:
        """Documents longer than the model takes are cut; several layers are as in `RunBatches`.

        Batches are `(batch_size, width)`, on the CPU, in the dtype that the layer gives. Raises
        `UnknownLayer`, `NoDocuments`, `NoRows` where no document has a token, and `BadSetting`.
        """
        self._batch_size = whole("batch_size", batch_size)
        self._buffer_rows = max(whole("buffer_rows", buffer_rows), self._batch_size)
        self._at_once = whole("documents_at_once", documents_at_once)
        self._seed = whole("seed", seed, 0, SEEDS)
        self._state = {"epoch": 0, "group": 0, "batch": 0}
        self._model = model
        asked = [layer] if isinstance(layer, str | int) else list(layer)
        if not asked:
            raise BadSetting("layer", layer, "the name of a layer, or several of them")
        self._layers = [_resolved(model, each) for each in asked]
        self._documents = Documents.of(documents)
        longest = model.max_tokens
        self._ids = [
            ids[:longest] for ids in model.token_ids(self._documents.texts) if len(ids[:longest])
        ]
        if not self._ids:
            raise NoRows(self._documents.source)
        self.widths = tuple(each.shape[1] for each in self._run(self._ids[:1]))
        """The features of each layer of a row."""

    @property
    def width(self) -> int:
        """The features of a row."""
        return sum(self.widths)

    @property
    def about(self) -> dict[str, Any]:
        """Model, documents, layer, and what the batches follow from: sizes and seed."""
        return {
            "model": self._model.context.model_id,
            "data": _named(self._documents.source),
            "documents": self._documents.fingerprint,
            "layer": self._layers[-1],
            **({"layers": self._layers} if len(self._layers) > 1 else {}),
            "batch_size": self._batch_size,
            "seed": self._seed,
            "buffer_rows": self._buffer_rows,
            "documents_at_once": self._at_once,
        }

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            epoch = self._state["epoch"]
            order = torch.randperm(len(self._ids), generator=self._generator(epoch))
            groups = self._groups(order.tolist())
            for number in range(self._state["group"], len(groups)):
                rows = self._read(groups[number])
                order = torch.randperm(len(rows), generator=self._generator(epoch, number))
                count = max(1, len(rows) // self._batch_size)  # less than a batch if it is all
                for batch in range(self._state["batch"], count):
                    chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
                    self._state = {"epoch": epoch, "group": number, "batch": batch + 1}
                    yield rows[chosen]
                self._state = {"epoch": epoch, "group": number + 1, "batch": 0}
            self._state = {"epoch": epoch + 1, "group": 0, "batch": 0}

    def one_epoch(self) -> Iterator[Tensor]:
        """Yield every row once, `(rows, width)` a bufferful, not shuffled; the state stays."""
        for group in self._groups(list(range(len(self._ids)))):
            yield self._read(group)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch, bufferful, batch."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; `BadSetting` where it is no such state."""
        self._state = {key: whole(f"state[{key!r}]", state.get(key), 0) for key in self._state}

    def _generator(self, *numbers: int) -> torch.Generator:
        mixed = 0
        for number in (self._seed, *numbers):
            mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
        return torch.Generator().manual_seed(mixed)

    def _groups(self, order: list[int]) -> list[list[int]]:
        groups: list[list[int]] = [[]]
        rows = 0
        for document in order:
            if rows >= self._buffer_rows:
                groups.append([])
                rows = 0
            groups[-1].append(document)
            rows += len(self._ids[document])
        return groups

    def _read(self, group: list[int]) -> Tensor:
        chosen = sorted(group, key=lambda document: len(self._ids[document]))
        parts = [
            _side_by_side(
                self._run([self._ids[document] for document in chosen[at : at + self._at_once]])
            )
            for at in range(0, len(chosen), self._at_once)
        ]
        return torch.cat(parts)

    def _run(self, documents: Sequence[Sequence[int]]) -> list[Tensor]:
        hooked = attach(self._model.context.model)
        with ExitStack() as stack:
            captured = [
                stack.enter_context(
                    hooked.capture(name.removesuffix(INPUT), inputs=name.endswith(INPUT))
                )
                for name in self._layers
            ]
            mask = self._model.run_token_ids(documents)
            found = [
                each.last(name.removesuffix(INPUT))
                for each, name in zip(captured, self._layers, strict=True)
            ]
        found = [each.reshape(*mask.shape, -1) for each in found]  # some have their tokens flat
        return [each[mask.to(each.device)].cpu() for each in found]


def _resolved(model: TextModel, layer: str | int) -> str:
    """Return the full name of a layer, with the `:input` that it may end with."""
    side = INPUT if isinstance(layer, str) and layer.endswith(INPUT) else ""
    name = layer.removesuffix(INPUT) if isinstance(layer, str) else layer
    return f"{model.layers.index.resolve(name).name}{side}"
