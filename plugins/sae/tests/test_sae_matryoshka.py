"""Matryoshka SAEs: in use a batch top-k, in training the sum of the paper."""

from typing import Any

import pytest
import torch

from tenterhook_sae import BadSetting, BatchTopKSae, MatryoshkaBatchTopKSae


def test_it_encodes_as_a_batch_topk() -> None:
    """Before any training, and with a threshold."""
    torch.manual_seed(0)
    sae = MatryoshkaBatchTopKSae(40, 8, 2.5)
    plain = BatchTopKSae(40, 8, 2.5)
    plain.load_state_dict(sae.state_dict())
    x = torch.randn(12, 8)

    assert torch.equal(sae.encode(x), plain.encode(x))
    for each in (sae, plain):
        each.calibrate(x)
    assert torch.equal(sae.encode(x), plain.encode(x))
    assert torch.equal(sae(x), plain(x))


@pytest.mark.parametrize("widths", [(5, 17, 40), (1, 2, 3, 40), (40,)], ids=str)
def test_the_loss_is_the_sum_over_the_dictionaries(widths: tuple[int, ...]) -> None:
    """Each with its first latents and rows alone; the whole one is the usual loss."""
    torch.manual_seed(0)
    sae = MatryoshkaBatchTopKSae(40, 8, 6, widths=widths)
    with torch.no_grad():
        sae.b_dec.normal_()
    x = torch.randn(12, 8)
    pre = sae.pre_activations(x)
    latents = sae.training_latents(pre)

    expected = sum(
        (x - (latents[:, :m] @ sae.W_dec[:m] + sae.b_dec)).square().mean() for m in widths
    )
    whole = (x - sae.decode(latents)).square().mean()
    torch.testing.assert_close(sae.further_loss(x, latents, pre) + whole, expected)


@pytest.mark.parametrize(
    ("n_latents", "widths"), [(64, (4, 8, 16, 32, 64)), (8, (1, 2, 4, 8)), (1, (1,))]
)
def test_widths_by_default(n_latents: int, widths: tuple[int, ...]) -> None:
    """Each half as wide as the next."""
    assert MatryoshkaBatchTopKSae(n_latents, 4, 1).widths == widths


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((4, 8), r"widths=\[4, 8\] must be whole numbers that rise to n_latents=16, the last"),
        ((8, 4, 16), r"widths=\[8, 4, 16\] must be"),
        ((8, 8, 16), r"widths=\[8, 8, 16\] must be"),
        ((), r"widths=\(\) must be whole numbers"),
        ("16", r"widths='16' must be whole numbers"),
        (16, r"widths=16 must be whole numbers"),
        ((0, 16), r"widths=0 must be a whole number, 1 or more"),
        ((2.5, 16), r"widths=2.5 must be a whole number, 1 or more"),
        ((float("nan"), 16), r"widths=nan must be a whole number, 1 or more"),
    ],
)
def test_widths_that_cannot_be(widths: Any, message: str) -> None:
    """The value, and what is valid."""
    with pytest.raises(BadSetting, match=message):
        MatryoshkaBatchTopKSae(16, 4, 2, widths=widths)


def test_each_dictionary_is_of_use_alone() -> None:
    """Trained, the first latents reconstruct better than those of a plain batch top-k."""
    from tenterhook_sae import Trainer, TrainingSettings

    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(32, 16), dim=1)
    share = torch.linspace(0.3, 0.02, 32)
    rows = (torch.rand(4096, 32) < share).float() @ directions

    class Rows:
        width, about = 16, {"layer": "synthetic"}

        def __iter__(self) -> Any:
            while True:
                yield from rows.split(256)  # type: ignore[no-untyped-call]

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """There is none."""

    def error_of_the_first(sae: BatchTopKSae) -> float:
        settings = TrainingSettings(steps=150, learning_rate=5e-3)
        Trainer(sae, Rows(), settings).run()
        found = sae.encode(rows)[:, :8] @ sae.W_dec[:8] + sae.b_dec
        return float((rows - found.detach()).square().mean())

    torch.manual_seed(1)
    nested = error_of_the_first(MatryoshkaBatchTopKSae(32, 16, 4, widths=(8, 32)))
    torch.manual_seed(1)
    assert nested < 0.8 * error_of_the_first(BatchTopKSae(32, 16, 4))
