"""The store: tensors by name, and runs, in a folder or in an object store."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tenterhook_store import (
    BadName,
    DamagedStore,
    NotWritable,
    Problem,
    Run,
    RunPlan,
    UnknownRun,
    UnknownTensor,
    Unreachable,
    check_attribute,
    check_free,
    check_run_id,
    check_tensor_name,
)
from tenterhook_store.notebook import store_html
from tenterhook_zarr._backend import Backend, Files
from tenterhook_zarr._dtypes import stored_as, to_bytes
from tenterhook_zarr._folder import PLAN, RunFolder, UnitTensors
from tenterhook_zarr._local_backend import LocalBackend, cannot_write
from tenterhook_zarr._names import folder_name, name_of
from tenterhook_zarr._records import sealed
from tenterhook_zarr._rivals import Rivals
from tenterhook_zarr._shared import shared
from tenterhook_zarr._tensors import CURRENT, load_tensor, name_in, save_tensor
from tenterhook_zarr._urls import local_path_of, split_url

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook_zarr._writer import ZarrRunWriter


class ZarrStore:
    """Tensors and runs in a folder or an object store, as plain zarr format 3.

    The folder is made when the first tensor or run is written; opening and reading make nothing.
    Several processes may use one store at the same time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        """Open the store at a path or a URL, where nothing need be yet unless `create=False`.

        A URL is `s3://`, `gs://`, `az://` or `memory://`, with a bucket and a prefix, or `file://`.
        Of each request to an object store, `retries` more tries are made where the server fails or
        does not answer within `timeout` seconds. Raises `NotAStore` where the folder holds
        something else, `NoStore` where it must be there and is not, `Unreachable` where an object
        store does not answer.
        """
        self._backend: Backend
        url = split_url(path)
        if url is None:
            self._backend = LocalBackend(local_path_of(path), create)
        else:
            from tenterhook_zarr._object_backend import ObjectBackend

            self._backend = ObjectBackend(url, create=create, retries=retries, timeout=timeout)
        self._settings = (retries, timeout)
        self._tensor_names = Rivals(
            "tensor", self._files, self._tensors, self._tensor_name, self._holds_tensor
        )
        self._run_names = Rivals("run", self._files, self._runs, str, self._holds_run)

    @property
    def path(self) -> PurePath:
        """The folder, or the prefix in the bucket."""
        return self._backend.root

    @property
    def location(self) -> str:
        """The folder, or the URL."""
        return self._backend.location

    def __repr__(self) -> str:
        return f"ZarrStore({self.location!r})"

    def _repr_html_(self) -> str:
        return store_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.location, *self._settings)

    # --- tensors

    def save_tensor(self, name: str, tensor: "Tensor") -> None:
        """Keep a copy of the tensor under the name, in place of what was there; atomic.

        Any shape and device; any dtype of torch that is dense. Raises `BadName`, `NameTaken`,
        `CannotKeep` and `NotWritable`.
        """
        check_tensor_name(name)
        to_bytes(tensor)
        self._tensor_names.check(name)
        with self._backend.made():
            save_tensor(self._files, self._tensors / folder_name(name), tensor, name)
        self._tensor_names.added(name)

    def load_tensor(self, name: str) -> "Tensor":
        """Return the tensor as it was saved, bit for bit, on the CPU, in memory of its own.

        Raises `UnknownTensor` where there is none, `DamagedStore` where it is not what was written.
        """
        check_tensor_name(name)
        found = load_tensor(self._files, self._tensors / folder_name(name), name)
        if found is None:
            raise UnknownTensor(name, self.list_tensors(), self.location)
        return found

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors, sorted; a `UserWarning` says which are damaged."""
        found = []
        for folder in self._folders_with(self._tensors, CURRENT):
            try:
                name = name_in(self._files, folder)
            except DamagedStore as error:
                warnings.warn(f"A tensor is left out: {error}", stacklevel=2)
            else:
                found += [] if name is None else [name]
        return sorted(found)

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor, for good; `UnknownTensor` where there is none."""
        check_tensor_name(name)
        folder = self._tensors / folder_name(name)
        if not self._files.is_there(folder / CURRENT):
            raise UnknownTensor(name, self.list_tensors(), self.location)
        with self._refused():
            self._files.remove_all(folder)

    # --- runs

    def runs(self) -> list[str]:
        """Return the ids of all runs, sorted; a `UserWarning` says which folders can be none."""
        found = []
        for folder in self._folders_with(self._runs, PLAN):
            try:
                found.append(check_run_id(folder.name))
            except BadName as error:
                where = self._files.show(self._runs)
                warnings.warn(f"{where} has a folder that is left out: {error}", stacklevel=2)
        return sorted(found)

    def run(self, run_id: str) -> Run:
        """Open a run for reading, which changes nothing; `UnknownRun` where there is none."""
        folder = self._opened(run_id)
        return Run(
            run_id,
            folder.plan,
            folder.committed(),
            read_layer=lambda name, start, stop: folder.read(("layer", name), start, stop),
            read_number=lambda name, start, stop: folder.read(("row", name), start, stop),
            load_records=folder.records,
            take_layer=lambda name, rows, check: folder.take(("layer", name), rows, check),
            take_number=lambda name, rows, check: folder.take(("row", name), rows, check),
            load_recent=folder.recent,
            store=self,
            load_attributes=folder.notes,
            kept=UnitTensors(folder),
            load_shared=lambda name: shared(folder, name),
            dropped=folder.dropped(),
        )

    def delete_run(self, run_id: str) -> None:
        """Remove a run, for good; `UnknownRun` where there is none.

        It is renamed first, so that it is gone as a whole, and then removed file by file.
        """
        self._check_known(run_id)
        with self._refused():
            self._files.remove_all(self._runs / run_id)

    def drop_unit(self, run_id: str, number: int) -> None:
        """Remove the rows of a committed unit of a run with a limit, for good; see `DropsUnits`."""
        from tenterhook_zarr._dropping import drop_unit

        folder = self._opened(run_id)
        with self._refused():
            drop_unit(folder, number)

    def verify_run(self, run_id: str) -> list[Problem]:
        """Read every checksum of a run and return what is wrong; see `Store.verify_run`."""
        from tenterhook_zarr._verify import verify

        self._check_known(run_id)
        return verify(self._files, self._runs / run_id)

    def set_attribute(self, run_id: str, name: str, value: Any) -> None:
        """Note something on a run; see `Store.set_attribute`."""
        check_attribute(name, value)
        folder = self._opened(run_id)
        check_free("attribute", name, folder.notes())
        path = folder.attributes / f"{folder_name(name)}.json"
        with self._refused():
            if value is None:
                self._files.remove(path)
            else:
                self._files.make_below(folder.path, path.parent)
                self._files.write(path, sealed({"name": name, "value": value}))

    def write_run(self, run_id: str, plan: RunPlan) -> "ZarrRunWriter":
        """Begin a run, or go on with one of the same plan; see `Store.write_run`."""
        from tenterhook_zarr._writer import begin_run

        check_run_id(run_id)
        for layer in plan.layers:
            stored_as(layer.dtype)
        self._run_names.check(run_id)
        with self._backend.made():
            writer = begin_run(self._files, self._runs / run_id, plan)
        self._run_names.added(run_id)
        return writer

    def _check_known(self, run_id: str) -> None:
        check_run_id(run_id)
        if not self._holds_run(run_id) or not self._files.is_exactly(self._runs / run_id):
            raise UnknownRun(run_id, self.runs(), self.location)

    def _holds_run(self, run_id: str) -> bool:
        return self._is_there(self._runs / run_id / PLAN)

    def _holds_tensor(self, name: str) -> bool:
        return self._is_there(self._tensors / folder_name(name) / CURRENT)

    def _tensor_name(self, folder: str) -> str | None:
        found = name_of(folder)
        if found is None:
            with contextlib.suppress(DamagedStore):
                found = name_in(self._files, self._tensors / folder)
        return found

    def _is_there(self, path: PurePath) -> bool:
        """Say whether a file is there; one that cannot be looked at is, and says so when read."""
        try:
            return self._files.is_there(path)
        except PermissionError:
            return True

    def _opened(self, run_id: str) -> RunFolder:
        self._check_known(run_id)
        return RunFolder.open(self._files, self._runs / run_id)

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Say of what the system refuses where it was."""
        try:
            yield
        except (NotWritable, Unreachable):
            raise
        except OSError as error:
            where = str(error.filename or self.location)
            raise NotWritable(where, cannot_write(error)) from error

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""
        self._backend.check_writable()

    def count_shards(self, plan: RunPlan) -> int:
        """Return how many files of rows a run of that plan will have."""
        folder = RunFolder(self._files, self._runs, plan)
        layouts = [folder.planned_layout(key) for key in folder.keys()]  # noqa: SIM118
        return sum(-(-plan.rows // layout.shard_rows) for layout in layouts)

    # --- folders and files

    @property
    def _files(self) -> Files:
        return self._backend.files

    @property
    def _runs(self) -> PurePath:
        return self._backend.root / "runs"

    @property
    def _tensors(self) -> PurePath:
        return self._backend.root / "tensors"

    def _folders_with(self, parent: PurePath, file: str) -> list[PurePath]:
        """Return the folders that have the file; `NotWritable` where they cannot be listed."""
        try:
            names = self._files.names(parent)
            folders = [parent / name for name in names if not name.startswith(".")]
            return [folder for folder in folders if self._is_there(folder / file)]
        except (NotWritable, Unreachable):
            raise
        except OSError as error:
            where = self._files.show(parent)
            raise NotWritable(where, f"it cannot be opened: {error.strerror}") from error


def _reopen(location: str, retries: int, timeout: float) -> ZarrStore:
    return ZarrStore(location, retries=retries, timeout=timeout)
