"""A small model with points."""

import pytest
import torch
from torch import Tensor, nn

from tenterhook_hook_points import HookedRootModule, HookPoint


class Block(nn.Module):
    """A residual block with points."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()
        self.linear = nn.Linear(4, 4)
        self.mlp = nn.ModuleDict({"hook_post": HookPoint()})

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `(..., 4)`."""
        pre = self.hook_resid_pre(x)
        added = self.mlp["hook_post"](self.linear(pre).tanh())
        result: Tensor = self.hook_resid_post(pre + added)
        return result


class Small(HookedRootModule):
    """Two blocks; returns `(batch, seq, 4)`, or their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.setup()

    def forward(self, x: Tensor, *, total: bool = False) -> Tensor:
        """Take and return `(..., 4)`; with `total` return one number."""
        x = self.hook_embed(x)
        for block in self.blocks:
            x = block(x)
        return x.sum() if total else x


@pytest.fixture
def model() -> Small:
    """Return the model, the same each time."""
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def x() -> Tensor:
    """Return an input of two rows, three positions, four features."""
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
