import pytest
import torch

from tenterhook.hooks import HookType
from tenterhook.testing.hooks import ControllerContract
from tenterhook_function_controller import FunctionController


class TestFunctionController(ControllerContract):
    """It does what every controller does."""

    def make(self) -> FunctionController:
        """Return a controller of the output."""
        return FunctionController("inner", torch.tanh)


class TestOfInputs(ControllerContract):
    """On what a layer is given."""

    def make(self) -> FunctionController:
        """Return a controller of the input."""
        return FunctionController("inner", torch.sin, HookType.PRE_FORWARD)


class TestOfAFunctionWithoutAName(ControllerContract):
    """A lambda works, and has no spec."""

    def make(self) -> FunctionController:
        """Return a controller that no spec can describe."""
        return FunctionController("inner", lambda x: 2 * x)

    def test_it_round_trips_its_spec(self) -> None:
        """It says why it does not."""
        with pytest.raises(pytest.skip.Exception, match="has no import path"):
            super().test_it_round_trips_its_spec()
