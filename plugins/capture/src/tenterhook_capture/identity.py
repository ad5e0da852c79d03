"""What a capture is: everything that its bytes follow from."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import attrs
from attrs import validators

from tenterhook_capture.options import LongDocuments
from tenterhook_store import LayerArray, RunPlan

ALGORITHM = 1
"""Raised when the same spec comes to give other bytes."""

TOKENS_BESIDE = 2
"""Of captures whose rows stand beside other tokens than those of the text, as a decoder's do:
earlier versions put them beside the text's, in runs that nobody goes on with."""

NOT_IDENTITY = ("device", "versions")
"""What of a model's description may differ between two processes that write one run."""

LATER = ("buffers", "adapters")
"""What descriptions by earlier versions lack. Where a model has none of it, it is no part of a
fingerprint, so that runs of earlier versions are the same runs."""

UNNOTED = ("changes_fingerprint", "template_fingerprint")
"""What of a spec earlier versions did not have where it is now: there it is compared with nothing,
and the probe finds what differs."""

_count = validators.and_(validators.instance_of(int), validators.ge(1))


def later(default: Any) -> Any:
    """Return a field that earlier versions did not have.

    At its default it is no part of the spec, so that the runs that they began are still the same
    runs, under the same ids.
    """
    return attrs.field(default=default, metadata={"later": True})


def is_later(field: "attrs.Attribute[Any]") -> bool:
    """Whether earlier versions did not have the field."""
    return bool(field.metadata.get("later"))


@attrs.frozen(kw_only=True)
class CaptureSpec:
    """One capture; two that are equal are one run, and give the same bytes on one machine."""

    model: str = attrs.field(validator=validators.instance_of(str))
    """The name it was loaded by."""
    model_fingerprint: str
    """Of its description: weights, config, tokenizer."""
    layers: tuple[LayerArray, ...] = attrs.field(validator=validators.min_len(1))
    """In the model's order, each once, with its width and the dtype that is kept.

    An input or an attention pattern is called by its layer's name with `:input` or `:attention`
    after it, one call of a layer that has several with `:call=2`."""
    documents_fingerprint: str
    """Of the texts, in order, those within the limit alone."""
    documents: int = attrs.field(validator=_count)
    max_tokens: int | None
    """The longest document that the model takes."""
    long_documents: LongDocuments
    batch_size: int | None = attrs.field(validator=validators.optional(_count))
    """Documents in one forward at most; `None` for as many as `batch_tokens` allow. Which documents
    share a batch changes the last bits of floats."""
    rows_per_unit: int = attrs.field(validator=_count)
    batch_tokens: int | None = None
    """Tokens in one forward at most, padding counted."""
    bucket: bool = False
    """Whether documents are run by length, the longest first."""
    tokens: str | None = None
    """Which tokens of each document are rows: `0,-1` or `1:`; `None` for all."""
    reduce: tuple[str, ...] = ()
    """Statistics that are computed of the rows."""
    keep_rows: bool = True
    top_k: int = 20
    """How many of the highest values `topk` keeps of each feature."""
    changes: tuple[str, ...] = ()
    """The controllers and replacements at work, and `torch.autocast` where that is: what ran was
    not the model alone. An id that nobody chose is left out where the settings say it all."""
    budget_chosen: bool = attrs.field(default=False, eq=False)
    """Whether `batch_tokens` was chosen, and asked for by nobody. Then the id does not follow from
    the number, so that a machine which would choose another finds the run. Not among `values`."""
    algorithm: int = ALGORITHM
    cut: str | None = later(None)
    """`tokenizer` where a document was cut and keeps more than its first tokens."""
    no_special_tokens: bool = later(False)
    window_special_tokens: bool = later(False)
    keep_fields: tuple[str, ...] | None = later(None)
    """The fields of the documents' records that are kept."""
    fields_fingerprint: str | None = later(None)
    """Of their values."""
    changes_fingerprint: str | None = later(None)
    """Of the settings of what is at work, and of its order; `None` where nothing is."""
    template_fingerprint: str | None = later(None)
    """Of the tokens that the chat template made of conversations; a template may have a date."""

    def values(self) -> dict[str, Any]:
        """Return it as plain JSON values, without the later ones that are as they always were."""
        always = {each.name: each.default for each in attrs.fields(type(self)) if is_later(each)}
        found: dict[str, Any] = json.loads(json.dumps(attrs.asdict(self)))
        del found["budget_chosen"]
        return {key: found[key] for key in found if key not in always or found[key] != always[key]}

    def run_id(self) -> str:
        """Return the id that follows from it: the model's name and a hash."""
        name = PurePath(self.model.replace("\\", "/")).name or self.model
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
        values = self.values() | ({"batch_tokens": "chosen"} if self.budget_chosen else {})
        return f"{slug}-{fingerprint(values)[:12]}"


def model_fingerprint(description: Mapping[str, Any]) -> str:
    """Return the hash of what a model is, wherever it runs and by whatever name it is found."""
    found = model_identity(description)
    return fingerprint(
        {
            key: value
            for key, value in found.items()
            if key != "name" and not (key in LATER and value is None)
        }
    )


def model_identity(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's description without what may differ from machine to machine."""
    return {key: value for key, value in description.items() if key not in NOT_IDENTITY}


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the sha256 of plain JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- runs of earlier versions


def differences(plan: RunPlan, begun: RunPlan) -> list[str]:
    """Return where a run that is there is not the one of a plan, a phrase each; empty if it is.

    A run that an earlier version began is compared by what that version noted.
    """
    plan = _as_noted(plan, begun)
    found = plan.differences(begun)
    if not found or not _notes_less_of_model(plan, begun):
        return found
    ours, theirs = _model(plan), _model(begun)
    known = {key: value for key, value in ours.items() if key not in LATER and key != "name"}
    noted = {key: value for key, value in theirs.items() if key != "name"}
    if noted.get("weights", "") is None:  # it did not read weights that are offloaded
        known["weights"] = None
    if known != noted or begun.spec.get("model_fingerprint") != fingerprint(noted):
        return found
    same = {**plan.spec, "model_fingerprint": begun.spec["model_fingerprint"]}
    return attrs.evolve(plan, spec=same).differences(begun)


def is_of_earlier_version(plan: RunPlan, begun: RunPlan) -> bool:
    """Whether a run was begun by a version that noted less than the plan does."""
    return _notes_less_of_model(plan, begun) or _as_noted(plan, begun) is not plan


def earlier_run_ids(spec: CaptureSpec, description: Mapping[str, Any]) -> list[str]:
    """Return the ids that a capture had with earlier versions, the latest first."""
    unnoted = attrs.evolve(spec, changes_fingerprint=None, template_fingerprint=None)
    noted = {key: value for key, value in description.items() if key not in LATER}
    least = attrs.evolve(unnoted, model_fingerprint=model_fingerprint(noted))
    return [each.run_id() for each in (unnoted, least)]


def _notes_less_of_model(plan: RunPlan, begun: RunPlan) -> bool:
    ours, theirs = _model(plan), _model(begun)
    return bool(theirs) and any(key in ours and key not in theirs for key in LATER)


def _as_noted(plan: RunPlan, begun: RunPlan) -> RunPlan:
    """Return a plan without what an earlier version did not note of the run; itself, if nothing.

    Of the chat template it may have noted the text.
    """
    unnoted = [key for key in UNNOTED if key in plan.spec and key not in begun.spec]
    template = begun.about.get("template")
    if template is not None and template != plan.about.get("template"):
        unnoted = [key for key in unnoted if key != "template_fingerprint"]
    if not unnoted:
        return plan
    return attrs.evolve(plan, spec={k: v for k, v in plan.spec.items() if k not in unnoted})


def _model(plan: RunPlan) -> Mapping[str, Any]:
    found = plan.about.get("model")
    return found if isinstance(found, Mapping) else {}
