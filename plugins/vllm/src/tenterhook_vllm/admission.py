"""Where requests come into vLLM: what they ask for is checked, and their cache is kept apart.

Runs in the process that takes requests, before the engine has heard of them: what is raised here
reaches whoever asked, over HTTP with status 400.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tenterhook_specs import BadSpec
from tenterhook_vllm.engine_steps import KEY
from tenterhook_vllm.families import widths_of
from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.refusals import family_for
from tenterhook_vllm.request_specs import read_request
from tenterhook_vllm.served_runs import STORE, store_of

ID = "tenterhook_id"
"""Under which a request has, in its `extra_args`, what its answer is asked for by."""

NAME = "tenterhook_name"
"""Under which it has there what it was called when it came; the engine adds letters to it."""


def points_for(config: Any) -> ServedPoints:
    """Return the points of an engine of this `VllmConfig`. Raises what `family_for` raises."""
    model = config.model_config
    dtype = model.dtype if isinstance(model.dtype, torch.dtype) else torch.float32
    return ServedPoints(widths_of(model.hf_text_config, family_for(config)), dtype)


NO_STORE = (
    "run: this server was started without a store; start it with --additional-config "
    f"""'{{"{STORE}": "FOLDER"}}', or leave it out and take the rows with the answer"""
)


class Admission:
    """Checks the requests to one engine, whose points are looked up once."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._points: ServedPoints | None = None

    def admit(self, request: Any) -> None:
        """Check what a request asks for, and salt its part of the prefix cache.

        `request` is an `EngineCoreRequest`; one that asks for nothing is left alone. Raises
        `BadSpec` for what it says, `UnsupportedVllm` and `UnsupportedModel` for an engine that
        cannot do it.
        """
        params = request.sampling_params
        extra = None if params is None else params.extra_args
        if not extra or extra.get(KEY) is None:
            return
        if self._points is None:
            self._points = points_for(self._config)
        if request.prompt_embeds is not None or request.mm_features:
            raise BadSpec(["the prompt holds more than token ids: which token is which is unknown"])
        spec = read_request(extra[KEY], self._points)
        if params.prompt_logprobs is not None and any(c.point == "logits" for c in spec.changes):
            raise BadSpec(["prompt_logprobs are those of unchanged logits; leave them out"])
        if spec.run and store_of(self._config) is None:
            raise BadSpec([NO_STORE])
        if spec.capture:  # answers of one request share its salt, and so would share its rows
            skip_cached_prefix(params)
        # A table of the request's own: the caller may use these parameters for other requests.
        params.extra_args = {ID: request.request_id, **extra, NAME: request.request_id}
        salt = spec.salt(prompt_of(request))
        if salt is not None:
            request.cache_salt = salt if not request.cache_salt else f"{request.cache_salt}:{salt}"


def prompt_of(request: Any) -> Sequence[int]:
    """Return the ids of a request's prompt."""
    return [int(id) for id in request.prompt_token_ids or ()]


def skip_cached_prefix(params: Any) -> None:
    """Have no answer of a request take tokens from the prefix cache, where they have no rows.

    Raises `BadSpec` for several answers where this vLLM cannot do that.
    """
    if hasattr(params, "skip_reading_prefix_cache"):
        params.skip_reading_prefix_cache = True
    elif (params.n or 1) > 1:
        raise BadSpec(
            [f"n={params.n}: answers share their prompt's rows in this vLLM; send {params.n} calls"]
        )
