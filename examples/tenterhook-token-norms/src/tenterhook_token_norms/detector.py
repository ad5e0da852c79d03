"""The detector."""

from typing import Any

from torch import Tensor, nn

from tenterhook.hooks import Detector
from tenterhook.hooks.utils import extract_tensor_from_output


class TokenNormDetector(Detector):
    """Keeps the L2 norm of each token's activation, of the latest call."""

    @property
    def norms(self) -> Tensor | None:
        """`(batch, seq)`, float32, on the CPU; `None` before the first call."""
        return self.tensor_metadata.get("norms")

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Measure the activation along its last axis."""
        activation = extract_tensor_from_output(output)
        if activation is not None:
            self.tensor_metadata["norms"] = activation.detach().float().norm(dim=-1).cpu()
