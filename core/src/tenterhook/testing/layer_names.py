"""What everything does that gives layers their standard names: a contract to inherit.

class TestMyNames(LayerNamesContract):
    def name_layers(self, module):
        return my_package.name_layers(module)

    def model(self):
        return my_package.a_small_model()

    def run(self, module):
        module(some_inputs)
"""

from abc import abstractmethod
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tenterhook import attach
from tenterhook.testing._modules import a_model

if TYPE_CHECKING:
    from tenterhook.standard_names import StandardNames

__all__ = ["LayerNamesContract"]


class LayerNamesContract:
    """Inherit and give `name_layers` and a small `model`; `run` too, to check sums by it."""

    @abstractmethod
    def name_layers(self, module: nn.Module) -> "StandardNames | None":
        """Call what the plugin declares."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a model that it knows, in eval mode, small; the same weights each time."""

    def run(self, module: nn.Module) -> None:
        """Run one forward."""
        pytest.skip("`run(module)` is not given, so that the sums are not checked")

    @pytest.fixture
    def names(self) -> "StandardNames":
        """Return the names of the model's layers."""
        names = self.name_layers(self.model())
        assert names is not None, "it does not know its own model"
        return names

    def test_it_leaves_out_what_it_does_not_know(self) -> None:
        """Another plugin may know it; `None`, whatever the module."""
        for module in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.ModuleList(), a_model()):
            assert self.name_layers(module) is None

    def test_names_are_of_layers_that_are_there(self, names: "StandardNames") -> None:
        """As PyTorch has them."""
        assert type(names).__name__ == "StandardNames"
        module = self.model()
        for path in names.layers.values():
            assert isinstance(module.get_submodule(path), nn.Module)

    def test_every_block_has_its_output(self, names: "StandardNames") -> None:
        """`resid_post.0`, `resid_post.1` and so on, with no gap, and no name beyond them."""
        blocks = [name for name in names.layers if name.startswith("resid_post.")]
        assert blocks == [f"resid_post.{at}" for at in range(len(blocks))]
        assert blocks
        assert all(int(name.partition(".")[2]) < len(blocks) for name in names.layers)
        assert len(set(names.layers.values())) == len(names.layers)

    def test_it_names_alike_each_time_and_changes_nothing(self, names: "StandardNames") -> None:
        """It looks at the model; it neither runs nor writes it."""
        module = self.model()
        before = {name: set(vars(each)) for name, each in module.named_modules()}
        weights = {name: weight.clone() for name, weight in module.state_dict().items()}
        assert self.name_layers(module) == self.name_layers(module) == names
        assert {name: set(vars(each)) for name, each in module.named_modules()} == before
        assert all(torch.equal(weights[name], each) for name, each in module.state_dict().items())

    def test_the_sums_hold(self, names: "StandardNames") -> None:
        """What goes into a block and what attention and MLP add is what it returns.

        Of blocks that have all three names; not of `"post_norm"`, where norms lie between.
        """
        if names.residual == "post_norm":
            pytest.skip("norms lie between the parts of its sum")
        module = self.model()
        hooked = attach(module)
        paths = list(names.layers.values())
        blocks = [path for name, path in names.layers.items() if name.startswith("resid_post.")]
        with (
            torch.no_grad(),
            hooked.capture(*blocks, inputs=True) as into,
            hooked.capture(*paths) as out,
        ):
            self.run(module)
        checked = 0
        for at, block in enumerate(blocks):
            parts = [names.layers.get(f"{place}.{at}") for place in ("attn_out", "mlp_out")]
            attention, mlp = parts
            if attention is None or mlp is None:
                continue
            total: Tensor = into.last(block) + out.last(attention) + out.last(mlp)
            torch.testing.assert_close(total, out.last(block), rtol=1e-3, atol=1e-3)
            checked += 1
        assert checked, "no block has both `attn_out` and `mlp_out`"
