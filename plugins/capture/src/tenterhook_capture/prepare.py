"""A capture before it is begun: its tokens have their rows, and what it will hold is known."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch

from tenterhook_capture.batching import Batching, leaves_budget_open
from tenterhook_capture.budget import token_budget
from tenterhook_capture.changes import changes_at_work
from tenterhook_capture.document_tokens import OnDocuments
from tenterhook_capture.documents import Documents, ranges
from tenterhook_capture.forward import ForwardPass, ForwardResult
from tenterhook_capture.identity import (
    ALGORITHM,
    TOKENS_BESIDE,
    CaptureSpec,
    model_fingerprint,
    model_identity,
)
from tenterhook_capture.known_documents import KnownDocuments
from tenterhook_capture.mask_check import (
    PaddedProbe,
    check_mask,
    computed_in,
    padded_probe,
    probe_documents,
)
from tenterhook_capture.option_fields import check_count
from tenterhook_capture.options import CaptureOptions, is_role
from tenterhook_capture.points import Point, points_of, spellings
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.shared_tokens import TOKENS, TokenFacts, shared_rows
from tenterhook_capture.spilled import NumberColumn
from tenterhook_capture.text_model import TextModel
from tenterhook_capture.threads import THREADS
from tenterhook_capture.together import has_stages, together
from tenterhook_capture.token_rows import ChosenRows, tokenize
from tenterhook_store import (
    NORM_CHUNK,
    NORM_ROWS,
    SCALE,
    SPANS,
    LayerArray,
    Run,
    RunPlan,
    dtype_name,
)
from tenterhook_store.limits import KEEP


@attrs.frozen(eq=False, kw_only=True)
class Capture:
    """What one process needs to do units of a run; nothing of it is in a store yet."""

    model: TextModel
    rows: ChosenRows
    forward: ForwardPass
    options: CaptureOptions
    """As they were given, what is left open left open."""
    spec: CaptureSpec
    plan: RunPlan
    recipe: CaptureRecipe
    tokens: TokenFacts
    """What is shared of the tokens."""
    hashes: NumberColumn | None = None
    """The hash of each document's text, where the texts were read."""
    fields: Mapping[str, Sequence[Any]] = attrs.field(factory=dict)
    """The values that are kept beside the documents."""
    session: Mapping[str, Any]
    """What is noted of a process that works on it, beside versions and times."""
    padded: PaddedProbe | None = None
    """What a short document gave in a batch with a longer one."""

    def check_mask(self) -> None:
        """Raise `MaskIgnored` where padding changes rows; takes one small forward."""
        if self.spec.batch_size != 1:
            dtype = computed_in(self.session["model"].get("dtype"), self.spec.changes)
            check_mask(self.padded, self.forward, self.rows, dtype)


def prepare_capture(
    model: TextModel,
    layers: str | int | Sequence[str | int],
    documents: Documents | Iterable[Any],
    *,
    options: CaptureOptions,
    sample_limit: int | None = None,
    inputs: bool = False,
    on_documents: OnDocuments | None = None,
) -> Capture:
    """Tokenize, look at what each layer gives, and plan; makes nothing.

    `on_documents` is told how many documents have been tokenized, and of how many. Raises what
    `save_activations` raises before anything is made.
    """
    if sample_limit is not None:
        check_count("sample_limit", sample_limit)
    points = points_of(model, layers, inputs=inputs)
    runs = _runs(model, points)
    found = _known_documents(runs, documents, sample_limit)
    rows = _tokenized(runs, found, options, on_documents)
    template = _template_fingerprint(found, rows)
    return _prepared(model, runs, points, found, rows, TokenFacts.of(rows), options, template)


def prepare_again(
    model: TextModel,
    layers: Sequence[str],
    documents: Documents | KnownDocuments,
    *,
    options: CaptureOptions,
    sample_limit: int | None,
    begun: Run,
) -> Capture:
    """Do what `prepare_capture` does, with the tokens that are shared with a run, if any are.

    `KnownDocuments` are read where none are.
    """
    points = points_of(model, layers)
    runs = _runs(model, points)
    shared, template = shared_rows(begun, runs), begun.plan.spec.get("template_fingerprint")
    if shared is None or isinstance(documents, Documents):
        texts = documents if isinstance(documents, Documents) else documents.origin.read()
        documents = _known_documents(runs, texts, sample_limit)
        if shared is None:
            rows = _tokenized(runs, documents, options, None)
            shared, template = (rows, TokenFacts.of(rows)), _template_fingerprint(documents, rows)
    return _prepared(model, runs, points, documents, *shared, options, template)


def _prepared(
    given: TextModel,
    model: TextModel,
    points: Sequence[Point],
    documents: Documents | KnownDocuments,
    rows: ChosenRows,
    facts: TokenFacts,
    options: CaptureOptions,
    template_fingerprint: str | None,
) -> Capture:
    """Look at what the points give, and plan; `model` is what is run of the one that was given."""
    tokens = rows.tokens
    alone = ForwardPass(model, points, keys=rows.longest, ends_early=not has_stages(model))
    forward = together(alone, model, points)
    cuts = options.long_documents in ("truncate", "head")
    description = model.describe_model()
    changes = changes_at_work(model.layers)
    # Two, so that a layer that has nothing of the batch in it is found out before anything is made.
    probed = probe_documents(tokens)
    seen = forward(probed)
    layer_arrays = _point_arrays(seen, options.dtype)
    how = Batching.wanted(
        options,
        lambda: token_budget(model, layer_arrays, runs_whole=forward.stop_after is None),
    )
    more: dict[str, Any] = {"top_k": options.top_k} if "topk" in options.reduce else {}
    spec = CaptureSpec(
        model=model.context.model_id,
        model_fingerprint=model_fingerprint(description),
        layers=layer_arrays,
        documents_fingerprint=documents.fingerprint,
        documents=len(documents),
        max_tokens=model.max_tokens,
        long_documents="truncate" if cuts else options.long_documents,
        cut="tokenizer" if tokens.keeps_ends else None,
        no_special_tokens=options.no_special_tokens,
        window_special_tokens=options.window_special_tokens,
        keep_fields=tuple(documents.fields) or None,
        fields_fingerprint=documents.fields_fingerprint,
        **how.values(),
        budget_chosen=leaves_budget_open(options),
        rows_per_unit=options.rows_per_unit,
        tokens=options.tokens,
        reduce=options.reduce,
        **more,
        keep_rows=options.keep_rows,
        changes=changes.said,
        changes_fingerprint=changes.fingerprint,
        template_fingerprint=template_fingerprint,
        algorithm=ALGORITHM if tokens.beside is None else TOKENS_BESIDE,
    )
    names = [point.name for point in points]
    closed = attrs.evolve(options, **how.values())
    recipe = CaptureRecipe.of(given, description, names, documents, closed, changes.said)
    plan = RunPlan(
        rows=len(rows),
        rows_per_unit=options.rows_per_unit,
        documents=len(documents),
        layers=_stored_arrays(spec.layers, keep_rows=spec.keep_rows),
        spec=spec.values(),
        codec=options.codec,
        about={
            "model": model_identity(description),
            "documents": documents.describe(),
            "counts": attrs.asdict(tokens.counts),
            "documents_without_tokens": ranges(tokens.without),
            "spellings": spellings(model, points),
            "recipe": recipe.values(),
            TOKENS: facts.fingerprint,
            SPANS: tokens.characters is not None,
            NORM_ROWS: NORM_CHUNK,
            THREADS: torch.get_num_threads(),
            **_attention_shapes(points, spec.layers, keys=rows.longest),
            **({"template": _template(model)} if documents.are_messages else {}),
            **({} if options.keep is None else {KEEP: options.keep}),
        },
    )
    session = {"model": description, "documents": documents.describe()}
    return Capture(
        model=model,
        rows=rows,
        forward=forward,
        options=options,
        spec=spec,
        plan=plan,
        recipe=recipe,
        tokens=facts,
        hashes=documents.hashes,
        fields=documents.fields,
        session=session,
        padded=padded_probe(probed, seen),
    )


def _known_documents(
    model: TextModel, documents: Documents | Iterable[Any], limit: int | None
) -> Documents:
    """Return the first documents that the model can read, where those are wanted alone."""
    if isinstance(documents, Documents):
        documents = documents.known_to(getattr(model, "vocabulary_size", None))
    return Documents.of(documents, limit=limit)


def _tokenized(
    model: TextModel,
    documents: Documents,
    options: CaptureOptions,
    on_documents: OnDocuments | None,
) -> ChosenRows:
    tokens = tokenize(
        model,
        documents,
        long_documents=options.long_documents,
        role=options.tokens if is_role(options.tokens) else None,
        no_special_tokens=options.no_special_tokens,
        window_special_tokens=options.window_special_tokens,
        on_documents=on_documents,
    )
    return ChosenRows(tokens, options.tokens)


def _template_fingerprint(documents: Documents, rows: ChosenRows) -> str | None:
    """Return the hash of the tokens that a chat template made, of conversations."""
    return rows.tokens.fingerprint() if documents.are_messages else None


def _runs(model: TextModel, points: Sequence[Point]) -> TextModel:
    """Return what is run for the points: the model, unless it says something else."""
    for_layers = getattr(model, "for_layers", None)
    if for_layers is None:
        return model
    found: TextModel = for_layers([*dict.fromkeys(point.layer for point in points)])
    return found


def _point_arrays(seen: ForwardResult, dtype: str | None = None) -> tuple[LayerArray, ...]:
    """Return each point's width, and the dtype kept."""
    return tuple(
        LayerArray(name, found.shape[1], dtype or dtype_name(found.dtype))
        for name, found in seen.layers.items()
    )


def _template(model: TextModel) -> str | None:
    """Return the sha256 of the chat template that made the tokens, if the model has it."""
    found = getattr(getattr(model, "tokenizer", None), "chat_template", None)
    return None if found is None else hashlib.sha256(str(found).encode()).hexdigest()


def _attention_shapes(
    points: Sequence[Point], arrays: Sequence[LayerArray], *, keys: int
) -> dict[str, dict[str, dict[str, int]]]:
    """Return under `attention` how each pattern's rows are `heads` times `keys` numbers."""
    found = {
        array.name: {"heads": array.features // keys, "keys": keys}
        for point, array in zip(points, arrays, strict=True)
        if point.is_pattern
    }
    return {"attention": found} if found else {}


def _stored_arrays(points: Sequence[LayerArray], *, keep_rows: bool) -> tuple[LayerArray, ...]:
    """Return the arrays in the store: none without rows, and a scale a row beside int8."""
    found = []
    for point in points if keep_rows else ():
        found.append(point)
        if point.dtype == "int8":
            found.append(LayerArray(point.name + SCALE, 1, "float32"))
    return tuple(found)
