"""What the tests of taps share: small models, and a compiler that has compiled nothing yet."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Begin each test as a process that has compiled nothing and never met a hook."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    config.skip_nnmodule_hook_guards = True
    yield
    torch._dynamo.reset()
