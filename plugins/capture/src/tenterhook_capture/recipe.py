"""How to make a capture again from names alone, in another process or on another machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override

from tenterhook_capture.batching import Batching
from tenterhook_capture.documents import DataName, Documents
from tenterhook_capture.errors import NotRebuildable
from tenterhook_capture.known_documents import KnownDocuments
from tenterhook_capture.loading import LARGE, ModelName, name_of
from tenterhook_capture.options import CaptureOptions
from tenterhook_capture.text_model import TextModel
from tenterhook_store import DamagedStore, Run


@attrs.frozen(kw_only=True)
class CaptureRecipe:
    """The names of a capture's model and data, and all that it was told.

    It is kept with the run, under `recipe` of its metadata. A run of which something has no name
    goes on by the call that began it.
    """

    model: ModelName | None
    """`None` for a model that was not loaded by a name."""
    data: DataName | None
    """`None` for texts that were given."""
    layers: tuple[str, ...]
    documents: int | None = None
    """How many documents are taken: those that there are, or the limit; `None` for all."""
    options: CaptureOptions = attrs.field(factory=CaptureOptions)
    changes: tuple[str, ...] = ()
    """The controllers and replacements at work, which no name gives."""

    @classmethod
    def of(
        cls,
        model: TextModel,
        description: Mapping[str, Any],
        layers: Sequence[str],
        documents: Documents | KnownDocuments,
        options: CaptureOptions,
        changes: Sequence[str],
    ) -> "CaptureRecipe":
        """Return the recipe of a capture of these."""
        name = name_of(model)
        if name is not None:
            # What a branch of the hub points to may change; what it pointed to does not.
            name = attrs.evolve(name, revision=description.get("revision") or name.revision)
        return cls(
            model=name,
            data=documents.origin,
            layers=tuple(layers),
            documents=len(documents),
            options=options,
            changes=tuple(changes),
        )

    @classmethod
    def of_run(cls, run: Run) -> "CaptureRecipe":
        """Read the recipe of a run.

        Raises `NotRebuildable` where it has none, `DamagedStore` where it cannot be read.
        """
        values = run.plan.about.get("recipe")
        if values is None:
            raise NotRebuildable(run.id, ["its recipe, which was never kept"])
        try:
            recipe = _converter().structure(_as_it_was_begun(values), cls)
        except cattrs.BaseValidationError as error:
            problems = "; ".join(cattrs.transform_error(error))
            raise DamagedStore(
                f"run {run.id}", f"its recipe cannot be read ({problems})"
            ) from error
        # What the run was begun with, whatever a recipe says that leaves it out: its default then.
        how = Batching.of_spec(run.plan.spec)
        return attrs.evolve(recipe, options=attrs.evolve(recipe.options, **how.values()))

    @property
    def unnamed(self) -> list[str]:
        """What cannot be made again, in words; empty where a process needs but the run."""
        missing = []
        if self.model is None:
            missing.append("a model that was not loaded by a name")
        if self.data is None:
            missing.append("documents that were not read by a name")
        if self.changes:
            missing.append(f"controllers at work ({', '.join(self.changes)})")
        return missing

    def elsewhere(
        self,
        *,
        model: str | None = None,
        data: str | None = None,
        field: str | None = None,
        device: str | None = None,
    ) -> "CaptureRecipe":
        """Return it with the names that they have on this machine; `None` leaves one as it is."""
        recipe = self
        if model is not None:
            known = self.model or ModelName(model)
            recipe = attrs.evolve(recipe, model=attrs.evolve(known, name=model, revision=None))
        if device is not None and recipe.model is not None:
            # One device for all of it, wherever its parts were.
            there = attrs.evolve(recipe.model, device=device, device_map=None, max_memory=None)
            recipe = attrs.evolve(recipe, model=there)
        if data is not None or field is not None:
            known_data = recipe.data or DataName(data or "")
            known_data = attrs.evolve(known_data, name=data or known_data.name)
            recipe = attrs.evolve(
                recipe, data=attrs.evolve(known_data, field=field or known_data.field)
            )
        return recipe

    def values(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        found: dict[str, Any] = _converter().unstructure(self)
        return found


def _as_it_was_begun(values: Any) -> Any:
    """Return a recipe's values, with what an earlier version did without saying so.

    It cut a long document to its first tokens, special tokens after it or not.
    """
    options = values.get("options") if isinstance(values, Mapping) else None
    if not isinstance(options, Mapping) or "no_special_tokens" in options:
        return values
    if options.get("long_documents", "truncate") != "truncate":
        return values
    return {**values, "options": {**options, "long_documents": "head"}}


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(
        forbid_extra_keys=True, unstruct_collection_overrides={tuple: list}
    )
    # Left out where nobody asked for it, so that earlier versions read the recipe.
    left_out: Any = {option: override(omit_if_default=True) for option in LARGE}
    converter.register_unstructure_hook(
        ModelName, make_dict_unstructure_fn(ModelName, converter, **left_out)
    )
    kept: Any = make_dict_unstructure_fn(
        CaptureOptions, converter, keep=override(omit_if_default=True)
    )
    converter.register_unstructure_hook(CaptureOptions, kept)
    return converter
