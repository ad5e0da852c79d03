"""A twin of a model: the same weights, modules and configs of its own, and nobody's hooks.

Names are proven by running the model. Run in the model itself, the hooks that stand there would
run too, detectors would count tokens that nobody gave, and other threads would meet a config that
is switched. The twin takes no memory but for its modules' dictionaries: parameters and buffers are
the model's own tensors. Where processes hold a part of each, they are put together for as long as
the twin is there: all processes are to ask for names at once, as they run the model at once.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


_WRAPPERS = {
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of modules that run another one, and where that is."""


class _Wrapper(nn.Module):
    """Stands for a wrapper in a twin: it runs what is inside, uncompiled and with no shards."""

    _inside: str

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self._modules[self._inside](*args, **kwargs)  # type: ignore[misc]


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Have the weights that FSDP holds in shards be whole while the block runs."""
    with ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__ == "FullyShardedDataParallel":
                wrapper: Any = type(module)
                stack.enter_context(
                    wrapper.summon_full_params(module, writeback=False, recurse=False)
                )
        yield


def _gathered(tensor: Any, known: dict[int, Any]) -> Any:
    """Return a tensor of `fully_shard` whole, once; others as they are."""
    gather = getattr(tensor, "full_tensor", None)
    if gather is None or not isinstance(tensor, Tensor):
        return tensor
    if id(tensor) not in known:
        known[id(tensor)] = nn.Parameter(gather().detach(), requires_grad=tensor.requires_grad)
    return known[id(tensor)]


def twin_of(model: nn.Module) -> nn.Module:
    """Return a twin in eval mode, which shares the model's tensors and nothing that changes."""
    found: dict[int, nn.Module] = {}
    configs: dict[int, Any] = {}
    gathered: dict[int, Any] = {}

    def twin(module: nn.Module) -> nn.Module:
        if id(module) in found:
            return found[id(module)]
        inside = _WRAPPERS.get(type(module).__name__)
        kind = type(module) if inside is None else _Wrapper
        new: nn.Module = object.__new__(kind)  # that of `fully_shard` makes a model
        found[id(module)] = new
        own = vars(new)
        own.update(vars(module))
        if inside is not None:
            own["_inside"] = inside
        for name in _HOOKS:
            own[name] = OrderedDict()
        for name in ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
            own[name] = OrderedDict()
        own["_forward_pre_hooks_with_kwargs"] = OrderedDict()
        for name in ("_parameters", "_buffers"):
            held = vars(module)[name].items()
            own[name] = {key: _gathered(tensor, gathered) for key, tensor in held}
        own["_modules"] = {
            name: None if child is None else twin(child) for name, child in module._modules.items()
        }
        own["training"] = False
        # What stands in the instance is somebody's detour, a scope's or accelerate's.
        own.pop("forward", None)
        own.pop("_compiled_call_impl", None)
        return new

    made = twin(model)
    for new in found.values():
        own = vars(new)
        for name, value in own.items():
            if isinstance(value, nn.Module) and id(value) in found:
                own[name] = found[id(value)]  # one that is kept beside `_modules`
            elif name != "_modules" and _is_config(value):
                own[name] = copy.deepcopy(value, configs)
    return made


def _is_config(value: Any) -> bool:
    return any(kind.__name__ == "PreTrainedConfig" for kind in type(value).__mro__)
