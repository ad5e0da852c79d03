"""What made the activations: a model, its adapters and its tokenizer, in plain JSON values."""

import functools
import hashlib
import json
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from torch import nn

from tenterhook_transformers.adapters import describe_adapters
from tenterhook_transformers.families import unwrapped
from tenterhook_transformers.weights import (
    buffers_fingerprint,
    of_all_stages,
    packed_dtypes,
    weights_fingerprint,
)

_PACKAGES = ("tenterhook", "tenterhook-transformers", "torch", "transformers", "tokenizers")
_NOT_THE_MODEL = ("_name_or_path", "transformers_version", "distributed_config")


def describe(
    module: nn.Module, tokenizer: Any, *, name: str, revision: str | None
) -> dict[str, Any]:
    """Describe a model; see `TextModel.describe_model`.

    The same weights, config and tokenizer give the same values on every machine, but for `device`
    and `versions`.
    """
    inner = unwrapped(module)
    with ThreadPoolExecutor(1) as pool:  # hashing lets go of the interpreter
        weights = pool.submit(weights_fingerprint, inner)
        tokenizer_hash = None if tokenizer is None else tokenizer_fingerprint(tokenizer)
    dtypes = {t.dtype for t in inner.parameters() if t.is_floating_point()}
    dtypes |= packed_dtypes(inner)
    return {
        "name": name,
        "revision": getattr(getattr(inner, "config", None), "_commit_hash", None) or revision,
        "class": _class_name(inner),
        "config": _config(inner),
        "attention": getattr(getattr(inner, "config", None), "_attn_implementation", None),
        "weights": weights.result(),
        "buffers": buffers_fingerprint(inner),
        "adapters": describe_adapters(module),
        "parameters": _count(inner),
        "tokenizer": None
        if tokenizer is None
        else {
            "class": type(tokenizer).__qualname__,
            "fingerprint": tokenizer_hash,
            "padding_side": getattr(tokenizer, "padding_side", None),
        },
        "dtype": ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
        "device": ", ".join(sorted({str(t.device) for t in inner.parameters()})),
        "versions": dict(_versions()),
    }


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return the sha256 of what a tokenizer does to text: not of how it pads or truncates."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
    else:
        content = {
            "vocabulary": tokenizer.get_vocab(),
            "settings": {k: repr(v) for k, v in getattr(tokenizer, "init_kwargs", {}).items()},
        }
    content = [type(tokenizer).__qualname__, content, sorted(_special(tokenizer).items())]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _class_name(module: nn.Module) -> str:
    """Return the model's class; FSDP2 makes a subclass of each that it shards."""
    kind = type(module)
    if kind.__name__.startswith("FSDP") and kind.__bases__[0].__name__ == "FSDPModule":
        kind = kind.__bases__[1]
    return f"{kind.__module__}.{kind.__qualname__}"


def _count(module: nn.Module) -> int:
    """Return how many numbers the parameters are, tied ones once.

    Offloading takes tied parameters for two: each has its own on the meta device.
    """
    found = dict(module.named_parameters())
    tied = getattr(module, "all_tied_weights_keys", None) or {}
    twice = {
        name
        for name in found
        if (other := found.get(tied.get(name, ""))) is not None
        and (found[name].is_meta or other.is_meta)
    }
    sizes = {name: each.numel() for name, each in found.items() if name not in twice}
    return sum(of_all_stages(module, sizes).values())


def _special(tokenizer: Any) -> dict[str, str]:
    return {k: str(v) for k, v in getattr(tokenizer, "special_tokens_map", {}).items()}


def _config(module: nn.Module) -> dict[str, Any] | None:
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_json_string"):
        return None
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    found: dict[str, Any] = _without(values)
    return found


def _without(values: Any) -> Any:
    """Return a config without where it was loaded from and by which version, parts included."""
    if isinstance(values, dict):
        return {k: _without(v) for k, v in values.items() if k not in _NOT_THE_MODEL}
    return values


@functools.cache  # looking them up takes as long as a small forward
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
