"""`tenterhook.compiling`: hooks that plugins put on modules themselves."""

import subprocess
import sys

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


def test_nothing_compiled() -> None:
    """Where nothing is compiled it says so, and does not import the compiler."""
    code = (
        "import sys; from tenterhook.compiling import hooks_changed; "
        "print(hooks_changed(), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
