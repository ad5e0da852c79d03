"""What everything does that offers points: a contract to inherit.

class TestMyPoints(PointsContract):
    def find_points(self, module):
        return my_package.find_points(module)

    def model(self):
        return my_package.a_small_model()

    def run(self, module):
        return module(some_inputs)
"""

import threading
from abc import abstractmethod
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tenterhook import attach
from tenterhook.activations import activation_of
from tenterhook.hooks import Controller
from tenterhook.points import Point, Points
from tenterhook.testing._modules import a_model

__all__ = ["PointsContract"]


class _Same(Controller):
    """Puts an equal tensor in a point's place."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output.clone()


class PointsContract:
    """Inherit and give `find_points`, a small `model`, and `run`, which returns its output."""

    @abstractmethod
    def find_points(self, module: nn.Module) -> Points | None:
        """Call what the plugin declares."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a model that it knows, in eval mode, small; the same weights each time."""

    def run(self, module: nn.Module) -> object:
        """Run one forward and return what it gives."""
        return pytest.skip("`run(module)` is not given, so that nothing runs")

    @pytest.fixture
    def known(self) -> Iterator[tuple[nn.Module, dict[str, Point]]]:
        """Return a model and the points in it; the names of layers left out."""
        module = self.model()
        found = self.find_points(module)
        assert type(found) is Points, "it does not know its own model"
        with torch.no_grad():
            yield module, {n: at for n, at in found.layers.items() if isinstance(at, Point)}

    def output(self, module: nn.Module) -> Tensor:
        """Return the activation of what one forward gives."""
        found = activation_of(self.run(module))
        assert found is not None, "`run` returned nothing that holds a tensor"
        return found

    def test_it_leaves_out_what_it_does_not_know(self) -> None:
        """Another plugin may know it; `None`, whatever the module."""
        for module in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.ModuleList(), a_model()):
            assert self.find_points(module) is None

    def test_points_have_their_names(self, known: tuple[nn.Module, dict[str, Point]]) -> None:
        """Each knows its own; layers are there; what is refused says why in a sentence."""
        module, points = known
        assert all(point.name == name for name, point in points.items())
        found = self.find_points(module)
        assert found is not None
        for name, at in found.layers.items():
            assert name.partition(".")[0].replace("-", "_").isidentifier()
            assert isinstance(at, Point) or isinstance(module.get_submodule(at), nn.Module)
        assert not found.refused.keys() & found.layers.keys()
        assert all(why[-1:] == "." for why in found.refused.values())

    def test_finding_changes_nothing(self, known: tuple[nn.Module, dict[str, Point]]) -> None:
        """It looks at the model; hooks, attributes and weights stay."""
        module, points = known
        before = {name: list(vars(each)) for name, each in module.named_modules()}
        weights = {name: weight.clone() for name, weight in module.state_dict().items()}
        found = self.find_points(module)
        assert found is not None
        assert [n for n, at in found.layers.items() if isinstance(at, Point)] == list(points)
        assert {name: list(vars(each)) for name, each in module.named_modules()} == before
        assert all(torch.equal(weights[name], each) for name, each in module.state_dict().items())
        assert not any(each._forward_hooks for each in module.modules())

    def test_looking_changes_no_bit(self, known: tuple[nn.Module, dict[str, Point]]) -> None:
        """A point that is used is called with a tensor, and the output is what it was."""
        module, points = known
        plain = self.output(module)
        for name, point in points.items():
            seen: list[Tensor] = []
            with attach(point).capture("output", missing="raise") as captured:
                assert torch.equal(self.output(module), plain), name
                seen += captured["output"]
            assert seen, name

    def test_an_equal_tensor_changes_nothing(
        self, known: tuple[nn.Module, dict[str, Point]]
    ) -> None:
        """What a hook returns goes on in the tensor's place."""
        module, points = known
        plain = self.output(module)
        for point in points.values():
            with attach(point).hooks(("output", _Same()), missing="raise"):
                torch.testing.assert_close(self.output(module), plain, rtol=1e-4, atol=1e-4)

    def test_nothing_is_left(self, known: tuple[nn.Module, dict[str, Point]]) -> None:
        """When the last hook has gone, no torch hook of the plugin's is on the model."""
        module, points = known
        for point in points.values():
            with attach(point).capture("output", missing="ignore"):
                self.output(module)
        for each in module.modules():
            assert not each._forward_hooks
            assert not each._forward_pre_hooks
            # Where something was compiled, a module that had hooks is given its class's own.
            own = vars(each).get("forward")
            assert getattr(own, "__func__", type(each).forward) is type(each).forward

    def test_other_threads_see_nothing(self, known: tuple[nn.Module, dict[str, Point]]) -> None:
        """While a scope is open here, another thread runs the model as if it were not."""
        module, points = known
        plain, found = self.output(module), []
        for point in points.values():
            with attach(point).hooks(("output", _Zero()), missing="ignore"):
                thread = threading.Thread(target=lambda: found.append(self._alone(module)))
                thread.start()
                thread.join()
        assert len(found) == len(points)
        assert all(torch.equal(each, plain) for each in found)

    def _alone(self, module: nn.Module) -> Tensor:
        with torch.no_grad():
            return self.output(module)


class _Zero(Controller):
    """Puts zeros in a point's place."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else torch.zeros_like(output)
