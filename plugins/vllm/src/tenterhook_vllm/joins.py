"""The two places where this plugin joins vLLM, which calls `register` in each of its processes.

vLLM has an entry point for plugins, `vllm.general_plugins`, and calls what stands there in the
process that takes requests, in the engine's and in every worker's, before it makes any of its own
objects. What is joined, in memory and in no file:

- `InputProcessor.process_inputs`, through which every request passes once, offline and over HTTP:
  what it returns is checked and salted (`admission`).
- `WorkerWrapperBase.initialize_from_config`, the last step of a worker's start, after which its
  model stands and memory is measured: there `worker_side` looks at the model runner and tries a
  token. The same class gains `tenterhook_take`, for `collective_rpc`.

A vLLM that has not these, or has them otherwise, is refused by name when it starts. To start it
without this plugin, set `VLLM_PLUGINS` to the names of others, or to nothing.
"""

import functools
import inspect
from importlib import import_module
from typing import Any

from tenterhook_vllm.engine_errors import NoVllm, UnsupportedVllm
from tenterhook_vllm.refusals import version

_JOINED = "_tenterhook_joined"

PROCESSOR = "vllm.v1.engine.input_processor", "InputProcessor", "process_inputs"
WORKER = "vllm.v1.worker.worker_base", "WorkerWrapperBase", "initialize_from_config"


def register() -> None:
    """Join this process's vLLM; a second call does nothing.

    Raises `UnsupportedVllm` where it has not what is joined, `NoVllm` where there is none.
    """
    processor, process_inputs = _place(PROCESSOR, {"request_id", "prompt", "params"})
    wrapper, initialize = _place(WORKER, {"kv_cache_configs"})
    if getattr(processor, _JOINED, False):
        return

    @functools.wraps(process_inputs)
    def admitting(self: Any, *args: Any, **kwargs: Any) -> Any:
        from tenterhook_vllm.admission import Admission

        request = process_inputs(self, *args, **kwargs)
        if not hasattr(self, "_tenterhook"):
            self._tenterhook = Admission(self.vllm_config)
        try:
            self._tenterhook.admit(request)
        except (ValueError, NotImplementedError) as error:
            raise _of_the_client(error) from error
        return request

    @functools.wraps(initialize)
    def beginning(self: Any, *args: Any, **kwargs: Any) -> Any:
        from tenterhook_vllm.worker_side import begin

        result = initialize(self, *args, **kwargs)
        self._tenterhook = begin(self.worker)
        return result

    def tenterhook_take(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what requests that have ended were given, and changed; see `WorkerSide.take`."""
        return self._tenterhook.take(*args, **kwargs)

    processor.process_inputs = admitting
    wrapper.initialize_from_config = beginning
    wrapper.tenterhook_take = tenterhook_take
    setattr(processor, _JOINED, True)


def _of_the_client(error: Exception) -> Exception:
    """Return an error that vLLM's server answers with status 400, and that is a `ValueError`.

    Any other is an error of the server's to it, with status 500 and no text.
    """
    client: Any = getattr(import_module("vllm.exceptions"), "VLLMClientError", None)
    if client is None:
        return error
    kind: Any = type("RefusedRequest", (client, ValueError), {})
    refused: Exception = kind(str(error))
    return refused


def _place(where: tuple[str, str, str], parameters: set[str]) -> tuple[Any, Any]:
    module_name, class_name, method_name = where
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == "vllm":
            raise NoVllm(str(error)) from error
        raise UnsupportedVllm([f"it has no module {module_name}"], version()) from error
    found = getattr(module, class_name, None)
    method = getattr(found, method_name, None)
    if method is None:
        missing = f"it has no {module_name}.{class_name}.{method_name}"
        raise UnsupportedVllm([missing], version())
    lacking = parameters - inspect.signature(method).parameters.keys()
    if lacking and not getattr(found, _JOINED, False):
        missing = f"{class_name}.{method_name} takes no {', '.join(sorted(lacking))}"
        raise UnsupportedVllm([missing], version())
    return found, method
