"""What does `hooked.metrics()` add to a hooked forward? At most 2 % of it, while it is on.

The model that ships, a GPT-2 of four blocks, with a detector on each of its layers, 64 tokens; the
same model hooked alike without metrics beside it. Ratios of CPU time, interleaved; the model
without metrics beside itself is the noise.
"""

import sys
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from torch import nn

from tenterhook.hooks import Detector
from tenterhook_capture.loading import load_model

TOKENS = 64


class Looks(Detector):
    """Looks at outputs, and does nothing."""

    def process_activations(self, module: nn.Module, given: Any, output: Any) -> None:
        """Do nothing."""


def hooked() -> Any:
    lm: Any = load_model("tiny:")
    lm.missing = "ignore"  # dropout that does not run
    for name in lm.layers.list_layers():
        if name not in ("input", "output"):
            lm.layers.register_hook(name, Looks())
    return lm


def main(rounds: int, calls: int) -> None:
    torch.set_num_threads(1)
    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    models = {name: hooked() for name in ("without", "without, another", "with metrics")}
    models["with metrics"].metrics()

    def run(lm: Any) -> Any:
        def forward() -> None:
            with torch.no_grad():
                lm(ids)

        return forward

    times = measure({name: run(lm) for name, lm in models.items()}, rounds=rounds, calls=calls)
    print_machine()
    title = f"Metrics of {len(models['without'].layers)} hooks, a forward of {TOKENS} tokens"
    print_table(title, times, dict.fromkeys([*models][1:], "without"))


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    main(rounds=1 if quick else 40, calls=2 if quick else 10)
