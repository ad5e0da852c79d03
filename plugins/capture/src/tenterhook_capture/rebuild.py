"""A capture made again from what its run holds."""

import attrs

from tenterhook_capture.errors import ChangedSince, NotRebuildable
from tenterhook_capture.prepare import Capture, prepare_capture
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_store import Store


def rebuild_capture(store: Store, run_id: str, recipe: CaptureRecipe | None = None) -> Capture:
    """Load the model, read the data and plan, as the run's recipe says, or another one.

    Raises `NotRebuildable` where something has no name, `ChangedSince` (an `OtherRun`) where the
    names give another model, other documents or other layers than the run was begun with, and
    what loading them raises.
    """
    run = store.run(run_id)
    recipe = recipe or CaptureRecipe.of_run(run)
    if recipe.model is None or recipe.data is None or recipe.changes:
        raise NotRebuildable(run_id, recipe.unnamed)
    capture = prepare_capture(
        recipe.model.load(),
        list(recipe.layers),
        recipe.data.read(),
        options=recipe.options,
        sample_limit=recipe.documents,
    )
    # A model is what it holds, wherever it lies; the run keeps the name that it was begun under.
    spec = attrs.evolve(capture.spec, model=run.plan.spec.get("model", capture.spec.model))
    plan = attrs.evolve(capture.plan, spec=spec.values())
    if differences := plan.differences(run.plan):
        raise ChangedSince(run_id, differences)
    return attrs.evolve(capture, spec=spec, plan=run.plan)
