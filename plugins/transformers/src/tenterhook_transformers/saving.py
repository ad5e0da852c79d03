"""Saving what layers return over a data set: `lm.activations`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from tenterhook.errors import TenterhookError
from tenterhook_capture import TRIES, points_of, save_activations
from tenterhook_capture.options import KeywordsBesideBatchSize, shows_options
from tenterhook_transformers.texts import documents_of
from tenterhook_transformers.tokenized_model import TokenizedModel

if TYPE_CHECKING:
    from tenterhook_capture import ProgressCallback
    from tenterhook_capture.engine import Engine
    from tenterhook_store import Store


class NoStoreGiven(TenterhookError, ValueError):
    """Activations were to be saved and there is nowhere to."""

    def __str__(self) -> str:
        return (
            "There is no store to save to. Give one: save(..., store=LocalStore('folder')), or "
            "LanguageModel(..., store=LocalStore('folder')), from tenterhook_store."
        )


class Activations:
    """`lm.activations`: captures into a store."""

    def __init__(self, model: TokenizedModel) -> None:
        self._model = model

    @shows_options
    def save(
        self,
        layer_signature: str | int | Sequence[str | int],
        dataset: Any,
        run_name: str | None = None,
        sample_limit: int | None = None,
        batch_size: int | None = None,
        *,
        field: str | None = None,
        keep_fields: Sequence[str] = (),
        skip_bad_records: bool = False,
        store: "Store | None" = None,
        inputs: bool = False,
        tries: int = TRIES,
        engine: "str | Engine | None" = None,
        progress: "ProgressCallback | None" = None,
        **options: Unpack[KeywordsBesideBatchSize],
    ) -> str:
        """Run the model over a data set and keep what one layer, or several, return.

        `dataset` is texts, conversations, token ids, `Documents`, a table of pandas, pyarrow or
        polars or a data set of Hugging Face with the `field` that holds the documents, or a name or
        path as on the command line. Values of `keep_fields` are kept: `run.documents["label"]`.
        Records that cannot be read are left out with `skip_bad_records`, and counted.

        Goes to `store`, else to the model's. The rest is as
        `tenterhook_capture.save_activations` has it: `options` are the fields of its
        `CaptureOptions`, as `dtype`, `tokens`, `reduce`, `bucket`.

        Returns the run's id; `store.run(id)[layer][a:b]` reads rows, one per real token. The same
        call again does what is missing. Raises `NoStoreGiven` (a `ValueError`), `UnknownLayer`,
        and what `save_activations` and the data set raise.
        """
        store = self._model.store if store is None else store
        if store is None:
            raise NoStoreGiven
        layers = [layer_signature] if isinstance(layer_signature, str | int) else layer_signature
        points_of(self._model, layers)  # before the data is read
        _check_limit(sample_limit)
        documents = documents_of(
            dataset,
            field,
            # Which are bad may depend on the model: what is left is counted when it is known.
            None if skip_bad_records else sample_limit,
            keep_fields=keep_fields,
            skip_bad_records=skip_bad_records,
        )
        return save_activations(
            self._model,
            layers,
            documents,
            store,
            run_name=run_name,
            batch_size=batch_size,
            sample_limit=sample_limit,
            inputs=inputs,
            tries=tries,
            engine=engine,
            progress=progress,
            **options,
        )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"sample_limit={limit!r} must be a whole number, 1 or more.")
