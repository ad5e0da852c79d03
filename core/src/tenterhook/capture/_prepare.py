"""A capture before it is begun: its tokens have their rows, and what it will hold is known."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from tenterhook.capture._errors import BadArgument
from tenterhook.capture._forward import rows_of_batch
from tenterhook.capture._options import CaptureOptions, check_count
from tenterhook.capture._recipe import CaptureRecipe
from tenterhook.capture._spec import CaptureSpec, model_fingerprint, model_identity
from tenterhook.capture._tokens import TokenRows, tokenize
from tenterhook.documents import Documents, ranges
from tenterhook.scopes import changes_active
from tenterhook.store import LayerArray, RunPlan, dtype_name
from tenterhook.text_model import TextModel


@attrs.frozen(eq=False, kw_only=True)
class Capture:
    """What one process needs to do units of a run; nothing of it is in a store yet."""

    model: TextModel
    tokens: TokenRows
    options: CaptureOptions
    spec: CaptureSpec
    plan: RunPlan
    recipe: CaptureRecipe
    session: Mapping[str, Any]
    """What is noted of a process that works on it, beside versions and times."""


def prepare_capture(
    model: TextModel,
    layers: str | int | Sequence[str | int],
    documents: Documents | Iterable[str],
    *,
    options: CaptureOptions,
    sample_limit: int | None = None,
) -> Capture:
    """Tokenize, look at what each layer gives, and plan; makes nothing.

    Raises what `save_activations` raises before anything is made.
    """
    if sample_limit is not None:
        check_count("sample_limit", sample_limit)
    names = _layer_names(model, layers)
    documents = Documents.of(documents).first(sample_limit)
    tokens = tokenize(model, documents, long_documents=options.long_documents)
    description = model.describe_model()
    changes = tuple(changes_active(model.layers))
    spec = CaptureSpec(
        model=model.context.model_id,
        model_fingerprint=model_fingerprint(description),
        layers=_arrays(model, names, tokens, options.dtype),
        documents_fingerprint=documents.fingerprint,
        documents=len(documents),
        max_tokens=model.max_tokens,
        long_documents=options.long_documents,
        batch_size=options.batch_size,
        rows_per_unit=options.rows_per_unit,
        changes=changes,
    )
    recipe = CaptureRecipe.of(model, description, names, documents, options, changes)
    plan = RunPlan(
        rows=len(tokens),
        rows_per_unit=options.rows_per_unit,
        documents=len(documents),
        layers=spec.layers,
        spec=spec.values(),
        about={
            "model": model_identity(description),
            "documents": documents.describe(),
            "counts": attrs.asdict(tokens.counts),
            "documents_without_tokens": ranges(tokens.without),
            "spellings": _spellings(model, names),
            "recipe": recipe.values(),
        },
    )
    session = {"model": description, "documents": documents.describe()}
    return Capture(
        model=model,
        tokens=tokens,
        options=options,
        spec=spec,
        plan=plan,
        recipe=recipe,
        session=session,
    )


def _layer_names(model: TextModel, layers: str | int | Sequence[str | int]) -> list[str]:
    """Return the layers' own names, each once, in the model's order."""
    choices = [layers] if isinstance(layers, str | int) else list(layers)
    if not choices:
        raise BadArgument("layers", layers, "one layer at least")
    if "" in choices:
        raise BadArgument("layer", "", "the name of a layer; 'output' is what the model returns")
    found = {layer.name for layer in model.layers.index.expand(choices)}
    known = [name for name in model.layers.list_layers() if name in found]
    return known + sorted(found.difference(known))


def _arrays(
    model: TextModel, names: Sequence[str], tokens: TokenRows, dtype: str | None
) -> tuple[LayerArray, ...]:
    """Run the first documents and return what each layer gives.

    Two, so that a layer that has nothing of the batch in it is found out before anything is made.
    """
    probe = [tokens.window(at).ids for at in range(min(2, tokens.window_count))]
    rows = rows_of_batch(model, probe, names)
    return tuple(
        LayerArray(name, rows[name].shape[1], dtype or dtype_name(rows[name].dtype))
        for name in names
    )


def _spellings(model: TextModel, names: Sequence[str]) -> dict[str, str]:
    """Return the other names of the layers: `layer_N`, and indices as text."""
    known, blocks = model.layers.list_layers(), model.layers.list_blocks()
    found = {f"layer_{at}": name for at, name in enumerate(blocks) if name in names}
    for name in names:
        if name in known:
            at = known.index(name)
            found |= {str(at): name, str(at - len(known)): name}
    return found
