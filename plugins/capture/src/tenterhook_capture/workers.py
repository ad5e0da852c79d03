"""The workers of a capture, made where the engine has them: in this process, or in another.

In another process the capture itself is made again first, from what its run holds.
"""

import os
from collections.abc import Callable
from typing import Any

import attrs
import torch

from tenterhook_capture.beginning import check_tokens
from tenterhook_capture.errors import ChangedSince, NotRebuildable
from tenterhook_capture.identity import differences
from tenterhook_capture.known_documents import KnownDocuments
from tenterhook_capture.prepare import Capture, prepare_again, prepare_capture
from tenterhook_capture.probe import probe_run
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.session import Session
from tenterhook_capture.threads import set_threads
from tenterhook_capture.worker import CaptureWorker
from tenterhook_store import Run, RunWriter, Store
from tenterhook_store.limited_writer import limited

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
"""Variables in which a launcher says which of this machine's processes one is."""


def rebuild_capture(
    store: Store, run_id: str, recipe: CaptureRecipe | None = None, *, read_documents: bool = True
) -> Capture:
    """Load the model, take the tokens that are shared, and plan, as the run's recipe says.

    Or as another one says. Where no tokens are shared the documents are tokenized. Where they are,
    the documents are still read and compared with those of the run, unless `read_documents` is
    false: then who asks has compared them, and only fields that are kept are read.

    Raises `NotRebuildable` where something has no name, `ChangedSince` (an `OtherRun`) where the
    names give another model, other documents or other layers than the run was begun with, and
    what loading them raises.
    """
    run = store.run(run_id)
    capture = rebuilt(run, recipe, begun=run, read_documents=read_documents)
    if found := differences(capture.plan, run.plan):
        raise ChangedSince(run_id, found)
    check_tokens(capture, run, ChangedSince)
    return attrs.evolve(capture, plan=run.plan)


def rebuilt(
    run: Run,
    recipe: CaptureRecipe | None = None,
    *,
    begun: Run | None = None,
    read_documents: bool = True,
) -> Capture:
    """Return a capture by the names of a run, or those of a recipe, whatever they give now.

    With `begun` the tokens are those that are shared with it. Raises `NotRebuildable`, and what
    loading the names raises.
    """
    recipe = recipe or CaptureRecipe.of_run(run)
    if recipe.model is None or recipe.data is None or recipe.changes:
        raise NotRebuildable(run.id, recipe.unnamed)
    model, layers, settings = recipe.model.load(), list(recipe.layers), recipe.options
    limit, reads = recipe.documents, read_documents or recipe.data.keep_fields
    if begun is None:
        texts = recipe.data.read()
        capture = prepare_capture(model, layers, texts, options=settings, sample_limit=limit)
    else:
        documents = recipe.data.read() if reads else KnownDocuments.of_run(begun, recipe.data)
        capture = prepare_again(
            model, layers, documents, options=settings, sample_limit=limit, begun=begun
        )
    # A model is what it holds, wherever it lies; the run keeps the name that it was begun under.
    spec = attrs.evolve(capture.spec, model=run.plan.spec.get("model", capture.spec.model))
    return attrs.evolve(capture, spec=spec, plan=attrs.evolve(capture.plan, spec=spec.values()))


@attrs.frozen
class WorkerFactory:
    """Makes a worker of a run from names alone: what other processes are sent.

    It pickles where the store does. Called, it loads the model, takes the tokens that are shared
    with the run, or tokenizes the documents where none are, and checks that they give the run's
    own plan; `OtherRun` where they do not.
    """

    store: Store
    run_id: str
    recipe: CaptureRecipe

    def __call__(self) -> CaptureWorker:
        """Make the worker; once in each process."""
        plan = self.store.run(self.run_id).plan
        threads = set_threads(plan)
        recipe = self.recipe.elsewhere(device=own_device(self.recipe))
        capture = rebuild_capture(self.store, self.run_id, recipe, read_documents=False)
        writer = self.store.write_run(self.run_id, plan)
        probe = probe_run(self.store, capture, writer, ChangedSince)
        facts = None if probe is None else probe.facts()
        Session(writer, capture.session, is_worker=True, threads=threads, probe=facts).begin()
        return make_worker(capture, limited(self.store, writer))


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
        return make_worker(self.capture, limited(self.store, self.writer), self.on_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the model, the tokens and the writer behind."""
        recipe = self.capture.recipe
        if recipe.unnamed:
            raise NotRebuildable(self.writer.run_id, recipe.unnamed)
        return WorkerFactory, (self.store, self.writer.run_id, recipe)


def own_device(recipe: CaptureRecipe, device: str | None = None) -> str | None:
    """Return the accelerator of this process, where several share a machine and none is named.

    Its number follows from one of the variables `LOCAL_RANKS`; `device` where it has
    none, or the device has a number.
    """
    wanted = device or (recipe.model.device if recipe.model else None)
    ranks = (os.environ.get(name, "") for name in LOCAL_RANKS)
    rank = next((int(each) for each in ranks if each.isdecimal()), None)
    if wanted != "cuda" or rank is None:
        return device
    return f"cuda:{rank % max(torch.cuda.device_count(), 1)}"


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
        fields=capture.fields,
        writing=capture.options.writing,
        queue_bytes=capture.options.queue_bytes,
    )
