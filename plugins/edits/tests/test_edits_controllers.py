"""What is particular to each edit: what it takes, what it refuses, what it follows."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, HookError
from tenterhook_edits import AddVector, Clamp, MeanAblate, Patch, ProjectOut, Scale, ZeroAblate

ONES = torch.ones(4)


class Identity(nn.Module):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x


def edited(edit: Controller, activation: Tensor) -> Tensor:
    """Return what a layer's activation becomes."""
    model = tenterhook.attach(nn.Sequential(Identity()))
    with model.steer("0", edit):
        result: Tensor = model(activation)
    return result


EDITS: list[Callable[[], Controller]] = [
    lambda: AddVector("0", torch.arange(4.0), 2),
    lambda: AddVector("0", torch.arange(4.0), normalize=True),
    lambda: ProjectOut("0", torch.arange(8.0).reshape(2, 4)),
    lambda: MeanAblate("0", torch.arange(4.0)),
    lambda: Patch("0", torch.arange(8.0).reshape(1, 2, 4)),
    lambda: Clamp("0", -1, 0.5),
    lambda: Scale("0", 3),
    lambda: ZeroAblate("0"),
]
each_edit = pytest.mark.parametrize("make", EDITS, ids=lambda make: type(make()).__name__)


class TestFollowing:
    @each_edit
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_it_takes_the_layers_dtype(
        self, make: Callable[[], Controller], dtype: torch.dtype
    ) -> None:
        """Float32 vectors on a model of another dtype, which stays its own."""
        x = torch.randn(1, 2, 4)

        found = edited(make(), x.to(dtype))

        assert found.dtype is dtype
        torch.testing.assert_close(found.float(), edited(make(), x), rtol=2e-2, atol=2e-2)

    @each_edit
    def test_it_takes_the_layers_device(self, make: Callable[[], Controller]) -> None:
        """A device without memory stands in for an accelerator."""
        found = edited(make(), torch.empty(1, 2, 4, device="meta"))

        assert found.device.type == "meta"
        assert found.shape == (1, 2, 4)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
    @each_edit
    def test_it_takes_an_accelerators(self, make: Callable[[], Controller]) -> None:
        """Vectors stay where they are, and autocast rounds no projection."""
        x = torch.randn(1, 2, 4)
        edit = make()

        with torch.autocast("cuda"):
            found = edited(edit, x.cuda())

        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), edited(make(), x))
        assert not any(t.is_cuda for t in vars(edit).values() if isinstance(t, Tensor))

    @each_edit
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_written_to_its_tensor_counts(
        self, make: Callable[[], Controller], dtype: torch.dtype
    ) -> None:
        """In place, through `data`, through NumPy, or by another tensor of that name."""
        edit = make()
        x = torch.randn(1, 2, 4).to(dtype)
        names = [name for name, value in vars(edit).items() if isinstance(value, Tensor)]
        writes: list[Callable[[str, Tensor], Any]] = [
            lambda _, tensor: tensor.add_(torch.randn(4)),
            lambda _, tensor: tensor.data.add_(torch.randn(4)),
            lambda _, tensor: tensor.numpy().__setitem__(..., torch.randn(4).numpy()),
            lambda name, tensor: setattr(edit, name, tensor + torch.randn(4)),
        ]

        for name in names:
            for write in writes:
                before = edited(edit, x)
                write(name, getattr(edit, name))
                after = edited(edit, x)
                assert torch.equal(after, edited(copy.deepcopy(edit), x))
                assert not torch.equal(after, before)

    def test_a_new_coefficient_counts(self) -> None:
        """It is an attribute that people turn."""
        edit = AddVector("0", ONES)
        x = torch.zeros(2, 4)
        edited(edit, x)

        edit.coefficient = 5.0

        assert torch.equal(edited(edit, x), 5 * torch.ones(2, 4))

    def test_one_edit_serves_several_layers(self) -> None:
        """Layers of different dtypes in one scope."""
        low = nn.Linear(4, 4).bfloat16()
        high = nn.Linear(4, 4)
        model = tenterhook.attach(nn.ModuleDict({"low": low, "high": high}))
        x = torch.randn(2, 4)

        with model.steer("*", AddVector("*", ONES)):
            shifted = low(x.bfloat16()), high(x)

        assert torch.equal(shifted[0], low(x.bfloat16()) + 1)
        assert torch.equal(shifted[1], high(x) + 1)

    def test_inference_tensors(self) -> None:
        """Captured in inference mode, used outside it, written to inside it."""
        with torch.inference_mode():
            vector = torch.ones(4)
        edit = ProjectOut("0", vector)
        x = torch.randn(2, 4, requires_grad=True)
        torch.autograd.grad(edited(edit, x).sum(), x)
        with torch.inference_mode():
            vector[0] = 0

        torch.testing.assert_close(edited(edit, x)[:, 1:].sum(-1), torch.zeros(2))

    @each_edit
    def test_it_can_be_pickled(self, make: Callable[[], Controller]) -> None:
        """And has the same effect after it."""
        edit = make()
        x = torch.randn(1, 2, 4)
        expected = edited(edit, x)

        assert torch.equal(edited(pickle.loads(pickle.dumps(edit)), x), expected)


class TestVectorsOfRows:
    """`AddVector` with a vector for each row of the batch."""

    @pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 2, 5, 4)], ids=len)
    @pytest.mark.parametrize("settings", [{}, {"coefficient": 0.5}, {"normalize": True}], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_each_row_gets_its_own(
        self, shape: tuple[int, ...], settings: dict[str, Any], dtype: torch.dtype
    ) -> None:
        """It is what an edit of each row alone gives, to the bit."""
        vectors, x = torch.randn(3, 4), torch.randn(shape).to(dtype)

        found = edited(AddVector("0", vectors, **settings), x)

        rows = [
            edited(AddVector("0", v, **settings), row) for v, row in zip(vectors, x, strict=True)
        ]
        assert found.dtype is dtype
        assert torch.equal(found, torch.stack(rows))

    def test_of_some_tokens_and_features(self) -> None:
        """A selection of the scope's, and features of the edit's, count as for one vector."""
        vectors, x = torch.tensor([[1.0] * 4, [2.0] * 4]), torch.zeros(2, 3, 4)
        model = tenterhook.attach(nn.Sequential(Identity()))
        with model.steer("0", AddVector("0", vectors, features=[0, 2]), rows=[1]):
            out = model(x)
        wanted = x.clone()
        wanted[1, :, [0, 2]] = 2
        assert torch.equal(out, wanted)

    def test_each_learns(self) -> None:
        """Each row of a parameter has the gradient of its row."""
        vectors = nn.Parameter(torch.zeros(2, 4))
        edited(AddVector("0", vectors), torch.ones(2, 3, 4)).sum().backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        assert vectors.grad.tolist() == [[3.0] * 4] * 2

    @pytest.mark.parametrize("shape", [(4,), (3, 4), (6, 2, 4)], ids=str)
    def test_another_number_of_rows(self, shape: tuple[int, ...]) -> None:
        """It says how many there are, and what to give."""
        with pytest.raises(HookError, match=r"vector has 2 rows.*Give one of shape \(features,\)"):
            edited(AddVector("0", torch.zeros(2, 4), 2), torch.ones(shape))


class TestLearning:
    def test_a_steering_vector_learns(self) -> None:
        """The loss falls, and nothing but the vector changes."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).requires_grad_(False)
        before = copy.deepcopy(module.state_dict())
        model = tenterhook.attach(module)
        vector = nn.Parameter(torch.zeros(8))
        optimizer = torch.optim.Adam([vector], lr=0.1)
        x, target = torch.randn(16, 4), torch.full((16,), 2)
        losses = []

        with model.steer("0", AddVector("0", vector, 2.0)):
            for _ in range(40):
                loss = nn.functional.cross_entropy(model(x), target)
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        assert losses[-1] < 0.5 * losses[0]
        assert vector.detach().norm() > 0.1
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    @pytest.mark.parametrize(
        "make",
        [
            lambda p: AddVector("0", p[0], 2.0, normalize=True),
            lambda p: ProjectOut("0", p),
            lambda p: MeanAblate("0", p),
            lambda p: Patch("0", p[None]),
        ],
    )
    def test_gradients_agree_with_finite_differences(self, make: Callable[..., Controller]) -> None:
        """With respect to the edit's tensor and to the activation."""
        torch.manual_seed(0)
        tensor = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)

        assert torch.autograd.gradcheck(lambda t, x: edited(make(t), x), (tensor, x))

    def test_orthonormal_directions_have_gradients(self) -> None:
        """Where a decomposition into singular values would have none."""
        directions = nn.Parameter(torch.eye(2, 4))

        loss = (edited(ProjectOut("0", directions), torch.randn(3, 4)) ** 3).sum()

        (gradient,) = torch.autograd.grad(loss, directions)
        assert gradient.isfinite().all()


class TestNoOp:
    @pytest.mark.parametrize(
        "edit",
        [
            Scale("0", 1),
            Clamp("0", -1e9, 1e9),
            Clamp("0", minimum=-float("inf")),
            AddVector("0", ONES, 0.0),
        ],
        ids=lambda edit: type(edit).__name__,
    )
    def test_nothing_to_do_leaves_every_bit(self, edit: Controller) -> None:
        """Signed zeros and NaNs as well."""
        x = torch.tensor([[-0.0, 0.0, float("nan"), 1e-40]])

        assert torch.equal(edited(edit, x).view(torch.int32), x.view(torch.int32))

    def test_features_left_out_keep_every_bit(self) -> None:
        """Whatever the edit would do to them."""
        x = torch.tensor([[-0.0, float("inf"), float("nan"), 1e-40]])

        found = edited(AddVector("0", ONES, features=[1]), x)

        assert torch.equal(found.view(torch.int32), x.view(torch.int32))


class TestProjectOut:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_twice_is_once(self, dtype: torch.dtype) -> None:
        """And nothing is left along any of them."""
        torch.manual_seed(0)
        directions = (
            torch.randn(5, 64, dtype=dtype) * torch.logspace(-8, 8, 5, dtype=dtype)[:, None]
        )
        edit = ProjectOut("0", directions)
        x = torch.randn(3, 7, 64, dtype=dtype)
        tolerance = 1e-5 if dtype is torch.float32 else 1e-13

        once = edited(edit, x)

        torch.testing.assert_close(edited(edit, once), once, rtol=0, atol=tolerance)
        along = once @ nn.functional.normalize(directions, dim=-1).T
        assert along.abs().max() < tolerance

    def test_a_direction_that_others_span_counts_once(self) -> None:
        """No unrelated direction is removed in its place."""
        a, b = torch.tensor([1.0, 2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
        x = torch.randn(5, 4)

        found = edited(ProjectOut("0", torch.stack([a, 2 * a, b, a - 3 * b])), x)

        torch.testing.assert_close(found, edited(ProjectOut("0", torch.stack([a, b])), x))

    def test_nearly_parallel_directions_span_a_plane(self) -> None:
        """Orthonormal to rounding however small the angle."""
        a = torch.tensor([1.0, 0.0, 0.0, 0.0])
        b = torch.tensor([1.0, 1e-3, 0.0, 0.0])

        found = edited(ProjectOut("0", torch.stack([a, b])), ONES[None])

        torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_lengths_do_not_matter(self, size: float) -> None:
        """Also where their squares leave the range of float32."""
        found = edited(ProjectOut("0", size * ONES), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))

        torch.testing.assert_close(found, torch.tensor([[-1.5, -0.5, 0.5, 1.5]]))

    def test_half_precision_is_rounded_once(self) -> None:
        """What is left along the direction is the rounding of the result, no more."""
        torch.manual_seed(0)
        direction = nn.functional.normalize(torch.randn(256), dim=0)
        x = torch.randn(32, 256) + 50 * direction

        found = edited(ProjectOut("0", direction), x.bfloat16())

        assert (found.float() @ direction).abs().max() < 0.02

    def test_autocast_does_not_round_it(self) -> None:
        """A float32 activation is projected in float32."""
        x = torch.randn(8, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = edited(ProjectOut("0", torch.randn(2, 4)), x)
            edit = ProjectOut("0", ONES)
            left = edited(edit, x)

        assert found.dtype is torch.float32
        assert left.sum(-1).abs().max() < 1e-5


class TestAblation:
    def test_zero_is_zero_where_nan_was(self) -> None:
        """A factor of 0 would leave it."""
        assert not edited(ZeroAblate("0"), torch.full((2, 4), float("nan"))).any()

    def test_zero_scale_is_no_ablation(self) -> None:
        """Arithmetic is what it is."""
        assert edited(Scale("0", 0), torch.full((2, 4), float("nan"))).isnan().all()

    def test_a_bound_beyond_the_dtype(self) -> None:
        """Holds what the dtype can: infinity becomes its largest number."""
        x = torch.tensor([[float("inf"), 1.0, -1.0, -float("inf")]], dtype=torch.float16)

        found = edited(Clamp("0", -1e6, 1e6), x)

        assert found.tolist() == [[65504.0, 1.0, -1.0, -65504.0]]

    def test_patch_restores_the_clean_run(self) -> None:
        """The output of the run it came from, bit for bit."""
        torch.manual_seed(0)
        model = tenterhook.attach(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        clean, corrupted = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        with model.capture("1") as captured:
            expected = model(clean)

        with model.steer("1", Patch("1", captured.last("1"))):
            assert torch.equal(model(corrupted), expected)


def run_edit(edit: Controller, x: Tensor) -> HookError:
    """Run an edit that must fail at the layer, and return the error."""
    with pytest.raises(HookError) as raised:
        edited(edit, x)
    return raised.value


class TestRefusedWhenItRuns:
    @pytest.mark.parametrize(
        ("edit", "what"),
        [
            (AddVector("0", torch.ones(5)), "vector"),
            (AddVector("0", torch.ones(5), 0.0), "vector"),
            (ProjectOut("0", torch.ones(2, 5)), "directions"),
            (MeanAblate("0", torch.ones(5)), "mean"),
        ],
    )
    def test_another_width(self, edit: Controller, what: str) -> None:
        """Both numbers, the layer and the hook are named."""
        error = run_edit(edit, torch.ones(2, 4))

        assert error.layer_signature == "0"
        assert error.hook_id == edit.id
        assert isinstance(error.original_error, ValueError)
        assert f"{what} has 5 features" in str(error)
        assert "shape (2, 4) has 4" in str(error)

    def test_an_activation_without_axes(self) -> None:
        """A loss, for one."""
        assert "of shape () has none" in str(run_edit(AddVector("0", ONES), torch.tensor(1.0)))

    @pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 4), (2, 1, 4), (3, 4)])
    def test_a_source_of_another_shape(self, shape: tuple[int, ...]) -> None:
        """Both shapes are named; nothing is repeated unasked."""
        error = run_edit(Patch("0", torch.ones(shape)), torch.zeros(2, 3, 4))

        assert f"source has shape {shape}, and the activation has (2, 3, 4)" in str(error)
        assert "source.expand" in str(error)

    @pytest.mark.parametrize("shape", [(1, 2, 4), (3, 4)])
    def test_a_mean_of_other_tokens(self, shape: tuple[int, ...]) -> None:
        """A mean by token needs an axis of as many; the batch is none."""
        error = run_edit(MeanAblate("0", torch.ones(3, 4)), torch.zeros(shape))

        assert f"mean is (seq, features) of (3, 4), and the activation of shape {shape}" in str(
            error
        )

    @each_edit
    def test_integers(self, make: Callable[[], Controller]) -> None:
        """Token ids are no activation to edit."""
        error = run_edit(make(), torch.ones(1, 2, 4, dtype=torch.long))

        assert "edits floating-point activations, and this one is torch.int64" in str(error)

    def test_a_feature_that_is_not_there(self) -> None:
        """As a selection says it."""
        error = run_edit(ZeroAblate("0", features=[9]), torch.zeros(2, 4))

        assert "There is no feature 9; there are 4." in str(error)


BAD: Any = {"list": [1.0], "text": "1", "dict": {"0": ONES}, "none": None, "tensor": ONES}


class TestRefusedAtOnce:
    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda: AddVector("0", BAD["list"]), TypeError, "vector is a list, not a tensor"),
            (lambda: AddVector("0", ONES[None, None]), ValueError,
             r"shape \(1, 1, 4\). Give one of shape \(features,\) or \(batch, features\)"),
            (lambda: AddVector("0", torch.eye(2, 4) * ONES[:2, None].cumsum(0).sub(1),
             normalize=True), ValueError, "vector is zero"),
            (lambda: AddVector("0", ONES / 0), ValueError, "vector holds NaN or infinity"),
            (lambda: AddVector("0", ONES + 1j), TypeError, "complex64. Give a tensor of real"),
            (lambda: AddVector("0", 0 * ONES, normalize=True), ValueError, "vector is zero"),
            (lambda: AddVector("0", ONES, float("nan")), ValueError, "coefficient=nan is not"),
            (lambda: AddVector("0", ONES, BAD["tensor"]), TypeError, "coefficient is a Tensor"),
            (lambda: ProjectOut("0", ONES[None, None]), ValueError, r"or \(n, features\)"),
            (lambda: ProjectOut("0", torch.eye(2, 4) * ONES[:2, None].cumsum(0).sub(1)), ValueError,
             "Direction 0 of directions is zero"),
            (lambda: ProjectOut("0", torch.ones(0, 4)), ValueError, r"empty, \(0, 4\)"),
            (lambda: Clamp("0"), ValueError, "give minimum, maximum, or both"),
            (lambda: Clamp("0", 2, 1), ValueError, "minimum=2 is above maximum=1"),
            (lambda: Clamp("0", float("nan")), ValueError, "minimum=nan is not"),
            (lambda: Clamp("0", BAD["text"]), TypeError, "minimum is a str"),
            (lambda: Scale("0", float("inf")), ValueError, "factor=inf is not a finite number"),
            (lambda: Scale("0", True), TypeError, "factor is a bool"),
            (lambda: MeanAblate("0", BAD["none"]), TypeError, "mean is a NoneType"),
            (lambda: MeanAblate("0", torch.tensor(1.0)), ValueError, r"or \(seq, features\)"),
            (lambda: Patch("0", BAD["dict"]), TypeError, "source is a dict, not a tensor"),
            (lambda: ZeroAblate("0", features=[]), ValueError, "are not positions"),
            (lambda: Scale("0", 2, hook_type="after"), ValueError, "not a hook type"),
        ],
    )  # fmt: skip
    def test_it_says_what_to_give(
        self, make: Callable[[], Any], error: type[Exception], match: str
    ) -> None:
        """When it is made, not in the middle of a forward."""
        with pytest.raises(error, match=match):
            make()


def test_the_names_come_from_tenterhook_hooks() -> None:
    """As any plugin's do."""
    from tenterhook import hooks

    assert hooks.AddVector is AddVector


@each_edit
def test_it_edits_what_transformers_blocks_return(make: Callable[[], Controller]) -> None:
    """On a real, small GPT-2: the block's own output changes, in a batch of two lengths."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_head=1, n_embd=4, vocab_size=11, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = tenterhook.attach(transformers.GPT2LMHeadModel(config).eval())
    ids = torch.tensor([[1, 2]])

    with (
        torch.no_grad(),
        model.capture("layer_0") as before,
        model.steer("layer_0", make()),
        model.capture("layer_0") as after,
    ):
        model(input_ids=ids)

    expected = edited(make(), before.last("layer_0"))
    torch.testing.assert_close(after.last("layer_0"), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors() -> None:
    """Jagged ones are edited whole; of strided ones, and for some features, the way out is said."""
    rows = [torch.ones(2, 4), torch.ones(3, 4)]
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
    with model.steer("0", AddVector("0", torch.ones(4))):
        assert [row.tolist() for row in model(jagged).unbind()] == [(2 * r).tolist() for r in rows]
    told = r"AddVector edits a nested tensor of layout=torch.jagged, all features of it"
    for x, features in ((torch.nested.nested_tensor(rows), None), (jagged, [0])):
        with (
            pytest.raises(HookError, match=told),
            model.steer("0", AddVector("0", torch.ones(4), features=features)),
        ):
            model(x)
