"""Text that a model goes on with, hooks active on every step."""

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tenterhook.activity import capturing
from tenterhook_selections import Roles, generating
from tenterhook_selections.generate_calls import known_searches
from tenterhook_selections.search_texts import real_tokens
from tenterhook_selections.searches import Search
from tenterhook_transformers.encoding import encode
from tenterhook_transformers.evaluating import evaluating
from tenterhook_transformers.families import (
    inside,
    model_inputs,
    pad_id,
    position_ids,
    unwrapped,
)
from tenterhook_transformers.tokenized_model import TokenizedModel


@attrs.frozen(eq=False, kw_only=True)
class Generation:
    """What came of some prompts: a row for each, or for each sample where several were asked for.

    Iterating gives the texts.
    """

    texts: list[str]
    """Prompt and continuation, without special tokens."""

    continuations: list[str]
    """What was generated alone."""

    token_ids: list[list[int]]
    """Prompt and continuation, special tokens included, padding left out."""

    prompt_lengths: list[int]
    """How many tokens of each row were the prompt's."""

    sequences: Tensor
    """int64 `(rows, seq)`, padded, as the model gave it."""

    mask: Tensor
    """bool `(rows, seq)`: the tokens of `sequences` that are no padding."""

    raw: Any
    """What `generate` of transformers returned."""

    @property
    def text(self) -> str:
        """The text, of one prompt; `ValueError` where there are several."""
        if len(self.texts) != 1:
            raise ValueError(f"There are {len(self.texts)} texts; take them from .texts.")
        return self.texts[0]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Any:
        return iter(self.texts)

    def __getitem__(self, row: int) -> str:
        return self.texts[row]

    def __str__(self) -> str:
        return "\n".join(self.texts)


def generate(
    model: TokenizedModel,
    prompts: str | Iterable[str],
    *,
    tok_kwargs: Mapping[str, Any] | None = None,
    with_controllers: bool = True,
    roles: Sequence[Roles] | None = None,
    **settings: Any,
) -> Generation:
    """Go on with the prompts; see `LanguageModel.generate`. `roles` say who says what in them.

    Raises `ValueError` for a model that cannot generate, `EmptyText`, `TooLong`, `HookError`.
    """
    module: Any = _that_generates(model.module)
    encodings = encode(
        model, prompts, positions=False, **{"padding_side": "left", **(tok_kwargs or {})}
    )
    names = ("input_ids", "attention_mask")
    inputs = {name: encodings[name] for name in names if name in encodings}
    prompt_mask = encodings.get("attention_mask", torch.ones_like(encodings["input_ids"])).bool()
    padding = _settle_padding(model, settings)
    with ExitStack() as scopes:
        scopes.enter_context(evaluating(module))
        scopes.enter_context(torch.no_grad())
        scopes.enter_context(known_searches())
        lengths = prompt_mask.sum(1).tolist()
        scopes.enter_context(_gathered(model.module))
        generation = scopes.enter_context(generating(lengths, model=module, roles=roles))
        if not with_controllers:
            scopes.enter_context(model.without_controllers())
        as_asked = settings.pop("return_dict_in_generate", None)
        due = model.layers.due()
        found = module.generate(**inputs, **settings, return_dict_in_generate=True)
        model.layers.report(due)
        sequences: Tensor = found.sequences
        search = generation.search
        search = search if search is not None and search.is_known else None
        if capturing():
            shared = as_asked or settings.get("past_key_values") is not None
            _run_the_rest(module, found, prompt_mask, search, shared=bool(shared))
    raw = found if as_asked else sequences
    real = None if search is None else search.real.to(sequences.device)
    if real is None:
        made = sequences[:, 0 if _is_encoder_decoder(module) else prompt_mask.shape[1] :]
        real = real_tokens(made, eos_ids(module, settings), padding)
    return _result(model, raw, sequences, prompt_mask, real)


def _run_the_rest(
    module: Any, found: Any, prompt_mask: Tensor, search: Search | None, *, shared: bool
) -> None:
    """Run what no step ran, so that open captures have each token of the final sequences.

    The last token goes after the others in the cache, or in a copy of one that is `shared` with
    the caller. Where the cache is of other rows, as after a search with beams, all is run once
    more without it; captures of everything are not, since they keep calls as they come.
    """
    sequences, past = found.sequences, getattr(found, "past_key_values", None)
    copies, rest = divmod(len(sequences), len(prompt_mask))
    if rest or _is_encoder_decoder(module):
        return
    beams = getattr(found, "beam_indices", None) is not None or _is(search, "beams")
    if beams and not (search is not None and search.layers):
        return
    ids = sequences
    cached = _is_one_behind(past, sequences.shape[1])
    if cached and not beams:
        ids = sequences[:, -1:]
    elif cached and search is not None and (last := search.last_of_slots) is not None:
        ids, copies = last, len(last) // len(prompt_mask)
    prompt = prompt_mask.repeat_interleave(copies, 0).to(sequences.device).long()
    new = sequences.shape[1] - prompt_mask.shape[1]
    mask = torch.cat([prompt, prompt.new_ones(len(prompt), new)], 1)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    positions = position_ids(module, mask)
    if positions is not None:
        inputs["position_ids"] = positions.to(sequences.device)[:, -ids.shape[1] :]
    if ids.shape[1] < sequences.shape[1]:
        past = copy.deepcopy(past) if shared else past
        _make_room(past)
        inputs |= {"past_key_values": past, "use_cache": True}
    else:
        inputs["use_cache"] = False
    with ExitStack() as scopes:
        if search is not None:
            scopes.enter_context(search.run_on(slots=beams and ids is not sequences))
        module(**model_inputs(module, inputs))


def _is(search: Search | None, kind: str) -> bool:
    return search is not None and search.text is not None and search.text.kind == kind


def _is_one_behind(cache: Any, length: int) -> bool:
    """Whether a cache holds all of so many tokens but the last."""
    try:
        return cache is not None and int(cache.get_seq_length()) == length - 1
    except (AttributeError, ValueError):  # a state, which does not say of how many
        return False


def _is_encoder_decoder(module: Any) -> bool:
    return bool(getattr(getattr(unwrapped(module), "config", None), "is_encoder_decoder", False))


def _make_room(cache: Any) -> None:
    """Have a static cache that is full, as it is when all is generated, hold one token more."""
    for layer in getattr(cache, "layers", ()):
        room = getattr(layer, "max_cache_len", None)
        if room is not None and int(layer.get_seq_length()) == room:
            layer.keys, layer.values = (
                pad(tensor, (0, 0, 0, 1)) for tensor in (layer.keys, layer.values)
            )
            layer.max_cache_len = room + 1


def _that_generates(module: nn.Module) -> nn.Module:
    """Return what generates: the module, or within wrappers the outermost that has a `generate`.

    Raises `ValueError` where there is none.
    """
    can = getattr(unwrapped(module), "can_generate", None)
    each: nn.Module | None = module
    while each is not None and not hasattr(type(each), "generate"):
        each = inside(each)
    if each is None or can is None or not can():
        raise ValueError(
            f"{type(unwrapped(module)).__name__} cannot generate text. Load a causal language "
            "model, whose config names an architecture that ends in ForCausalLM or LMHeadModel."
        )
    return each


def _gathered(module: nn.Module) -> AbstractContextManager[Any]:
    """Have all of what FSDP1 shards at the root: `generate` calls the model inside past it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    each: Any = module
    while each is not None:
        if fsdp is not None and isinstance(each, fsdp.FullyShardedDataParallel):
            found: AbstractContextManager[Any] = fsdp.FullyShardedDataParallel.summon_full_params(
                each, recurse=False, writeback=False
            )
            return found
        each = inside(each)
    return nullcontext()


def _settle_padding(model: TokenizedModel, settings: dict[str, Any]) -> int:
    """Return the id that finished rows are filled with; name one where nobody did."""
    module: Any = unwrapped(model.module)
    for config in (settings.get("generation_config"), getattr(module, "generation_config", None)):
        found = settings.get("pad_token_id", getattr(config, "pad_token_id", None))
        if found is not None:
            return int(found)
    settings["pad_token_id"] = pad_id(module, model.tokenizer)
    return int(settings["pad_token_id"])


def eos_ids(module: Any, settings: Mapping[str, Any]) -> set[int]:
    """Return the ids that end a row, as the settings of a generation or the model's own say."""
    configs = settings.get("generation_config"), getattr(unwrapped(module), "generation_config", {})
    found = settings.get("eos_token_id")
    for config in configs:
        found = getattr(config, "eos_token_id", None) if found is None else found
    if found is None:
        return set()
    return {int(id) for id in (found if isinstance(found, Sequence) else torch.as_tensor([found]))}


def _result(
    model: TokenizedModel, raw: Any, sequences: Tensor, prompt_mask: Tensor, real: Tensor
) -> Generation:
    """`real` says which tokens after the prompt are no filling."""
    if _is_encoder_decoder(model.module):
        prompt_mask = prompt_mask[:, :0]  # the prompt is the encoder's
        real = torch.cat([real.new_ones(len(real), sequences.shape[1] - real.shape[1]), real], 1)
    copies = sequences.shape[0] // prompt_mask.shape[0]
    prompt_mask = prompt_mask.repeat_interleave(copies, 0).to(sequences.device)
    mask = torch.cat([prompt_mask, real], 1)
    token_ids = [row[real].tolist() for row, real in zip(sequences, mask, strict=True)]
    lengths = prompt_mask.sum(1).tolist()
    decode = model.tokenizer.decode
    texts = [decode(ids, skip_special_tokens=True) for ids in token_ids]
    continuations = []
    for text, ids, length in zip(texts, token_ids, lengths, strict=True):
        prompt = decode(ids[:length], skip_special_tokens=True)
        found = text.startswith(prompt)  # not where a character is split between the two
        own = text[len(prompt) :] if found else decode(ids[length:], skip_special_tokens=True)
        continuations.append(own)
    return Generation(
        texts=texts,
        continuations=continuations,
        token_ids=token_ids,
        prompt_lengths=lengths,
        sequences=sequences,
        mask=mask,
        raw=raw,
    )
