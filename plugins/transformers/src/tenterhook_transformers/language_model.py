"""A language model: a model, its tokenizer, its hooks."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from tenterhook import HookedModel, attach
from tenterhook.hooks import Controller, Detector, Hook
from tenterhook.registry import OnError
from tenterhook_capture.loading import ModelName, load_model, note_name
from tenterhook_capture.special_tokens import SpecialTokens
from tenterhook_capture.text_model import TextModel
from tenterhook_store.schemes import split_scheme
from tenterhook_transformers import chatting, encoding, generation, token_strings
from tenterhook_transformers.description import describe
from tenterhook_transformers.errors import BadLoadOption, UnknownModel
from tenterhook_transformers.families import (
    max_tokens,
    raise_of_two_sequences,
    vocabulary_size,
)
from tenterhook_transformers.forwards import padded, run_padded
from tenterhook_transformers.inference import Inference
from tenterhook_transformers.large_models import LARGE, in_plain_values
from tenterhook_transformers.pretrained import load_parts
from tenterhook_transformers.saving import Activations
from tenterhook_transformers.tokenizing import (
    Spans,
    ids_and_spans,
    run_tokenizer,
    special_tokens_of,
    texts_of,
)
from tenterhook_transformers.two_sequences import part_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BatchEncoding

    from tenterhook_selections import Roles
    from tenterhook_store import Store
    from tenterhook_transformers.chat_template import Conversation


class LanguageModel(HookedModel):
    """A model of transformers with its tokenizer; layers, hooks and scopes as of `attach`.

    All that is made for one module, by `attach` or here, shares one registry and one context.
    Where several language models are made for one module, each keeps the tokenizer and store it
    was given, and the context, which hooks see, holds those of the latest.
    """

    def __init__(
        self,
        model: nn.Module | HookedModel,
        tokenizer: Any = None,
        store: "Store | None" = None,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        special_token_ids: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        """`model_id` is the name it goes by, by default what its config was loaded from.

        A model without a tokenizer takes token ids, and refuses text (`ModelWithoutTokenizer`).
        Raises `TypeError` unless `model` is a module and `tokenizer` a tokenizer or `None`.
        """
        module = model.module if isinstance(model, HookedModel) else model
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"LanguageModel takes an nn.Module and a tokenizer, not {type(module).__name__}. "
                "For a name use LanguageModel.from_pretrained."
            )
        if tokenizer is not None and not callable(tokenizer):
            raise TypeError(
                f"{type(tokenizer).__name__} is no tokenizer. Leave it out for a model without "
                "one, which takes token ids."
            )
        name = model_id or getattr(getattr(module, "config", None), "_name_or_path", "") or None
        super().__init__(
            module,
            model_id=name,
            tokenizer=tokenizer,
            store=store,
            special_token_ids=special_token_ids,
            on_error=on_error,
        )
        self.tokenizer = tokenizer
        self.revision = revision
        self._store = store
        self._saes: set[str] = set()
        self._shared: HookedModel | None = None
        first = attach(module, make=lambda _: self)
        if first is not self:
            self._join(first, name, special_token_ids)

    def _join(
        self, first: HookedModel, name: str | None, special_token_ids: Sequence[int] | None
    ) -> None:
        """Share registry and context with what is attached already."""
        self._shared = first  # lives as long as this does
        self.layers, self.context = first.layers, first.context
        self.context.tokenizer = self.tokenizer
        if isinstance(first, LanguageModel):
            self._saes = first._saes
        if name is not None:
            self.context.model_id = name
        if self._store is not None:
            self.context.store = self._store
        if special_token_ids is not None:
            self.context.special_token_ids = special_token_ids

    def __reduce__(self) -> Any:
        """Return what makes a copy with the tokenizer, without hooks and store."""
        settings = {
            "model_id": self.context.model_id,
            "revision": self.revision,
            "special_token_ids": sorted(self.context.special_token_ids),
            "on_error": self.on_error,
        }
        return _copied, (type(self), self.module, self.tokenizer, settings)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        store: "Store | None" = None,
        *,
        model_id: str | None = None,
        tokenizer: Any = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model and its tokenizer from a folder or the Hugging Face hub, in eval mode.

        A name with a scheme, as `tiny:`, is loaded by the plugin of that scheme, as `load_model`
        does, and takes `dtype`, `device`, `revision`, `attn_implementation` and the options for
        models that do not fit.

        `dtype` is the checkpoint's unless given; `device` moves the model. A causal language model
        is made of a checkpoint, or what its config names: a masked one, or the bare model.
        `tokenizer` is a tokenizer, or the name of another one; a folder without a file of one gives
        a model without, which takes token ids. Code that comes with a model is not run, and nothing
        asks whether it should be, unless `trust_remote_code=True` says so. `kwargs` go to
        `from_pretrained` of transformers: `revision`, `attn_implementation`, ...

        For models that do not fit: `device_map`, `"auto"` or devices by module name, lays parts on
        several devices, in memory and on the disk; `tp_plan`, `"auto"` or a plan, has the processes
        of a launcher share each layer; `quantization_config` keeps weights in fewer bits, and is
        settings of transformers, a mapping of them, or a word, as `"int8"`.

        Raises `UnknownModel` (an `OSError` and a `LookupError`) where there is none or it cannot
        be loaded, `ValueError` for a dtype, device or attention implementation that is not there,
        and what `load_model` raises; warns `MissingWeights` where the checkpoint lacks some.
        """
        dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype  # its older name
        scheme, _ = split_scheme(fspath(name_or_path))
        if scheme is not None and not Path(name_or_path).exists():
            given = {"tokenizer": tokenizer, **kwargs}
            model = cls._of_scheme(
                fspath(name_or_path),
                dtype=dtype,
                device=device,
                **{name: value for name, value in given.items() if value is not None},
            )
            model.store = store or model.store
            model.context.model_id = model_id or model.context.model_id
            return model
        attention = kwargs.get("attn_implementation")
        module, found = load_parts(
            name_or_path, tokenizer=tokenizer, dtype=dtype, device=device, **kwargs
        )
        model = cls(
            module,
            found,
            store,
            model_id=model_id or fspath(name_or_path),
            revision=kwargs.get("revision"),
        )
        # `load_model` takes no more. Where weights are offloaded to is each process's own.
        named = {"revision", "attn_implementation", "offload_folder", *LARGE}
        if tokenizer is None and kwargs.keys() <= named and isinstance(attention, str | None):
            known = {
                key: kwargs[key] for key in ("revision", "attn_implementation") if key in kwargs
            }
            with suppress(TypeError):  # settings that no plain values say
                name = ModelName.of(
                    fspath(name_or_path), dtype, device=device, **known, **in_plain_values(kwargs)
                )
                note_name(model, name)
        return model

    @classmethod
    def _of_scheme(cls, name: str, **options: Any) -> Self:
        """Load what the plugin of the name's scheme has."""
        taken = {"dtype", "device", "revision", "attn_implementation", *LARGE}
        others = options.keys() - taken
        options |= in_plain_values(options)
        if others:
            raise BadLoadOption(
                f"{name!r} is loaded by the plugin of its scheme, which takes no "
                f"{', '.join(sorted(others))}."
            )
        found = load_model(name, **options)
        if isinstance(found, cls):
            return found
        if not isinstance(found, LanguageModel):
            why = f"its loader gives a {type(found).__name__}, which is no LanguageModel"
            raise UnknownModel(name, why, "Use tenterhook_capture.loading.load_model(name).")
        return cls(found, found.tokenizer, revision=found.revision, model_id=found.context.model_id)

    if not TYPE_CHECKING:  # else types would take any name for one that is there

        def __getattr__(self, name: str) -> Any:
            """Say where what belongs to the module is: what takes a model of transformers asks."""
            module = vars(self).get("module")
            own = type(self).__name__
            if name.startswith("_") or not hasattr(module, name):
                raise AttributeError(f"{own!r} object has no attribute {name!r}")
            raise AttributeError(
                f"{own} has no {name!r}; its {type(module).__name__} has: lm.module.{name}. What "
                "takes a model of transformers, as pipeline(), takes that module, in which hooks "
                "and scopes are at work as here: model=lm.module, tokenizer=lm.tokenizer."
            )

    @property
    def store(self) -> "Store | None":
        """Where `activations.save` saves to."""
        return self._store if self._store is not None else self.context.store

    @store.setter
    def store(self, store: "Store | None") -> None:
        self._store = self.context.store = store

    # --- running

    @property
    def inference(self) -> Inference:
        """Forward passes over texts."""
        return Inference(self)

    @property
    def activations(self) -> Activations:
        """Captures into the store."""
        return Activations(self)

    def tokenize(self, texts: str | Iterable[str], **kwargs: Any) -> "BatchEncoding":
        """Return the texts as tensors, padded to one length, on the model's device.

        `input_ids` and `attention_mask` (1 at real tokens) are int64 `(batch, seq)`.
        `kwargs` go to the tokenizer and replace ours (`padding=True`, `return_tensors="pt"`);
        `truncation=True` without a length cuts to what the model takes. The tokenizer stays as it
        is: where it has no pad token, a copy of it pads with the token that ends texts, and those
        places are masked.

        Raises `EmptyText` for no texts, `TypeError` for anything but text.
        """
        return encoding.tokenize(self, texts, **kwargs)

    def generate(
        self,
        prompts: str | Iterable[str],
        *,
        tok_kwargs: "Mapping[str, Any] | None" = None,
        with_controllers: bool = True,
        **kwargs: Any,
    ) -> generation.Generation:
        """Go on with the prompts, hooks and open scopes active on every step.

        `kwargs` are those of transformers' `generate`: `max_new_tokens`, `do_sample`, ... Prompts
        are padded on the left, whatever the tokenizer's setting, which stays. The model runs in
        eval mode, without gradients; its own mode comes back afterwards. With
        `with_controllers=False` every controller is off for this call, in this thread alone.

        transformers never runs the last token. While a capture is open it is run too, so that the
        capture has a row for each token of the final sequences. After a search with beams it is
        not, because the rows of beams came and went.

        Raises `ValueError` for a model that cannot generate, `EmptyText`, `TooLong`, `HookError`.
        """
        return generation.generate(
            self, prompts, tok_kwargs=tok_kwargs, with_controllers=with_controllers, **kwargs
        )

    def chat(
        self,
        messages: "Conversation | Sequence[Conversation]",
        *,
        template_kwargs: "Mapping[str, Any] | None" = None,
        tok_kwargs: "Mapping[str, Any] | None" = None,
        with_controllers: bool = True,
        **kwargs: Any,
    ) -> generation.Generation:
        """Have the assistant answer a conversation, or several; what `generate` returns.

        A conversation is a list of messages, `{"role": "user", "content": "Hello"}`, as the
        tokenizer's chat template takes them; `template_kwargs` go to the template
        (`enable_thinking`, `tools`, `continue_final_message`). The answers are the
        `continuations`. The rest is as `generate` has it, and selections of roles apply:
        `tokens="user"`, `"assistant"`, `"system"`, `"thinking"`, `"tool"`. What the model says is
        the assistant's.

        Raises `NoChatTemplate`, `BadConversation` where the template does not take the messages
        (both a `ValueError`), `TypeError` for what are no messages, and what `generate` raises.
        Roles that cannot be told are a `ValueError` when a selection asks for them.
        """
        return chatting.chat(
            self,
            messages,
            template_kwargs=template_kwargs,
            tok_kwargs=tok_kwargs,
            with_controllers=with_controllers,
            **kwargs,
        )

    def roles(
        self,
        messages: "Conversation | Sequence[Conversation]",
        *,
        template_kwargs: "Mapping[str, Any] | None" = None,
    ) -> "list[Roles]":
        """Return, of each conversation, the ids of its tokens and the role of each.

        Nothing is run. Raises what `chat` raises of messages.
        """
        return chatting.roles_of(self, messages, template_kwargs=template_kwargs)

    # --- what a capture needs

    @property
    def max_tokens(self) -> int | None:
        """The longest document that one forward takes, in tokens; `None` where nothing limits it.

        For rotary models it is the length they were made for, which a forward may exceed.
        """
        return max_tokens(self.module, self.tokenizer)

    @property
    def special_tokens(self) -> SpecialTokens:
        """What the tokenizer puts before and after a text, and which end it keeps of a long one."""
        return special_tokens_of(self.tokenizer)

    @property
    def vocabulary_size(self) -> int | None:
        """How many tokens the model knows: ids are below it; `None` where it cannot be told."""
        return vocabulary_size(self.module)

    def token_ids(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[int]]:
        """Return the token ids of each text, unpadded, never truncated.

        The tokenizer's special tokens are around each, unless `special_tokens` is false. Raises
        `TypeError` for anything but text, `ModelWithoutTokenizer`.
        """
        found = texts_of(texts)
        if not found:
            return []
        settings: dict[str, Any] = {"padding": False, "truncation": False, "verbose": False}
        if not special_tokens:
            settings["add_special_tokens"] = False
        encodings = run_tokenizer(self.tokenizer, found, **settings)
        ids: list[list[int]] = encodings["input_ids"]
        return ids

    def token_ids_and_spans(
        self, texts: Sequence[str], *, special_tokens: bool = True
    ) -> tuple[list[list[int]], list[Spans] | None]:
        """Return what `token_ids` does, and of each text which of its characters each token is.

        `text[start:stop]` of a span is what the tokenizer says the token stands for. Those that it
        adds have `(-1, -1)`. `None` in the place of spans where the tokenizer does not tell: those
        that transformers calls fast do.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            return self.token_ids(texts, special_tokens=special_tokens), None
        settings = {} if special_tokens else {"add_special_tokens": False}
        return ids_and_spans(self.tokenizer, texts_of(texts), **settings)

    def token_strings(self, text: str | Sequence[int]) -> list[str]:
        """Return what each token stands for, of a text with its special tokens, or of token ids.

        A token that is a part of a letter's bytes is the replacement character, `"\\ufffd"`. Raises
        `ModelWithoutTokenizer`.
        """
        return token_strings.token_strings(self, text)

    def single_token(self, text: str) -> int:
        """Return the id of the token that `text` is, as `" the"`.

        Raises `NotOneToken` (a `ValueError`), which says what the tokenizer makes of it, and
        `ModelWithoutTokenizer`.
        """
        return token_strings.single_token(self, text)

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """Pad the documents into one batch and run one forward, in eval mode, without gradients.

        Pads on the tokenizer's side. Returns the mask of real tokens, bool `(batch, seq)`, on the
        CPU. Raises `EmptyText` where there is no document, or one has no token.
        """
        side = getattr(self.tokenizer, "padding_side", "right")
        batch = padded(self, documents, side=side)
        try:
            run_padded(self, batch)
        except (TypeError, ValueError) as error:
            raise_of_two_sequences(self.module, error)
            raise
        return batch.attention_mask.bool()

    def for_layers(self, layers: Sequence[str]) -> TextModel:
        """Return what a capture of these layers runs: this, or of an encoder-decoder model a part.

        Layers of the encoder are captured by running the encoder; those of a decoder with the
        tokens that the model makes of the text. Raises `OtherSequence` (a `ValueError`) where
        layers are of both, or where the model makes none.
        """
        return part_for(self, layers)

    def describe_model(self) -> dict[str, Any]:
        """Return what made the activations, in plain JSON values.

        `weights` is a sha256 over every byte of the weights; for a model of 1 GB it takes about a
        second.
        """
        return describe(
            self.module,
            self.tokenizer,
            name=self.context.model_id,
            revision=self.revision,
        )

    # --- sparse autoencoders

    def attach_sae(self, sae: Hook, layer_signature: str | int) -> str:
        """Have a hook that detects and controls, as a sparse autoencoder does, run at a layer.

        Returns its id. Raises `TypeError` unless it is both, and what `register_hook` raises.
        """
        if not (isinstance(sae, Detector) and isinstance(sae, Controller)):
            raise TypeError(
                f"attach_sae takes a hook that is both Detector and Controller, not "
                f"{type(sae).__name__}. Others go through layers.register_hook."
            )
        id = self.layers.register_hook(layer_signature, sae)
        self._saes.add(id)
        return id

    def detach_sae(self, sae_or_layer: Hook | str | int | None = None) -> list[Hook]:
        """Detach what `attach_sae` attached: one, by itself or its id, those of a layer, or all.

        Returns the hooks that were detached. Raises `UnknownLayer` for what is neither an id nor
        a layer.
        """
        attached = [hook for hook in self.layers if hook.id in self._saes]
        going = [hook for hook in attached if sae_or_layer in (None, hook, hook.id)]
        if not going and isinstance(sae_or_layer, str | int):
            name = self.layers.index.resolve(sae_or_layer).name
            going = [hook for hook in attached if hook.layer_signature == name]
        for hook in going:
            self.layers.unregister_hook(hook)
            self._saes.discard(hook.id)
        return going


def _copied(
    kind: type[LanguageModel], module: nn.Module, tokenizer: Any, settings: dict[str, Any]
) -> LanguageModel:
    return kind(module, tokenizer, **settings)
