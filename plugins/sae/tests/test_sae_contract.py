"""Every kind is a detector and a controller, as the contracts have them."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from tenterhook import attach
from tenterhook.testing.hooks import WIDTH, ControllerContract, DetectorContract
from tenterhook_sae import (
    BatchTopKSae,
    Crosscoder,
    GatedSae,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    Sae,
    SkipTranscoder,
    TopKSae,
    Transcoder,
)


class _Both(DetectorContract, ControllerContract):
    """An SAE that is as it was made."""

    def kind(self) -> Sae:
        """Return an SAE of random weights."""
        raise NotImplementedError

    def make(self) -> Sae:
        """Return it, the same each time."""
        torch.manual_seed(0)
        return self.kind()


class TestTopK(_Both):
    """The k largest."""

    def kind(self) -> Sae:
        """Return one."""
        return TopKSae(4 * WIDTH, WIDTH, 4)


class TestBatchTopK(_Both):
    """The batch's largest."""

    def kind(self) -> Sae:
        """Return one."""
        return BatchTopKSae(4 * WIDTH, WIDTH, 4)


class TestJumpReLU(_Both):
    """Those above their threshold."""

    def kind(self) -> Sae:
        """Return one."""
        return JumpReLUSae(4 * WIDTH, WIDTH)


class TestL1(_Both):
    """Those above 0."""

    def kind(self) -> Sae:
        """Return one."""
        return L1Sae(4 * WIDTH, WIDTH)


class TestGated(_Both):
    """Those whose gate is open."""

    def kind(self) -> Sae:
        """Return one."""
        return GatedSae(4 * WIDTH, WIDTH)


class TestMatryoshka(_Both):
    """Dictionaries within one another."""

    def kind(self) -> Sae:
        """Return one."""
        return MatryoshkaBatchTopKSae(4 * WIDTH, WIDTH, 4, widths=(WIDTH, 4 * WIDTH))


class TestTranscoder(_Both):
    """What a layer computes from its input."""

    def kind(self) -> Sae:
        """Return one."""
        return Transcoder(4 * WIDTH, WIDTH)


class TestSkipTranscoder(_Both):
    """The same, with a way past the latents, of what another layer returns."""

    def kind(self) -> Sae:
        """Return one."""
        return SkipTranscoder(4 * WIDTH, WIDTH, k=4, reads="before")


class TestTranscoderInPlace(ControllerContract):
    """One that takes the layer's place."""

    def make(self) -> Sae:
        """Return one, the same each time."""
        torch.manual_seed(0)
        return Transcoder(4 * WIDTH, WIDTH, mode="reconstruct")


class TestCrosscoder(_Both):
    """Two layers of the model."""

    def kind(self) -> Sae:
        """Return one."""
        return Crosscoder(4 * WIDTH, WIDTH, ("before", "inner"), 4)


class TestCrosscoderInPlace(ControllerContract):
    """One that puts its reconstruction in the place of the last."""

    def make(self) -> Sae:
        """Return one, the same each time."""
        torch.manual_seed(0)
        return Crosscoder(4 * WIDTH, WIDTH, ("before", "inner"), mode="reconstruct")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_is_functional(self, dtype: torch.dtype) -> None:
        """In a forward of the model: by itself it finds no other layer."""
        written: list[tuple[Tensor, Tensor]] = []
        inner = nn.Linear(WIDTH, WIDTH)
        model = attach(nn.Sequential(OrderedDict[str, nn.Module](before=nn.ReLU(), inner=inner)))
        model.module.to(dtype)
        inner.register_forward_hook(
            lambda module, args, output: written.append((output, output.clone()))
        )
        with model.hooks(("inner", self.make())):
            changed = model(torch.randn(2, 3, WIDTH, dtype=dtype))
        assert not torch.equal(changed, written[0][0])
        assert all(torch.equal(output, before) for output, before in written)


class TestReconstructing(ControllerContract):
    """One that puts its reconstruction in the activation's place."""

    def make(self) -> Sae:
        """Return one, the same each time."""
        torch.manual_seed(0)
        return L1Sae(4 * WIDTH, WIDTH, mode="reconstruct")


class TestManipulating(ControllerContract):
    """One that changes two latents."""

    def make(self) -> Sae:
        """Return one, the same each time."""
        torch.manual_seed(0)
        sae = TopKSae(4 * WIDTH, WIDTH, 4)
        sae.concepts.manipulate_concept(3, scale=2.0, add=1.0)
        sae.concepts.manipulate_concept(5, scale=0.0)
        return sae
