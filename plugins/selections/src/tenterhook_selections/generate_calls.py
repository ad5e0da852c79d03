"""transformers' `generate`, while somebody selects tokens: begins, follows and settles a `Search`.

The four methods of `GenerationMixin` that all models share are wrapped while a scope with a
selection is open, and only then: `generate` itself, and what it calls for each kind of search with
everything prepared, `_sample`, `_beam_search` and `_assisted_decoding`. Their arguments say what
nothing outside knows: the prompts as they are fed, with their mask; which copies stand for which;
what looks at the logits (a step is over then, and what runs the model meanwhile is guidance); what
says which rows have ended; and what is handed each token, as a streamer. What these run is no text.
A model that has methods of its own in their place is refused.

While no such scope is open, in any thread, nothing is wrapped.
"""

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.scopes import Place
from tenterhook_selections.forwards import innermost_forward
from tenterhook_selections.generation import RunningGeneration, is_part, running
from tenterhook_selections.padding import why_not_told
from tenterhook_selections.search_texts import RIGHT, Kind, Text
from tenterhook_selections.searches import Search
from tenterhook_selections.virtual import learned_tokens

KINDS: dict[str, Kind] = {
    "_sample": "one by one",
    "_beam_search": "beams",
    "_assisted_decoding": "assisted",
}
"""The methods of `GenerationMixin` whose searches are followed."""

_UNKNOWN = (
    "Tokens are selected, and {model} generates by a search whose tokens are not known: {what}. "
    f"Right are {RIGHT}."
)


class GenerateCalls(Place):
    """Where scopes with selections stand in the way of `generate`, as long as one is open."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # a model may be freed, and so leave, at any line below
        self._plain: dict[str, Callable[..., Any]] = {}
        self._ours: dict[str, Callable[..., Any]] = {}

    @property
    def installed(self) -> bool:
        """Whether `generate` is wrapped now."""
        return bool(self._plain)

    def enter(self) -> None:
        """Count one more scope."""
        with self._lock:
            self.scopes += 1
            mixin = _mixin()
            if self._plain or mixin is None:
                return
            for name, wrap in {"generate": _generate, **dict.fromkeys(KINDS, _search)}.items():
                plain = vars(mixin).get(name)
                if plain is not None:
                    self._plain[name] = plain
                    self._ours[name] = wrap(plain)
                    setattr(mixin, name, self._ours[name])

    def leave(self) -> None:
        """Count one scope less."""
        with self._lock:
            self.scopes -= 1
            if self.scopes:
                return
            mixin = _mixin()
            for name, plain in self._plain.items():
                if vars(mixin).get(name) is self._ours[name]:  # else somebody wrapped it meanwhile
                    setattr(mixin, name, plain)
            self._plain, self._ours = {}, {}


GENERATE = GenerateCalls()


class OfOneModel(Place):
    """Has `generate` wrapped for one scope or registered hook, at most as long as its model is.

    A model may be dropped with its hooks on it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = weakref.ref(model)
        self._ends: list[Any] = []

    @property
    def installed(self) -> bool:
        """Whether `generate` is wrapped now."""
        return GENERATE.installed

    def enter(self) -> None:
        """Count one more scope."""
        GENERATE.enter()
        end = weakref.finalize(self._model(), GENERATE.leave)
        end.atexit = False
        self._ends.append(end)

    def leave(self) -> None:
        """Count one scope less, if its model is still there."""
        self._ends.pop()()


@contextmanager
def known_searches() -> Iterator[None]:
    """Have `generate` of transformers say which tokens are which while the block runs."""
    GENERATE.enter()
    try:
        yield
    finally:
        GENERATE.leave()


def _mixin() -> Any:
    module = sys.modules.get("transformers.generation.utils")
    return getattr(module, "GenerationMixin", None)


def _generate(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _begun(self) as search:
            search.refused = _unlisted(self, kwargs)
            if kwargs.get("streamer") is not None:
                kwargs["streamer"] = _WatchedStreamer(kwargs["streamer"], search)
            return plain(self, *args, **kwargs)

    return generate


@contextmanager
def _begun(model: Any) -> Iterator[Search]:
    """Have a search of `model` run in this block."""
    inner = innermost_forward()
    outer = running.get()
    search = Search(model, None if inner is None else inner.frame, outer)
    search.is_draft = (
        isinstance(outer, Search) and is_part(model, outer.model) and outer.within == search.within
    )
    token = running.set(search)
    try:
        yield search
    finally:
        running.reset(token)
    if isinstance(outer, RunningGeneration) and outer.has_part(model):
        outer.search = search


def _unlisted(model: Any, settings: dict[str, Any]) -> str | None:
    """Return why the tokens of this call of `generate` are not known, if so."""
    what = None
    own = [name for name in KINDS if not hasattr(getattr(type(model), name, None), _MARK)]
    if settings.get("custom_generate") is not None:
        what = f"custom_generate={settings['custom_generate']!r}"
    elif settings.get("cache_implementation") == "paged":
        what = "cache_implementation='paged'"
    elif own:
        what = f"it has a {own[0]} of its own"
    return None if what is None else _UNKNOWN.format(model=type(model).__name__, what=what)


_MARK = "tenterhook_search"


def _search(plain: Callable[..., Any]) -> Callable[..., Any]:
    kind = KINDS[plain.__name__]

    @functools.wraps(plain)
    def search_for(self: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        search = running.get()
        if not (isinstance(search, Search) and search.model is self):
            with _begun(self):  # the model has a `generate` of its own
                return search_for(self, input_ids, *args, **kwargs)
        known = not args and {"logits_processor", "stopping_criteria", "generation_config"} <= {
            *kwargs
        }
        if search.text is not None:
            return plain(self, input_ids, *args, **kwargs)
        if search.refused is None and not (known and input_ids.ndim == 2):
            search.refused = _UNKNOWN.format(
                model=type(self).__name__, what=f"its {plain.__name__} is called in another way"
            )
        if search.refused is not None or search.is_draft:
            return plain(self, input_ids, *args, **kwargs)
        text = _text(self, kind, input_ids, kwargs)
        search.text = text
        two = getattr(self.config, "is_encoder_decoder", False)
        text.untold = why_not_told(
            self,
            text.mask,
            past=_length_of(kwargs.get("past_key_values")),
            beams=kind == "beams",
            in_chunks=text.in_chunks,
            encoder=kwargs.get("attention_mask") if two else None,
        )
        kwargs["logits_processor"] = _WatchedProcessors(kwargs["logits_processor"], search)
        kwargs["stopping_criteria"] = _WatchedCriteria(kwargs["stopping_criteria"], search)
        with _reorders(kwargs.get("past_key_values"), text):
            result = plain(self, input_ids, **kwargs)
        search.settle(getattr(result, "sequences", result))
        return result

    setattr(search_for, _MARK, True)
    return search_for


def _text(model: Any, kind: Kind, ids: Tensor, given: dict[str, Any]) -> Text:
    """Return what is known of the text as a search begins."""
    config = given["generation_config"]
    two = bool(getattr(model.config, "is_encoder_decoder", False))
    mask = given.get("decoder_attention_mask" if two else "attention_mask")
    embedded = None if two else given.get("inputs_embeds")
    width = ids.shape[1]
    if isinstance(mask, Tensor) and mask.ndim == 2:
        begin = mask.shape[1]
    elif isinstance(embedded, Tensor):
        begin = embedded.shape[1]
    else:
        begin = max(width, getattr(config, "_mask_length", 0) or 0)
    if not (isinstance(mask, Tensor) and mask.ndim == 2):
        mask = torch.ones(len(ids), begin)
    past = _length_of(given.get("past_key_values"))
    to_feed = begin - past if begin == width or embedded is not None else width
    copies = max(int(config.num_beams or 1), int(config.num_return_sequences or 1))
    owner = getattr(model.prepare_inputs_for_generation, "__self__", model)
    ends = getattr(config, "_eos_token_tensor", None)
    padding = getattr(config, "_pad_token_tensor", None)
    if kind == "assisted" or _only_ends(given["stopping_criteria"]):
        padding = None  # what is behind an end follows from the end; else it is a token as any
    text = Text(
        kind,
        mask.cpu(),
        copies=1 if kind == "assisted" or len(ids) % copies else copies,
        offset=begin - width,
        to_feed=to_feed,
        in_chunks=getattr(config, "prefill_chunk_size", None) is not None,
        virtual=0 if owner is model else learned_tokens(owner),
        ends=frozenset() if ends is None else frozenset(ends.flatten().tolist()),
        padding=None if padding is None else int(padding),
    )
    text.latest = ids
    return text


def _only_ends(criteria: Any) -> bool:
    """Whether rows end with certain ids alone, or all at once."""
    known = ("EosTokenCriteria", "MaxLengthCriteria", "MaxTimeCriteria")
    return all(type(each).__name__ in known for each in criteria)


@contextmanager
def _reorders(cache: Any, text: Text) -> Iterator[None]:
    """Have `text` know when a search with beams gives the slots of the cache new texts."""
    plain = getattr(cache, "reorder_cache", None)
    if text.kind != "beams" or plain is None:
        yield
        return

    def reorder_cache(beam_idx: Tensor, *args: Any, **kwargs: Any) -> Any:
        text.reordered(beam_idx)
        return plain(beam_idx, *args, **kwargs)

    cache.reorder_cache = reorder_cache
    try:
        yield
    finally:
        del cache.reorder_cache


def _length_of(cache: Any) -> int:
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError, TypeError):  # none, or one of a recurrent model
        return 0


class _WatchedProcessors(list[Any]):
    """The logits processors of a search. Their call is where a step's text is known."""

    def __init__(self, processors: Any, search: Search) -> None:
        super().__init__(processors)
        self._processors, self._search = processors, search

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        search = self._search
        assert search.text is not None
        search.text.scored(input_ids)
        with search.stepping_aside():
            return self._processors(input_ids, scores, **kwargs)


class _WatchedStreamer:
    """The streamer of a search."""

    def __init__(self, streamer: Any, search: Search) -> None:
        self._streamer, self._search = streamer, search

    def put(self, value: Any) -> None:
        """Hand tokens on."""
        with self._search.stepping_aside():
            self._streamer.put(value)

    def end(self) -> None:
        """Say that there are no more."""
        with self._search.stepping_aside():
            self._streamer.end()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._streamer, name)


class _WatchedCriteria(list[Any]):
    """The stopping criteria of a search. Their call says which rows have ended."""

    def __init__(self, criteria: Any, search: Search) -> None:
        super().__init__(criteria)
        self._criteria, self._search = criteria, search
        self._fills = any(hasattr(each, "eos_token_id") for each in criteria)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        assert self._search.text is not None
        with self._search.stepping_aside():
            over = self._criteria(input_ids, scores, **kwargs)
        self._search.text.extended(input_ids, over, self._fills)
        return over

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._criteria, name)
