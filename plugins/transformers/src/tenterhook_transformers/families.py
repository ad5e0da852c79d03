"""What differs from one family of models to the next: context length, positions, inputs."""

import inspect
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "seq_length",
)
_FROM_IDS = "create_position_ids_from_input_ids"


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the model inside wrappers, the module itself where it is none.

    Known are `torch.compile`, peft, and whatever hands on all that it is given: DDP, FSDP, a
    wrapper of one's own.
    """
    while (inner := inside(module)) is not None:
        module = inner
    return module


def inside(wrapper: nn.Module) -> nn.Module | None:
    """Return what a wrapper hands its inputs on to; `None` of what is no wrapper."""
    own: Any = wrapper
    compiled: nn.Module | None = own._modules.get("_orig_mod")
    if compiled is not None or _is_pretrained(wrapper):
        return compiled
    base = getattr(type(wrapper), "get_base_model", None)
    if callable(base):
        found: nn.Module = own.get_base_model()
        return None if found is wrapper else found
    kind: Any = type(wrapper)
    if not _hands_on(kind):
        return None
    children = [child for child in dict.fromkeys(wrapper.children()) if _reads_text(child)]
    return children[0] if len(children) == 1 else None


def _reads_text(module: nn.Module) -> bool:
    kinds: set[Any] = set(map(type, module.modules()))
    return any("input_ids" in _parameters(kind) for kind in kinds)


def _is_pretrained(module: nn.Module) -> bool:
    source = sys.modules.get("transformers.modeling_utils")
    return source is not None and isinstance(module, source.PreTrainedModel)


@lru_cache(maxsize=1024)
def _hands_on(cls: Any) -> bool:
    """Whether a class's forward takes anything, by place and by name."""
    kinds = {each.kind for each in inspect.signature(cls.forward).parameters.values()}
    of_any = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return "input_ids" not in _parameters(cls) and of_any <= kinds


@lru_cache(maxsize=1024)
def _parameters(cls: Any) -> frozenset[str]:
    return frozenset(inspect.signature(cls.forward).parameters)


def takes(module: nn.Module, name: str) -> bool:
    """Whether the model's forward has a parameter of this name."""
    kind: Any = type(unwrapped(module))
    return name in _parameters(kind)


def model_inputs(module: nn.Module, encodings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a tokenizer's results that the model's forward takes."""
    return {name: value for name, value in encodings.items() if takes(module, name)}


def raise_of_two_sequences(module: nn.Module, error: Exception) -> None:
    """Raise `ValueError` where a forward failed with `error` for want of the decoder's tokens."""
    if takes(module, "decoder_input_ids"):
        name = type(unwrapped(module)).__name__
        raise ValueError(
            f"{name} is an encoder-decoder model, and texts are the encoder's tokens alone: "
            f"{error} Use lm.generate(texts), or call "
            "lm(**lm.tokenize(texts), decoder_input_ids=...)."
        ) from error


def text_config(module: nn.Module) -> Any:
    """Return the config, of a model of several modalities that of its text part; `None` if none."""
    config = getattr(unwrapped(module), "config", None)
    part = getattr(config, "get_text_config", None)
    return part() if callable(part) else config


def max_tokens(module: nn.Module, tokenizer: Any) -> int | None:
    """Return the longest document one forward takes, in tokens; `None` where nothing limits it.

    It is the config's; the tokenizer's where the config says nothing and the tokenizer's number
    is meant (many give 10 ** 30).
    """
    config = text_config(module)
    for name in _LENGTHS:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length - _positions_before_the_first(module, config)
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length is not None and 0 < length < 1_000_000_000 else None


def vocabulary_size(module: nn.Module) -> int | None:
    """Return how many tokens the model has embeddings of; `None` where it does not say."""
    inner: Any = unwrapped(module)
    try:
        embedding = inner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    count = getattr(embedding, "num_embeddings", None)
    return count if isinstance(count, int) else None


def has_fixed_positions(module: nn.Module) -> bool:
    """Whether the model fails beyond its `max_tokens`; with rotary positions it goes on."""
    config = text_config(module)
    return not (getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None))


def _positions_before_the_first(module: nn.Module, config: Any) -> int:
    """Return how many rows of the position table no token uses: RoBERTa's begin after padding."""
    if not positions_from_ids(module):
        return 0
    padding = getattr(config, "pad_token_id", None)
    return 0 if padding is None else int(padding) + 1


def positions_from_ids(module: nn.Module) -> bool:
    """Whether the model counts positions from the ids, skipping padding, as RoBERTa does."""
    root = unwrapped(module)
    source = sys.modules.get(type(root).__module__)
    return hasattr(source, _FROM_IDS) or any(
        hasattr(type(inner), _FROM_IDS) for inner in root.modules()
    )


def position_ids(module: nn.Module, mask: Tensor) -> Tensor | None:
    """Return the positions the model has to be told of, int64 `(batch, seq)`; `None` if none.

    With padding on the left, models that count from the first column would see each row at other
    positions than alone. `mask` is 1 at real tokens.
    """
    if bool((mask[:, 0] != 0).all()) or not takes(module, "position_ids"):
        return None
    if positions_from_ids(module):
        return None
    return (mask.to(torch.int64).cumsum(-1) - 1).clamp(min=0)


def pad_id(module: nn.Module, tokenizer: Any) -> int:
    """Return the id that stands in padded places: the tokenizer's or config's, else any.

    Padding is masked, so which id it is makes no difference to real tokens.
    """
    config = text_config(module)
    for owner, name in (
        (tokenizer, "pad_token_id"),
        (config, "pad_token_id"),
        (tokenizer, "eos_token_id"),
    ):
        found = getattr(owner, name, None)
        if isinstance(found, int) and found >= 0:
            return found
    return 0
