"""`tenterhook.compiling`: hooks that plugins put on modules themselves."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tenterhook.compiling import hooks_changed


def test_a_later_hook_counts() -> None:
    """Compiled code sees a torch hook that came after, and that it went."""
    torch._dynamo.reset()
    net = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager")
        plain = compiled(x)
        assert hooks_changed()
        handle = net.register_forward_hook(lambda module, args, output: output * 2)
        assert torch.equal(compiled(x), plain * 2)
        hooks_changed()
        handle.remove()
        assert torch.equal(compiled(x), plain)


@pytest.mark.parametrize("imported", ["sys", "torch._dynamo"])
def test_nothing_compiled(imported: str) -> None:
    """Where nothing is compiled it says so, and does not import the compiler.

    Nor where somebody has imported the compiler, as transformers does.
    """
    code = (
        f"import sys, {imported}; from tenterhook.compiling import hooks_changed; "
        "print(hooks_changed(), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"False {imported == 'torch._dynamo'}\n", done.stderr
