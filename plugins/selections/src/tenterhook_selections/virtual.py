"""Tokens that stand before the text and are none of it: those that peft learns for a prompt.

peft gives the model inside embeddings with more columns than the text has (prompt and P-tuning), or
a cache that is not empty (prefix tuning). Only the wrapper knows how many they are.
"""

import sys
from types import FrameType
from typing import Any

from torch import nn

_NEAR = 16
"""How many frames up a wrapper's forward is looked for."""


def virtual_tokens(module: nn.Module, outer: nn.Module | None, call: FrameType) -> int:
    """Return how many virtual tokens a wrapper of peft puts before the text of this forward.

    `call` is Python's frame of the forward of `module`; `outer` is whose forward is around it.
    """
    if "peft" not in sys.modules:
        return 0
    if outer is not None:
        return learned_tokens(outer)
    frame = call.f_back
    for _ in range(_NEAR):
        if frame is None:
            return 0
        if frame.f_code.co_name == "forward":
            wrapper = frame.f_locals.get("self")
            if wrapper is not module and (found := learned_tokens(wrapper)):
                return found
        frame = frame.f_back
    return 0


def learned_tokens(wrapper: Any) -> int:
    """Return how many virtual tokens a model of peft has; 0 of anything else."""
    config = getattr(wrapper, "active_peft_config", None)
    if config is None or not getattr(config, "is_prompt_learning", False):
        return 0
    return int(getattr(config, "num_virtual_tokens", None) or 0)
