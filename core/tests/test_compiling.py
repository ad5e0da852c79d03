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


ANOTHER = """
import sys, {imported}
import torch
from torch import nn
import tenterhook

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)
    def forward(self, x):
        return self.line(x)

hooked, other, x = Block(), Block(), torch.ones(1, 2)
model = tenterhook.attach(hooked)
if {scoped}:
    scope = model.steer("line", torch.zeros_like)
    scope.__enter__()
else:
    class Zero(tenterhook.hooks.Controller):
        def modify_activations(self, module, inputs, output):
            return torch.zeros_like(output)
    model.layers.register_hook("line", Zero())
first, second = (torch.compile(each, backend="eager") for each in (other, hooked))
with torch.no_grad():
    print(torch.equal(first(x), other(x)), second(x).tolist())
"""


@pytest.mark.matrix(sample=2)
@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("imported", ["tenterhook.hooks", "torch._dynamo"])
def test_another_of_the_class(imported: str, scoped: bool) -> None:
    """What another model of the class was compiled to is not taken for one that has a hook.

    Whether the compiler was imported before the hook came, or after.
    """
    code = ANOTHER.format(imported=imported, scoped=scoped)
    if imported != "tenterhook.hooks":
        code = f"import tenterhook.hooks{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True [[0.0, 0.0]]\n", done.stdout + done.stderr
