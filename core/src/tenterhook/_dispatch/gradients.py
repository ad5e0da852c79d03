"""Hooks on the gradient of what a module returned.

torch has no hook for "the gradient with respect to this module's output": its full backward hooks
wrap inputs and outputs in views, which in-place modules then break. So the hook is put on the
output's own tensor, where that has a node of its own in autograd's graph, and on a node made for
the purpose where it has none (an input handed through, a leaf, a view). The order of events:

1. The module returns. `watch_gradient` finds the activation, and gives it a node if it must.
2. One tensor hook is registered on it, for all entries, so that they run in their order and each
   sees what the one before it made of the gradient.
3. `backward()` comes by, perhaps long after: entries whose scope has closed meanwhile (`live` is
   false) and hooks that were disabled are passed over.

The node is made only where it is needed, and takes no memory: it shares the tensor's. A leaf alone
is copied, for nobody may write to that.
`test_dispatch_gradients.py` holds this to bare tensor hooks, views, leaves and in-place modules.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling as tracing

from tenterhook._dispatch.entries import Args, Entry, Kwargs
from tenterhook.activations import activation_of, replace, tensors_in


def watch_gradient(
    entries: Sequence[Entry], module: nn.Module, args: Args, kwargs: Kwargs, output: Any
) -> Any:
    """Have `entries` run, in order, when the gradient of the output's activation is known.

    Returns a new output where the activation had to be given a node of its own in the graph, else
    `None`. An output that is an input, a leaf or a view shares its node, or loses it to a later
    in-place module, so its hook would see the gradient of more, or of nothing. The new output is
    the same memory, but for a leaf, which nobody may write to.
    """
    tensor = activation_of(output)
    if tensor is None or not tensor.requires_grad or not torch.is_grad_enabled():
        return None
    own = tensor
    if tensor.is_leaf or tracing():  # what shares its node cannot be told in a trace
        own = tensor.clone()
    elif tensor._is_view() or any(tensor is each for each in tensors_in(*args, *kwargs.values())):
        own = _OwnNode.apply(tensor)  # type: ignore[no-untyped-call]

    watching = [(each, each.noted(module, args, kwargs, tensor)) for each in entries]

    def run(grad: Tensor) -> Tensor | None:
        # Runs in whichever thread calls backward. What a hook may do is asked of the entry, not of
        # that thread's scopes: those that were open in the forward count.
        # `test_other_threads_backward`, `test_scope_closed`.
        new = grad
        for entry, noted in watching:
            if entry.live and entry.hook._enabled:
                changed = entry.gradient(module, new, noted)
                new = new if changed is None else changed
        return None if new is grad else new

    own.register_hook(run)  # type: ignore[no-untyped-call]
    return None if own is tensor else replace(output, own)


class _OwnNode(torch.autograd.Function):
    """The same tensor with a node of its own, no view of it: in-place modules leave hooks alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)
