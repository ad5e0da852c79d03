"""What made the activations: a model and its tokenizer, in plain JSON values."""

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook_transformers.families import unwrapped

THREADS = 16
"""Tensors hashed at once, at most: each is copied where it is not in memory of the CPU."""

_PACKAGES = ("tenterhook", "tenterhook-transformers", "torch", "transformers", "tokenizers")
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")


def describe(
    module: nn.Module, tokenizer: Any, *, name: str, revision: str | None
) -> dict[str, Any]:
    """Describe a model; see `TextModel.describe_model`.

    The same weights, config and tokenizer give the same values on every machine, but for `device`
    and `versions`.
    """
    inner = unwrapped(module)
    tensors = _tensors(inner)
    with ThreadPoolExecutor(1) as pool:  # hashing lets go of the interpreter
        weights = pool.submit(_fingerprint, tensors)
        tokenizer_hash = None if tokenizer is None else tokenizer_fingerprint(tokenizer)
    dtypes = {t.dtype for t in inner.parameters() if t.is_floating_point()}
    return {
        "name": name,
        "revision": getattr(getattr(inner, "config", None), "_commit_hash", None) or revision,
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "config": _config(inner),
        "attention": getattr(getattr(inner, "config", None), "_attn_implementation", None),
        "weights": weights.result(),
        "parameters": sum(parameter.numel() for parameter in inner.parameters()),
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


def weights_fingerprint(module: nn.Module) -> str | None:
    """Return the sha256 of all weights: names, dtypes, shapes and every byte.

    Computed at each call, for a weight can change without torch's knowing (`.data`); a model of
    1 GB takes about a second. `None` where weights are not in memory (the meta device).
    """
    return _fingerprint(_tensors(module))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}


def _fingerprint(tensors: Mapping[str, Tensor]) -> str | None:
    if any(tensor.is_meta for tensor in tensors.values()):
        return None
    return _hash(tensors)


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


def _special(tokenizer: Any) -> dict[str, str]:
    return {k: str(v) for k, v in getattr(tokenizer, "special_tokens_map", {}).items()}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors side by side (hashing lets go of the interpreter), tied ones once."""
    places = {
        name: (t.data_ptr(), t.shape, t.stride(), t.dtype) if t.numel() else name
        for name, t in tensors.items()
    }
    once = {place: tensors[name] for name, place in places.items()}
    # The largest first, so that none is left for one thread while the others have no more to do.
    once = dict(sorted(once.items(), key=lambda item: -item[1].numel() * item[1].element_size()))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        digests = dict(zip(once, pool.map(_digest, once.values()), strict=True))
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        total.update(digests[places[name]])
    return total.hexdigest()


def _digest(tensor: Tensor) -> bytes:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return hashlib.sha256(repr(tensor).encode()).digest()
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).digest()


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
