"""Activations to train on, in shuffled batches: from the rows of a run, or live from a model.

Neither ever holds more than a buffer of rows: blocks of rows, or documents, come in an order that
the seed gives, and what is in the buffer is shuffled. The same seed gives the same batches, and
both go on where a saved state says.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from tenterhook.documents import Documents
from tenterhook.store import Run
from tenterhook.text_model import TextModel
from tenterhook_sae.errors import BadSetting, NoRows

BLOCK = 256
"""Rows that are read together: what a store reads at once."""

BUFFER = 65_536
"""Rows in the buffer unless said otherwise."""


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


class _Buffered:
    """Groups of rows, each shuffled and cut into batches; a group is read when its turn comes."""

    def __init__(self, batch_size: int, seed: int) -> None:
        for name, value in (("batch_size", batch_size),):
            if type(value) is not int or value < 1:
                raise BadSetting(name, value, "a whole number, 1 or more")
        self._batch_size = batch_size
        self._seed = seed
        self._state = {"epoch": 0, "group": 0, "batch": 0}

    def _groups(self, order: Tensor) -> list[Any]:
        """Return what is read together, in an epoch in which `order` is that of its parts."""
        raise NotImplementedError

    def _parts(self) -> int:
        raise NotImplementedError

    def _read(self, group: Any) -> Tensor:
        raise NotImplementedError

    def _generator(self, *numbers: int) -> torch.Generator:
        mixed = 0
        for number in (self._seed, *numbers):
            mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
        return torch.Generator().manual_seed(mixed)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            epoch = self._state["epoch"]
            order = torch.randperm(self._parts(), generator=self._generator(epoch))
            groups = self._groups(order)
            for number in range(self._state["group"], len(groups)):
                rows = self._read(groups[number])
                order = torch.randperm(len(rows), generator=self._generator(epoch, number))
                # What is left over of a group is left out of the epoch, unless it is all there is.
                count = max(1, len(rows) // self._batch_size)
                for batch in range(self._state["batch"], count):
                    chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
                    self._state = {"epoch": epoch, "group": number, "batch": batch + 1}
                    yield rows[chosen]
                self._state = {"epoch": epoch, "group": number + 1, "batch": 0}
            self._state = {"epoch": epoch + 1, "group": 0, "batch": 0}

    def one_epoch(self) -> Iterator[Tensor]:
        """Yield every row once, in order of reading, a group at a time; the state stays."""
        for group in self._groups(torch.arange(self._parts())):
            yield self._read(group)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: epoch, group, batch."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._state = {key: int(state[key]) for key in self._state}


def _named(source: str | None) -> str | None:
    """Return the name by which documents can be read again; `None` for texts that were given."""
    return None if source == attrs.fields(Documents).source.default else source


class RunBatches(_Buffered):
    """Shuffled batches of the rows of one layer of a run; the run is never loaded whole."""

    def __init__(
        self,
        run: Run,
        layer: str | int,
        *,
        batch_size: int = 4096,
        seed: int = 0,
        rows: slice = slice(None),
        buffer_rows: int = BUFFER,
    ) -> None:
        """Of the rows in the slice `rows`, so that others can be held out.

        Raises `NotCaptured` for a layer the run does not have, `NoRows` (a `ValueError`) where
        there is none.
        """
        super().__init__(batch_size, seed)
        self._rows = run[layer]
        found = range(*rows.indices(len(self._rows)))
        if found.step != 1:
            raise BadSetting("rows", rows, "a slice without a step")
        if not len(found):
            raise NoRows(f"Run {run.id!r}, layer {self._rows.name!r}, rows {rows}")
        self._range = found
        self._blocks_per_group = max(1, max(buffer_rows, batch_size) // BLOCK)
        facts = run.metadata
        self._about = {
            "run": run.id,
            "model": facts.get("spec", {}).get("model"),
            "data": _named(facts.get("documents", {}).get("source")),
        }

    @property
    def width(self) -> int:
        """The features of a row."""
        return self._rows.shape[1]

    @property
    def about(self) -> dict[str, Any]:
        """Run, model, data, layer, rows, batch size and seed."""
        return {
            **self._about,
            "layer": self._rows.name,
            "rows": [self._range.start, self._range.stop],
            "batch_size": self._batch_size,
            "seed": self._seed,
        }

    def _parts(self) -> int:
        return -(-len(self._range) // BLOCK)

    def _groups(self, order: Tensor) -> list[Any]:
        return list(torch.split(order, self._blocks_per_group))

    def _read(self, group: Any) -> Tensor:
        starts = [self._range.start + block * BLOCK for block in sorted(group.tolist())]
        return torch.cat([self._rows[at : min(at + BLOCK, self._range.stop)] for at in starts])


class ModelBatches(_Buffered):
    """Shuffled batches of what a layer returns while the model reads documents, nothing stored."""

    def __init__(
        self,
        model: TextModel,
        layer: str | int,
        documents: Documents | Iterable[str],
        *,
        batch_size: int = 4096,
        seed: int = 0,
        buffer_rows: int = BUFFER,
        documents_at_once: int = 16,
    ) -> None:
        """Documents longer than the model takes are cut.

        Raises `UnknownLayer`, `NoDocuments`, and `NoRows` where no document has a token.
        """
        super().__init__(batch_size, seed)
        self._model = model
        self._layer = model.layers.index.resolve(layer).name
        self._documents = Documents.of(documents)
        longest = model.max_tokens
        self._ids = [
            ids[:longest] for ids in model.token_ids(self._documents.texts) if len(ids[:longest])
        ]
        if not self._ids:
            raise NoRows(self._documents.source)
        self._buffer_rows = max(buffer_rows, batch_size)
        self._at_once = documents_at_once
        self._width = self._run(self._ids[:1]).shape[1]

    @property
    def width(self) -> int:
        """The features of a row."""
        return self._width

    @property
    def about(self) -> dict[str, Any]:
        """Model, documents, layer, batch size and seed."""
        return {
            "model": self._model.context.model_id,
            "data": _named(self._documents.source),
            "documents": self._documents.fingerprint,
            "layer": self._layer,
            "batch_size": self._batch_size,
            "seed": self._seed,
        }

    def _parts(self) -> int:
        return len(self._ids)

    def _groups(self, order: Tensor) -> list[Any]:
        groups: list[list[int]] = [[]]
        rows = 0
        for document in order.tolist():
            if rows >= self._buffer_rows:
                groups.append([])
                rows = 0
            groups[-1].append(document)
            rows += len(self._ids[document])
        return groups

    def _read(self, group: Any) -> Tensor:
        chosen = sorted(group, key=lambda document: len(self._ids[document]))
        parts = [
            self._run([self._ids[document] for document in chosen[at : at + self._at_once]])
            for at in range(0, len(chosen), self._at_once)
        ]
        return torch.cat(parts)

    def _run(self, documents: Sequence[Sequence[int]]) -> Tensor:
        with self._model.capture(self._layer) as captured:
            mask = self._model.run_token_ids(documents)
            found: Tensor = captured.last(self._layer)
        found = found.reshape(*mask.shape, -1)  # some layers have their tokens flat
        return found[mask.to(found.device)].cpu()
