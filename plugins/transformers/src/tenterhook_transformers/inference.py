"""Running a language model on texts, batch by batch, hooks included."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch

from tenterhook.hooks import HookWarning
from tenterhook_selections import generating
from tenterhook_transformers.chat_template import conversations_of
from tenterhook_transformers.chatting import rendered
from tenterhook_transformers.encoding import encode
from tenterhook_transformers.evaluating import evaluating
from tenterhook_transformers.families import model_inputs, raise_of_two_sequences
from tenterhook_transformers.texts import iterate_texts
from tenterhook_transformers.tokenized_model import TokenizedModel

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from tenterhook_transformers.chat_template import Conversation


class Inference:
    """`lm.inference`: forward passes without gradients, in eval mode."""

    def __init__(self, model: TokenizedModel) -> None:
        self._model = model

    def execute_inference(
        self,
        texts: "str | Iterable[str] | Conversation | Sequence[Conversation]",
        tok_kwargs: Mapping[str, Any] | None = None,
        autocast: bool = False,
        autocast_dtype: torch.dtype | None = None,
        with_controllers: bool = True,
        stop_after_layer: str | int | None = None,
    ) -> "tuple[Any, BatchEncoding]":
        """Run the model once on the texts, as one batch; return its output and its inputs.

        Texts may be conversations, lists of messages as `LanguageModel.chat` takes them, written as
        the chat template has it; selections of roles apply to them.

        The model runs in eval mode, without gradients; its own mode comes back afterwards.
        Registered hooks and open scopes see the forward. `tok_kwargs` go to the tokenizer;
        `truncation=True` alone cuts to what the model takes. `autocast` computes in
        `autocast_dtype`, by default in torch's choice for the device. With
        `with_controllers=False` every controller is off for this call, in this thread alone. After
        `stop_after_layer` the forward ends, and the output is `None`.

        The output is the model's own: of a causal language model `logits` are `(batch, seq,
        vocab)`, in the model's dtype. The inputs are what it was given, int64 `(batch, seq)` on
        its device: `lm.module(**encodings)` repeats the forward. With padding on the left they hold
        `position_ids` where the model needs them.

        Raises `UnknownLayer`; `EmptyText` for no texts or one without tokens, `TooLong` for one
        with more than the model has positions, both a `ValueError`; `TypeError` for anything but
        text; `HookError` where a hook fails.
        """
        model = self._model
        if stop_after_layer is not None:
            model.layers.index.resolve(stop_after_layer)
        given: Any = texts
        roles = None
        if conversations_of(texts) is not None:
            chats = rendered(model, texts)
            given, roles = [chat.text for chat in chats], [chat.roles for chat in chats]
            tok_kwargs = {"add_special_tokens": False, **(tok_kwargs or {})}
        encodings = encode(model, given, **(tok_kwargs or {}))
        with ExitStack() as scopes:
            if roles is not None:
                lengths = [len(each) for each in roles]
                scopes.enter_context(generating(lengths, model=model.module, roles=roles))
            scopes.enter_context(evaluating(model.module))
            scopes.enter_context(torch.no_grad())
            if autocast:
                kind = model.context.device.type
                scopes.enter_context(torch.autocast(kind, dtype=autocast_dtype))
            if not with_controllers:
                scopes.enter_context(model.without_controllers())
            if stop_after_layer is not None:
                stop = model.capture(stop_after=stop_after_layer, missing="ignore")
                scopes.enter_context(stop)
            try:
                outputs = model(**model_inputs(model.module, encodings))
            except (TypeError, ValueError) as error:
                raise_of_two_sequences(model.module, error)
                raise
        if stop_after_layer is not None and outputs is not None:
            warn(
                f"The forward did not stop after layer {stop_after_layer!r}: it never ran.",
                HookWarning,
                stacklevel=2,
            )
        return outputs, encodings

    def infer_dataset(
        self,
        dataset: Any,
        *,
        batch_size: int = 32,
        field: str | None = None,
        sample_limit: int | None = None,
        tok_kwargs: Mapping[str, Any] | None = None,
        autocast: bool = False,
        autocast_dtype: torch.dtype | None = None,
        with_controllers: bool = True,
        stop_after_layer: str | int | None = None,
    ) -> "Iterator[tuple[Any, BatchEncoding]]":
        """Run the model over a data set; yield the output and the inputs of each batch.

        `dataset` is texts, `Documents`, a data set of Hugging Face with its `field` of text, or a
        name or path as on the command line. Texts are read a batch at a time and no output stays
        in memory, so memory does not grow with the data. See `execute_inference` for the rest.

        Raises at once `UnknownLayer`, and `ValueError` for a `batch_size` or `sample_limit` below
        1; what `iterate_texts` and `execute_inference` raise.
        """
        if stop_after_layer is not None:
            self._model.layers.index.resolve(stop_after_layer)
        for name, number in (("batch_size", batch_size), ("sample_limit", sample_limit)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number!r} must be a whole number, 1 or more.")
        texts = islice(iterate_texts(dataset, field), sample_limit)
        batches = iter(lambda: list(islice(texts, batch_size)), [])
        return (
            self.execute_inference(
                batch,
                tok_kwargs,
                autocast,
                autocast_dtype,
                with_controllers,
                stop_after_layer,
            )
            for batch in batches
        )
