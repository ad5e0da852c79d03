"""The loader of `vllm:`: a model that vLLM runs, as captures take any other.

A name is a model's on the hub or its folder, and after a `?` what the engine is to be started with:
`vllm:Qwen/Qwen3-8B?max_model_len=4096&gpu_memory_utilization=0.8`.
"""

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

import torch

from tenterhook.errors import closest
from tenterhook_vllm.engine_errors import BadEngineOption
from tenterhook_vllm.engine_model import EngineModel
from tenterhook_vllm.joins import register
from tenterhook_vllm.refusals import family_for

OURS: Mapping[str, str] = {
    "model": "it is what stands before the '?'",
    "dtype": "give it as dtype= or --dtype",
    "revision": "give it as revision= or --revision",
    "enforce_eager": "it is always on, since hooks do not run inside compiled graphs",
    "enable_prefix_caching": "it is always off, since a token from the cache has no rows",
    "async_scheduling": "it is always off, so that no token runs after a text has ended",
}
"""Options of the engine that a name may not have, and why."""

CACHED_TEXTS = 8
"""On a processor, the engine's cache has room for so many of the longest texts."""

LEAST_CACHE = 1 << 28

_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
"""What vLLM reads when it is imported; its log would stand among the results on stdout."""


def load(
    name: str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    **options: Any,
) -> EngineModel:
    """Start an engine of vLLM in this process, and return its model for captures.

    `options` are the engine's, `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`
    and so on, beside those in the name. `device` is what vLLM was built for; another is refused.
    Raises `NoVllm`, an `ImportError`; `BadEngineOption`, `UnsupportedModel` (each a `ValueError`);
    `UnsupportedVllm`; and what vLLM raises.
    """
    place, _, said = name.partition("?")
    given = {**_said(said), **options}
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    register()
    _check_options(given)
    vllm: Any = import_module("vllm")
    text = _text_side(place, revision, given)
    longest = text.max_tokens
    given.setdefault("max_model_len", None if longest is None else longest + 1)
    given.setdefault("use_tqdm_on_load", False)
    given = {key: value for key, value in given.items() if value is not None}
    if _platform() == "cpu":
        given.setdefault("kv_cache_memory_bytes", _cache_bytes(text.module.config, given))
    _check_device(device)
    with _in_this_process():
        llm = vllm.LLM(
            place,
            dtype=_dtype(dtype, text.module.config),
            revision=revision,
            enforce_eager=True,
            enable_prefix_caching=False,
            async_scheduling=False,
            **given,
        )
    family_for(llm.llm_engine.vllm_config)
    return EngineModel(llm, text, name=name)


def _said(said: str) -> dict[str, Any]:
    """Return the options in a name: numbers, true and false as JSON has them, else text."""
    found = {}
    for key, value in parse_qsl(said, keep_blank_values=True):
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _check_options(given: Mapping[str, Any]) -> None:
    arguments: Any = import_module("vllm.engine.arg_utils").EngineArgs
    known = inspect.signature(arguments).parameters
    for key in given:
        if key in OURS:
            raise BadEngineOption(key, OURS[key])
        if key not in known:
            close = closest(key, list(known), 1)
            raise BadEngineOption(key, f"did you mean {close[0]!r}?" if close else "vLLM has none")


def _text_side(place: str, revision: str | None, given: Mapping[str, Any]) -> Any:
    """Return the model of transformers without its weights: what tells tokens, as everywhere."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tenterhook_transformers import LanguageModel
    from tenterhook_transformers.pretrained import load_tokenizer

    trusted = bool(given.get("trust_remote_code", False))
    shared: dict[str, Any] = {"trust_remote_code": trusted}
    if revision is not None:
        shared["revision"] = revision
    config = AutoConfig.from_pretrained(place, **shared)
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        module = auto.from_config(config, trust_remote_code=trusted)
    tokenizer = load_tokenizer(str(given.get("tokenizer") or place), required=False, **shared)
    return LanguageModel(module, tokenizer, model_id=f"vllm:{place}", revision=revision)


def _platform() -> str:
    platforms: Any = import_module("vllm.platforms")
    return str(platforms.current_platform.device_type)


def _check_device(device: torch.device | str | None) -> None:
    if device is not None and torch.device(device).type != _platform():
        raise BadEngineOption("device", f"this vLLM runs on {_platform()!r} alone; leave it out")


def _dtype(dtype: torch.dtype | str | None, config: Any) -> str:
    """Return the dtype as vLLM has it; the checkpoint's own unless another is asked for.

    By itself vLLM computes a checkpoint of float32 in bfloat16.
    """
    wanted = getattr(config, "dtype", None) if dtype in (None, "auto") else dtype
    return "auto" if wanted is None else str(wanted).removeprefix("torch.")


def _cache_bytes(config: Any, given: Mapping[str, Any]) -> int:
    """Return room for a few of the longest texts; vLLM would take most of the machine's memory."""
    text = config.get_text_config()
    heads: Any = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width: Any = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * int(text.num_hidden_layers) * int(heads) * int(width) * 4
    most: Any = given.get("max_model_len") or getattr(text, "max_position_embeddings", 2048)
    return max(LEAST_CACHE, CACHED_TEXTS * token * int(most))


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Have vLLM start no process of its own, and allow one token more than the model's longest.

    That one is sampled and never runs: a text as long as the model takes is captured whole.
    """
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
