"""Encode and decode, of every kind, against the formulas."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_sae import (
    BadSetting,
    BatchTopKSae,
    JumpReLUSae,
    L1Sae,
    Manipulation,
    NotFinite,
    Sae,
    SparseLatents,
    TopKSae,
    WrongWidth,
)

S = TypeVar("S", bound=Sae)


def randomized(sae: S) -> S:
    """Biases and encoder that are not those of the beginning."""
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    return sae


def test_it_begins_tied_with_unit_decoder_rows(make: Callable[..., Sae]) -> None:
    """Rows of length 1, and the encoder their transpose."""
    sae = make()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.n_latents))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()


def test_it_is_a_module(make: Callable[..., Sae]) -> None:
    """Its weights are parameters, and calling it reconstructs."""
    sae = make()
    x = torch.randn(3, sae.n_inputs)

    assert {"W_enc", "b_enc", "W_dec", "b_dec"} <= dict(sae.named_parameters()).keys()
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)))


def test_topk_keeps_the_largest() -> None:
    """The k largest of a row, none of them negative; the others are 0."""
    sae = randomized(TopKSae(40, 8, 5))
    x = torch.randn(6, 8)

    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = torch.stack([torch.where(row >= row.sort().values[-5], row.relu(), 0) for row in pre])
    torch.testing.assert_close(sae.encode(x), kept)


def test_topk_keeps_none_that_is_negative() -> None:
    """Where fewer than k are positive, fewer are kept."""
    sae = TopKSae(10, 4, 6)
    with torch.no_grad():
        sae.b_enc.fill_(-100)

    assert not sae.encode(torch.randn(3, 4)).any()


def test_batchtopk_without_training_keeps_k_on_average() -> None:
    """The batch's largest; rows may differ in how many they keep."""
    sae = randomized(BatchTopKSae(40, 8, 2.5))

    active = (sae.encode(torch.randn(4, 8)) != 0).sum(1)

    assert active.sum() == 10


def test_batchtopk_with_a_threshold_sees_each_token_by_itself() -> None:
    """What else is in the batch makes no difference."""
    sae = randomized(BatchTopKSae(40, 8, 2))
    sae.threshold.fill_(0.7)
    x = torch.randn(4, 8)

    torch.testing.assert_close(sae.encode(x)[:1], sae.encode(x[:1]))
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(sae.encode(x), pre * (pre > 0.7))


def test_batchtopk_learns_its_threshold_from_batches() -> None:
    """It begins at the least that the first batch keeps, and moves a hundredth of the way."""
    sae = randomized(BatchTopKSae(40, 8, 3))
    first, second = torch.randn(5, 40), 3 * torch.randn(5, 40)

    one = sae.training_latents(first)
    assert float(sae.threshold) == float(one[one > 0].min())
    two = sae.training_latents(second)

    expected = 0.99 * float(one[one > 0].min()) + 0.01 * float(two[two > 0].min())
    assert float(sae.threshold) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "k"), [(3, 0.4), (7, 2.5), (600, 3), (1300, 39.5)])
def test_batchtopk_calibrated_has_k_active_on_average(
    rows: int, k: float, dtype: torch.dtype
) -> None:
    """To the latent where no two are the same; of few rows, and of more than one block."""
    torch.manual_seed(0)
    sae = randomized(BatchTopKSae(40, 8, k, dtype=dtype))
    with torch.no_grad():
        sae.b_enc.add_(20)  # so that enough are positive
    x = torch.randn(rows, 8)
    sae.calibrate(x)

    active = int((sae.encode(x) != 0).sum())
    if dtype is torch.float32:
        assert active == int(k * rows)
    else:
        assert 0.95 * int(k * rows) - 1 < active <= int(k * rows)
    whole = BatchTopKSae(40, 8, k)  # without a threshold: the batch decides
    whole.load_state_dict({**sae.float().state_dict(), "threshold": torch.tensor(-1.0)})
    if dtype is torch.float32:
        assert torch.equal(whole.encode(x) != 0, sae.encode(x) != 0)


def test_batchtopk_calibrated_where_too_few_are_positive() -> None:
    """All of these are active, and it is saved as what it is; with no row nothing changes."""
    sae = randomized(BatchTopKSae(40, 8, 40))
    x = torch.randn(30, 8)
    sae.calibrate(x[:0])
    assert float(sae.threshold) == -1
    sae.calibrate(x)

    assert float(sae.threshold) == 0
    torch.testing.assert_close(sae.encode(x), sae.pre_activations(x).relu())


def test_rows_to_calibrate_with(make: Callable[..., Sae]) -> None:
    """Other kinds do nothing; NaN and another width are errors, and the threshold stays."""
    sae = make(40, 8)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    if isinstance(sae, BatchTopKSae):
        with pytest.raises(NotFinite, match="The rows to calibrate with: 1 of 2 rows hold NaN"):
            sae.calibrate(torch.tensor([[1.0] * 8, [torch.nan] * 8]))
        with pytest.raises(WrongWidth, match="takes 8 inputs, and what it was given has 7"):
            sae.calibrate(torch.ones(2, 7))
    else:
        sae.calibrate(torch.ones(2, 8))
    for name, tensor in sae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_jumprelu_keeps_what_is_above_the_threshold() -> None:
    """Whole, not reduced by it."""
    sae = randomized(JumpReLUSae(40, 8))
    with torch.no_grad():
        sae.threshold.copy_(torch.rand(40))
    x = torch.randn(6, 8)

    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(sae.encode(x), pre * (pre > sae.threshold))


def test_jumprelu_thresholds_have_the_gradients_of_the_paper() -> None:
    """Equations 11 and 12 of arXiv:2407.14435, written out for one latent."""
    sae = JumpReLUSae(1, 1, initial_threshold=0.5, bandwidth=0.2)
    pre = torch.tensor([[0.45], [0.55], [0.65], [0.2]], requires_grad=True)

    latents = sae.training_latents(pre)
    latents.sum().backward()  # type: ignore[no-untyped-call]
    assert sae.threshold.grad is not None
    assert float(sae.threshold.grad) == pytest.approx(-(0.5 / 0.2) * 2)
    assert pre.grad is not None
    assert pre.grad.reshape(-1).tolist() == [0, 1, 1, 0]

    sae.threshold.grad = None
    sae.sparsity_loss(latents, pre).backward()  # type: ignore[no-untyped-call]
    again: Tensor | None = sae.threshold.grad
    assert again is not None
    assert float(again) == pytest.approx(-(1 / 0.2) * 2 / 4)


def test_l1_keeps_what_is_positive() -> None:
    """ReLU; the penalty is the sum of latents, weighed by the lengths of decoder rows."""
    sae = randomized(L1Sae(40, 8))
    with torch.no_grad():
        sae.W_dec.mul_(2)
    x = torch.randn(6, 8)

    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    latents = sae.encode(x)
    torch.testing.assert_close(latents, pre.relu())
    torch.testing.assert_close(sae.sparsity_loss(latents, pre), 2 * latents.sum(1).mean())


def test_without_centering_the_bias_is_added_only_at_the_end() -> None:
    """`center=False` leaves the first `b_dec` out."""
    sae = randomized(L1Sae(40, 8, center=False))
    x = torch.randn(6, 8)

    torch.testing.assert_close(sae.encode(x), (x @ sae.W_enc + sae.b_enc).relu())


@given(
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    n_latents=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_sparse_and_dense_latents_are_the_same(
    shape: tuple[int, ...], n_latents: int, seed: int
) -> None:
    """Whatever the shape: densified, decoded, and looked at column by column."""
    torch.manual_seed(seed)
    for sae in (TopKSae(n_latents, 6, min(4, n_latents)), L1Sae(n_latents, 6)):
        x = torch.randn(*shape, 6)
        dense, sparse = sae.encode(x), sae.encode_sparse(x)

        assert dense.shape == sparse.shape == (*shape, n_latents)
        torch.testing.assert_close(sparse.to_dense(), dense)
        torch.testing.assert_close(sae.decode(sparse), sae.decode(dense))
        chosen = list(range(0, n_latents, 3))
        flat = dense.reshape(-1, n_latents)
        torch.testing.assert_close(sparse.columns(chosen), flat[:, chosen])


def test_sparse_latents_have_gradients() -> None:
    """Those of the dense way."""
    sae = randomized(TopKSae(40, 8, 5, dtype=torch.float64))
    x = torch.randn(6, 8, dtype=torch.float64)

    def gradients(reconstruction: Tensor) -> list[Tensor]:
        loss = (reconstruction - x).square().sum()
        return list(torch.autograd.grad(loss, list(sae.parameters())))

    for sparse, dense in zip(
        gradients(sae.decode(sae.encode_sparse(x))),
        gradients(sae.decode(sae.encode(x))),
        strict=True,
    ):
        torch.testing.assert_close(sparse, dense)


def test_few_active_latents_are_kept_sparse() -> None:
    """Where that is smaller: k of many, and not k of few."""
    x = torch.randn(100, 8)
    many, few = TopKSae(400, 8, 5).encode_compact(x), TopKSae(8, 8, 7).encode_compact(x)

    assert isinstance(many, SparseLatents)
    assert many.nbytes < many.to_dense().nbytes / 10
    assert isinstance(few, Tensor)


def test_rescaling_is_exact() -> None:
    """What it did to `x` it does to `factor * x`."""
    x = torch.randn(6, 8)
    for sae in (TopKSae(40, 8, 5), BatchTopKSae(40, 8, 5), JumpReLUSae(40, 8), L1Sae(40, 8)):
        randomized(sae)
        if isinstance(sae, BatchTopKSae):
            sae.threshold.fill_(0.3)
        latents, output = sae.encode(x), sae(x)
        sae.rescale(4.0)
        torch.testing.assert_close(sae.encode(4 * x), 4 * latents)
        torch.testing.assert_close(sae(4 * x), 4 * output)


def test_a_copy_is_an_sae_of_its_own(make: Callable[..., Sae]) -> None:
    """Copied and pickled whole, names and manipulations included."""
    sae = make()
    sae.concepts.name(3, "third")
    sae.concepts.manipulate_concept(3, scale=2.0)
    x = torch.randn(3, sae.n_inputs)

    for other in (copy.deepcopy(sae), pickle.loads(pickle.dumps(sae))):
        assert torch.equal(other(x), sae(x))
        assert other.concepts.names == {3: "third"}
        assert other.concepts.manipulations == sae.concepts.manipulations
        other.concepts.reset_manipulations()
        assert sae.concepts.manipulations


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: TopKSae(8, 4, 9), r"k=9 must be a number of latents, of which there are 8"),
        (lambda: TopKSae(8, 4, 0), r"k=0 must be a whole number, 1 or more"),
        (lambda: TopKSae(8, 4, 2.5), r"k=2.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: BatchTopKSae(8, 4, 8.5), r"k=8.5 must be a number of latents"),
        (lambda: TopKSae(0, 4, 1), r"n_latents=0 must be a whole number, 1 or more"),
        (lambda: L1Sae(8, -4), r"n_inputs=-4 must be a whole number, 1 or more"),
        (
            lambda: JumpReLUSae(8, 4, initial_threshold=-1.0),
            r"initial_threshold=-1.0 must be a number, 0 or more",
        ),
        (lambda: JumpReLUSae(8, 4, bandwidth=0), r"bandwidth=0 must be a positive number"),
        (lambda: L1Sae(10**9, 4), r"n_latents=1000000000 must be .* and 67,108,864 at most"),
        (lambda: L1Sae(10**400, 4), r"n_latents=10+ must be .* and 67,108,864 at most"),
        (lambda: L1Sae(2**26, 2**26), r"must be fewer: .* take 18,014,399 GB for each of two"),
        (lambda: BatchTopKSae(8, 4, float("nan")), r"k=nan must be a number of latents"),
        (lambda: BatchTopKSae(8, 4, float("inf")), r"k=inf must be a number of latents"),
        (
            lambda: JumpReLUSae(8, 4, initial_threshold=float("inf")),
            r"initial_threshold=inf must be a number, 0 or more",
        ),
        (lambda: JumpReLUSae(8, 4, bandwidth=float("nan")), r"bandwidth=nan must be a positive"),
        (
            lambda: JumpReLUSae(8, 4, bandwidth=1e300),
            r"bandwidth=1e\+300 must be .* at most",
        ),
        (lambda: JumpReLUSae(8, 4, bandwidth="1"), r"bandwidth='1' must be a positive"),  # type: ignore[arg-type]
        (lambda: L1Sae(8, 4, dtype=torch.int8), r"dtype=torch.int8 must be a floating dtype"),
        (lambda: L1Sae(8, 4, center="no"), r"center='no' must be True or False"),  # type: ignore[arg-type]
        (
            lambda: Manipulation(scale=1e300),
            r"scale=1e\+300 must be a finite number, 1e\+09",
        ),
        (lambda: L1Sae(8, 4, mode="edits"), r"mode='edits' must be one of 'edit', 'reconstruct'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be(make_one: Callable[[], Any], message: str) -> None:
    """The value, and what is valid."""
    with pytest.raises(BadSetting, match=message):
        make_one()


def test_a_wrong_width_names_both(sae: Sae) -> None:
    """Before it is attached there is no layer to name."""
    with pytest.raises(WrongWidth, match=r"takes 128 inputs, and what it was given has 64"):
        sae.encode(torch.randn(3, 64))
    with pytest.raises(WrongWidth, match=r"has 256 latents, and it was given 3 to decode"):
        sae.decode(torch.randn(3, 3))
