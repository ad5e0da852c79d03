"""The workers of a capture, made where the engine has them: in this process, or in another."""

from collections.abc import Callable
from typing import Any

import attrs

from tenterhook_capture.errors import NotRebuildable
from tenterhook_capture.prepare import Capture
from tenterhook_capture.rebuild import rebuild_capture
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.session import Session
from tenterhook_capture.worker import CaptureWorker
from tenterhook_store import RunWriter, Store


@attrs.frozen
class WorkerFactory:
    """Makes a worker of a run from names alone: what other processes are sent.

    It pickles where the store does. Called, it loads the model, reads and tokenizes the documents,
    and checks that they give the run's own plan; `OtherRun` where they do not.
    """

    store: Store
    run_id: str
    recipe: CaptureRecipe

    def __call__(self) -> CaptureWorker:
        """Make the worker; once in each process."""
        capture = rebuild_capture(self.store, self.run_id, self.recipe)
        writer = self.store.write_run(self.run_id, self.store.run(self.run_id).plan)
        Session(writer, capture.session, is_worker=True).begin()
        return make_worker(capture, writer)


@attrs.frozen(eq=False)
class WorkersHere:
    """Makes workers of what this process has; pickled, it becomes a `WorkerFactory`.

    Pickling raises `NotRebuildable` where the capture was made of what has no name.
    """

    store: Store
    capture: Capture
    writer: RunWriter
    on_rows: Callable[[int], None]

    def __call__(self) -> CaptureWorker:
        """Make a worker, which shares the model with the others."""
        return make_worker(self.capture, self.writer, self.on_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the model, the tokens and the writer behind."""
        recipe = self.capture.recipe
        if recipe.unnamed:
            raise NotRebuildable(self.writer.run_id, recipe.unnamed)
        return WorkerFactory, (self.store, self.writer.run_id, recipe)


def make_worker(
    capture: Capture, writer: RunWriter, on_rows: Callable[[int], None] = lambda _: None
) -> CaptureWorker:
    """Return what does units of the run."""
    return CaptureWorker(
        capture.rows,
        writer,
        capture.spec,
        capture.forward,
        device=capture.model.context.device,
        on_rows=on_rows,
        writing=capture.options.writing,
        queue_bytes=capture.options.queue_bytes,
    )
