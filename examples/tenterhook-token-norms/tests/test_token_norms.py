import torch
from torch import nn

import tenterhook
from tenterhook.hooks import TokenNormDetector


def test_it_keeps_the_norm_of_each_token() -> None:
    """The norms are those of what the layer returned."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    hooked = tenterhook.attach(model)
    detector = TokenNormDetector()
    hooked.layers.register_hook("0", detector)
    inputs = torch.randn(2, 3, 4)

    hooked(inputs)

    torch.testing.assert_close(detector.norms, model[0](inputs).detach().norm(dim=-1))


def test_it_has_nothing_before_the_first_call() -> None:
    """A detector that has seen nothing says so."""
    assert TokenNormDetector().norms is None
