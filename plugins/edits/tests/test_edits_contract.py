from collections.abc import Callable

import pytest
import torch

from tenterhook.hooks import Controller
from tenterhook.testing.hooks import WIDTH, ControllerContract
from tenterhook_edits import AddVector, Clamp, MeanAblate, Patch, ProjectOut, Scale, ZeroAblate

UP = torch.arange(1.0, WIDTH + 1)
EDITS: dict[str, Callable[[], Controller]] = {
    "AddVector": lambda: AddVector("inner", UP, 0.5, normalize=True),
    "AddVector of some features": lambda: AddVector("inner", UP, features="2:5"),
    "AddVector before": lambda: AddVector("inner", UP, hook_type="pre_forward"),
    "Clamp": lambda: Clamp("inner", -0.1, 0.1),
    "MeanAblate": lambda: MeanAblate("inner", UP),
    "ProjectOut": lambda: ProjectOut("inner", torch.stack([UP, UP.flip(0)])),
    "Scale": lambda: Scale("inner", 3.0, features=[0, -1]),
    "ZeroAblate": lambda: ZeroAblate("inner"),
}
"""All but `Patch`, whose source has the shape of one activation."""


@pytest.mark.parametrize("edit", EDITS)
class TestEdits(ControllerContract):
    """They do what every controller does."""

    @pytest.fixture(autouse=True)
    def chosen(self, edit: str) -> None:
        """Choose which is made."""
        self.edit = edit

    def make(self) -> Controller:
        """Return the edit."""
        return EDITS[self.edit]()


class TestPatch(ControllerContract):
    """It does too, for activations of the shape that it was given one of."""

    def make(self) -> Controller:
        """Return one for the activations of the contract."""
        return self.make_for(2, 3)

    def make_for(self, batch: int, seq: int) -> Controller:
        """Return one of another shape."""
        return Patch("inner", UP.expand(batch, seq, WIDTH), features="1:7")
