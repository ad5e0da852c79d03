"""A twin of a model: the same weights, modules and configs of its own, and nobody's hooks.

Names are proven by running the model. Run in the model itself, the hooks that stand there would
run too, detectors would count tokens that nobody gave, and other threads would meet a config that
is switched. The twin takes no memory but for its modules' dictionaries: parameters and buffers are
the model's own tensors.
"""

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


def twin_of(model: nn.Module) -> nn.Module:
    """Return a twin in eval mode, which shares the model's tensors and nothing that changes."""
    found: dict[int, nn.Module] = {}
    configs: dict[int, Any] = {}

    def twin(module: nn.Module) -> nn.Module:
        if id(module) in found:
            return found[id(module)]
        new = found[id(module)] = module.__class__.__new__(module.__class__)
        own = vars(new)
        own.update(vars(module))
        for name in _HOOKS:
            own[name] = OrderedDict()
        for name in ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
            own[name] = OrderedDict()
        own["_forward_pre_hooks_with_kwargs"] = OrderedDict()
        own["_parameters"], own["_buffers"] = dict(module._parameters), dict(module._buffers)
        own["_modules"] = {
            name: None if child is None else twin(child) for name, child in module._modules.items()
        }
        own["training"] = False
        # What stands in the instance is somebody's detour, a scope's or accelerate's.
        own.pop("forward", None)
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
