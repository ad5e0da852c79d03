"""Text that a model goes on with, hooks active on every step."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from tenterhook.activity import capturing
from tenterhook_selections import generating
from tenterhook_transformers.encoding import encode
from tenterhook_transformers.evaluating import evaluating
from tenterhook_transformers.families import pad_id, position_ids, unwrapped
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
    **settings: Any,
) -> Generation:
    """Go on with the prompts; see `LanguageModel.generate`.

    Raises `ValueError` for a model that cannot generate, `EmptyText`, `TooLong`, `HookError`.
    """
    module: Any = model.module
    _check_generates(module)
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
        scopes.enter_context(generating(prompt_mask.sum(1).tolist(), model=module))
        if not with_controllers:
            scopes.enter_context(model.without_controllers())
        as_asked = settings.pop("return_dict_in_generate", None)
        due = model.layers.due()
        found = module.generate(**inputs, **settings, return_dict_in_generate=True)
        model.layers.report(due)
        sequences: Tensor = found.sequences
        if capturing():
            _run_last_token(module, found, prompt_mask)
    raw = found if as_asked else sequences
    return _result(model, raw, sequences, prompt_mask, _eos_ids(module, settings), padding)


def _run_last_token(module: Any, found: Any, prompt_mask: Tensor) -> None:
    """Run what no step ran, so that open captures have each token of the final sequences.

    Not after a search with beams: what its steps saw is in the order of beams that came and went.
    """
    sequences, past = found.sequences, getattr(found, "past_key_values", None)
    length = getattr(past, "get_seq_length", lambda: 0)()
    copies, rest = divmod(len(sequences), len(prompt_mask))
    beams = getattr(found, "beam_indices", None) is not None
    if rest or beams or length not in (0, sequences.shape[1] - 1) or length == sequences.shape[1]:
        return
    if getattr(getattr(unwrapped(module), "config", None), "is_encoder_decoder", False):
        return
    new = sequences.shape[1] - prompt_mask.shape[1]
    prompt = prompt_mask.repeat_interleave(copies, 0).to(sequences.device).long()
    mask = torch.cat([prompt, prompt.new_ones(len(prompt), new)], 1)
    inputs: dict[str, Any] = {"input_ids": sequences[:, length:], "attention_mask": mask}
    positions = position_ids(module, mask)
    if positions is not None:
        inputs["position_ids"] = positions.to(sequences.device)[:, length:]
    if length:
        _make_room(past)
        inputs |= {"past_key_values": past, "use_cache": True}
    else:
        inputs["use_cache"] = False
    module(**inputs)


def _make_room(cache: Any) -> None:
    """Have a static cache that is full, as it is when all is generated, hold one token more."""
    for layer in getattr(cache, "layers", ()):
        room = getattr(layer, "max_cache_len", None)
        if room is not None and int(layer.get_seq_length()) == room:
            layer.keys, layer.values = (
                pad(tensor, (0, 0, 0, 1)) for tensor in (layer.keys, layer.values)
            )
            layer.max_cache_len = room + 1


def _check_generates(module: Any) -> None:
    can = getattr(unwrapped(module), "can_generate", None)
    if can is None or not can():
        raise ValueError(
            f"{type(unwrapped(module)).__name__} cannot generate text. Load a causal language "
            "model, whose config names an architecture that ends in ForCausalLM or LMHeadModel."
        )


def _settle_padding(model: TokenizedModel, settings: dict[str, Any]) -> int:
    """Return the id that finished rows are filled with; name one where nobody did."""
    module: Any = unwrapped(model.module)
    for config in (settings.get("generation_config"), getattr(module, "generation_config", None)):
        found = settings.get("pad_token_id", getattr(config, "pad_token_id", None))
        if found is not None:
            return int(found)
    settings["pad_token_id"] = pad_id(module, model.tokenizer)
    return int(settings["pad_token_id"])


def _eos_ids(module: Any, settings: Mapping[str, Any]) -> set[int]:
    """Return the ids that end a row."""
    configs = settings.get("generation_config"), getattr(unwrapped(module), "generation_config", {})
    found = settings.get("eos_token_id")
    for config in configs:
        found = getattr(config, "eos_token_id", None) if found is None else found
    if found is None:
        return set()
    return {int(id) for id in (found if isinstance(found, Sequence) else torch.as_tensor([found]))}


def _result(
    model: TokenizedModel,
    raw: Any,
    sequences: Tensor,
    prompt_mask: Tensor,
    eos: set[int],
    padding: int,
) -> Generation:
    if getattr(getattr(unwrapped(model.module), "config", None), "is_encoder_decoder", False):
        prompt_mask = prompt_mask[:, :0]  # the prompt is the encoder's
    copies = sequences.shape[0] // prompt_mask.shape[0]
    prompt_mask = prompt_mask.repeat_interleave(copies, 0).to(sequences.device)
    width = prompt_mask.shape[1]
    mask = torch.cat([prompt_mask, _real(sequences[:, width:], eos, padding)], 1)
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


def _real(generated: Tensor, eos: set[int], padding: int) -> Tensor:
    """Return which generated tokens are no filling: a row ends with its first `eos`, if any."""
    real = torch.ones_like(generated, dtype=torch.bool)
    if eos:
        ends = torch.isin(generated, torch.tensor(sorted(eos), device=generated.device))
        real = (ends.cumsum(1) - ends.int()) == 0
    if padding not in eos:  # rows that ended otherwise, by a stop string
        real &= (generated != padding).flip(1).cumsum(1).flip(1) > 0
    return real
