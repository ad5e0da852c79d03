"""The detector that keeps a layer's latest activation."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
import tenterhook_layer_activation
from tenterhook.hooks import Detector, HookType
from tenterhook.plugins import PluginManager
from tenterhook_layer_activation import LayerActivationDetector, plugin

ONE = torch.ones(1, 2)


class _Returns(nn.Module):
    """Returns what it was made with."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        """Return it."""
        return self.value


def run(module: nn.Module, detector: LayerActivationDetector, x: Tensor = ONE) -> Any:
    """Run the module with the detector registered where it was made for."""
    model = tenterhook.attach(module)
    assert detector.layer_signature is not None
    model.layers.register_hook(detector.layer_signature, detector)
    out = model(x)
    model.layers.unregister_hook(detector)
    return out


class TestMaking:
    def test_is_a_forward_detector(self) -> None:
        """It is a detector after the module, of the layer and id that were given."""
        detector = LayerActivationDetector("0", "mine", torch.float16)

        assert isinstance(detector, Detector)
        assert detector.hook_type is HookType.FORWARD
        assert (detector.layer_signature, detector.id) == ("0", "mine")
        assert detector.get_captured() is None
        assert detector.metadata == {}
        assert detector.tensor_metadata == {}

    @pytest.mark.parametrize("layer", ["transformer.h.0", 0, -1, "layer_0", "output", ""])
    def test_any_spelling(self, layer: str | int) -> None:
        """A layer is named in any way that registering takes."""
        assert LayerActivationDetector(layer_signature=layer).layer_signature == layer

    def test_needs_a_layer(self) -> None:
        """Without a layer there is a `ValueError` that shows one."""
        with pytest.raises(ValueError, match=r"layer_signature=None: .*needs a layer.*layer_0"):
            LayerActivationDetector(None)  # type: ignore[arg-type]

    def test_other_package(self) -> None:
        """`tenterhook.hooks` hands out the same class."""
        from tenterhook.hooks import LayerActivationDetector as Served

        assert Served is LayerActivationDetector

    def test_public_names(self) -> None:
        """The package gives out its detector, and nothing of any other name."""
        assert tenterhook_layer_activation.__all__ == ["LayerActivationDetector"]
        with pytest.raises(AttributeError, match="has no attribute 'Other'"):
            tenterhook_layer_activation.Other  # noqa: B018

    def test_declared(self) -> None:
        """The plugin declares it as a detector, with a line of help."""
        manager = PluginManager(autoload=False)
        manager.register(plugin)

        extension = manager.extension("detectors", "LayerActivationDetector")
        assert extension.load() is LayerActivationDetector


class TestKeeping:
    def test_the_latest(self) -> None:
        """It keeps what the layer returned last, and its shape."""
        module, detector = nn.Sequential(nn.Linear(2, 3)), LayerActivationDetector("0")
        run(module, detector)
        out = run(module, detector, torch.full((4, 2), 2.0))

        kept = detector.get_captured()
        assert kept is detector.tensor_metadata["activations"]
        assert torch.equal(kept, out)
        assert detector.metadata["activations_shape"] == (4, 3)
        assert type(detector.metadata["activations_shape"]) is tuple

    def test_detached(self) -> None:
        """It is in no graph and on the CPU."""
        detector = LayerActivationDetector(0)
        run(nn.Sequential(nn.Linear(2, 3)), detector)

        kept = detector.tensor_metadata["activations"]
        assert not kept.requires_grad
        assert kept.device.type == "cpu"

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64]
    )
    def test_keeps_the_dtype(self, dtype: torch.dtype) -> None:
        """Without `target_dtype` every dtype is kept bit for bit."""
        value, detector = torch.tensor([1.1, 300.7]).to(dtype), LayerActivationDetector(0)
        run(nn.Sequential(_Returns(value)), detector)

        kept = detector.get_captured()
        assert kept is not None
        assert kept.dtype == dtype
        assert torch.equal(kept, value)

    def test_without_numbers(self) -> None:
        """Of a model on the device `meta` it keeps the shape."""
        detector = LayerActivationDetector(0, target_dtype=torch.float16)
        model = tenterhook.attach(nn.Sequential(nn.Linear(2, 3, device="meta")))
        model.layers.register_hook(0, detector)
        model(torch.ones(4, 2, device="meta"))

        kept = detector.get_captured()
        assert kept is not None
        assert (kept.device.type, kept.dtype, kept.shape) == ("meta", torch.float16, (4, 3))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_casts(self, dtype: torch.dtype) -> None:
        """With `target_dtype` the copy is in that, and the model's own output is not."""
        detector = LayerActivationDetector(0, target_dtype=dtype)
        out = run(nn.Sequential(nn.Linear(2, 3)), detector)

        kept = detector.get_captured()
        assert kept is not None
        assert (kept.dtype, out.dtype) == (dtype, torch.float32)
        assert torch.equal(kept, out.to(dtype))

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param((None, ONE), id="tuple"),
            pytest.param([ONE, "text"], id="list"),
            pytest.param({"rest": 1, "tensor": ONE}, id="dict"),
            pytest.param(nn.Parameter(ONE), id="parameter"),
        ],
    )
    def test_structures(self, value: Any) -> None:
        """Of a structure it keeps the activation."""
        detector = LayerActivationDetector(0)
        assert run(nn.Sequential(_Returns(value)), detector) is value
        kept = detector.get_captured()
        assert kept is not None
        assert torch.equal(kept, ONE)
        assert type(kept) is Tensor

    @pytest.mark.parametrize("value", [None, "text", (), {"a": 1}], ids=repr)
    def test_no_tensor(self, value: Any) -> None:
        """Of an output without a tensor it keeps nothing, not what came before."""
        module, detector = _Returns(ONE), LayerActivationDetector("output")
        run(module, detector)
        module.value = value
        run(module, detector)

        assert detector.get_captured() is None
        assert "activations_shape" not in detector.metadata

    @pytest.mark.parametrize("shape", [(0, 2), (), (1, 2, 3, 4)], ids=str)
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        """Empty batches, numbers and many axes are kept."""
        detector = LayerActivationDetector(0)
        run(nn.Sequential(_Returns(torch.ones(shape))), detector)
        assert detector.metadata["activations_shape"] == shape

    def test_clear(self) -> None:
        """`clear_captured` forgets, at any time; other metadata stays."""
        detector = LayerActivationDetector(0)
        detector.clear_captured()
        run(nn.Sequential(nn.Linear(2, 3)), detector)
        detector.metadata["mine"] = 1
        detector.clear_captured()

        assert detector.get_captured() is None
        assert detector.metadata == {"mine": 1}
        assert detector.tensor_metadata == {}


class TestOwnMemory:
    """What it hands out is the user's own."""

    @pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
    def test_in_place_layers(self, dtype: torch.dtype | None) -> None:
        """A later in-place layer does not change it."""
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
        x = torch.tensor([[-3.0, -5.0], [4.0, 8.0]])
        expected = module[0](x).detach()
        detector = LayerActivationDetector(0, target_dtype=dtype)
        run(module, detector, x)

        kept = detector.get_captured()
        assert kept is not None
        assert torch.equal(kept, expected.to(dtype or torch.float32))

    def test_later_forwards(self) -> None:
        """A later forward does not change what was handed out, nor does a new buffer reuse it."""
        module, detector = nn.Sequential(_Returns(torch.ones(2))), LayerActivationDetector(0)
        run(module, detector)
        first = detector.get_captured()
        module[0].value.fill_(5)  # type: ignore[operator]
        run(module, detector)

        assert first is not None
        assert first.tolist() == [1, 1]
        assert detector.tensor_metadata["activations"].tolist() == [5, 5]

    def test_writing_to_it(self) -> None:
        """Writing to it does not reach the model: not its input, nor its weights."""
        parameter, x = nn.Parameter(torch.ones(2)), torch.ones(2)
        for module in (nn.Sequential(_Returns(parameter)), nn.Sequential(nn.Identity())):
            detector = LayerActivationDetector(0)
            run(module, detector, x)
            detector.tensor_metadata["activations"].zero_()
        assert parameter.tolist() == [1, 1]
        assert x.tolist() == [1, 1]

    def test_storage_of_a_view(self) -> None:
        """Of a view of a large tensor only the view is kept."""
        detector = LayerActivationDetector(0)
        run(nn.Sequential(_Returns(torch.ones(10_000)[:2])), detector)
        assert detector.tensor_metadata["activations"].untyped_storage().nbytes() == 8

    @pytest.mark.parametrize("dtype", [None, torch.float64])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes(self, mode: Any, dtype: torch.dtype | None) -> None:
        """What was kept without gradients is fit for training and for writing to."""
        detector = LayerActivationDetector(0, target_dtype=dtype)
        with mode():
            run(nn.Sequential(nn.Linear(2, 3)), detector)

        kept = detector.tensor_metadata["activations"]
        assert not kept.is_inference()
        kept.add_(1)
        probe = nn.Linear(3, 1, dtype=kept.dtype)
        probe(kept).sum().backward()
        assert probe.weight.grad is not None


class TestModel:
    @pytest.mark.parametrize("dtype", [None, torch.float16])
    def test_changes_nothing(self, dtype: torch.dtype | None) -> None:
        """Output and gradients are those without it, to the bit."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
        bare = copy.deepcopy(module)
        model = tenterhook.attach(module)
        for at in range(3):
            model.layers.register_hook(at, LayerActivationDetector(at, target_dtype=dtype))

        for each in (module, bare):
            each(torch.ones(2, 2)).sum().backward()

        assert torch.equal(module(ONE), bare(ONE))
        assert all(
            torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
            for one, other in zip(module.parameters(), bare.parameters(), strict=True)
        )

    def test_on_a_bare_module(self) -> None:
        """It works as a torch hook, with no tenterhook model around it."""
        module, detector = nn.Linear(2, 3), LayerActivationDetector("any")
        module.register_forward_hook(detector.get_torch_hook())
        out = module(ONE)
        assert torch.equal(detector.tensor_metadata["activations"], out)

    def test_in_a_scope(self) -> None:
        """It works in a scope, and keeps what it saw after that."""
        model, detector = tenterhook.attach(nn.Sequential(nn.Linear(2, 3))), None
        detector = LayerActivationDetector(0)
        with model.hooks((0, detector)):
            out = model(ONE)
        model(ONE * 9)
        assert torch.equal(detector.tensor_metadata["activations"], out)

    def test_pickles(self) -> None:
        """A detector goes from one process to another with what it has kept."""
        detector = LayerActivationDetector(0, "mine")
        run(nn.Sequential(nn.Linear(2, 3)), detector)
        again = pickle.loads(pickle.dumps(detector))
        assert torch.equal(again.get_captured(), detector.tensor_metadata["activations"])

    def test_read_while_the_model_runs(self) -> None:
        """What another thread reads is whole: one call's activation, never a mixture."""
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        detector = LayerActivationDetector(0)
        model.layers.register_hook(0, detector)
        model(torch.zeros(64))
        done = threading.Event()

        def work() -> None:
            for number in range(200):
                model(torch.full((64,), float(number)))
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        mixed = 0
        while not done.is_set():
            kept = detector.get_captured()
            mixed += kept is None or bool((kept != kept[0]).any())
        thread.join()
        assert mixed == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_complete_copy_from_an_accelerator() -> None:
    """What is handed out has finished copying, however much work stands before it."""
    module = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(inplace=True)).cuda()
    x = torch.randn(4096, 2048, device="cuda")
    detector = LayerActivationDetector(0)
    with torch.no_grad():
        expected = module[0](x).cpu()
        model = tenterhook.attach(module)
        model.layers.register_hook(0, detector)
        for _ in range(20):
            model(x)
            kept = detector.get_captured()
            assert kept is not None
            assert torch.equal(kept, expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensors(layout: torch.layout) -> None:
    """Of a nested tensor a copy is kept, and as its shape that of each row."""
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=layout)
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    detector = LayerActivationDetector("0")
    model.layers.register_hook("0", detector)
    model(x)
    captured = detector.get_captured()
    assert captured is not None
    assert [row.tolist() for row in captured.unbind()] == [row.tolist() for row in x.unbind()]
    assert detector.metadata["activations_shape"] == ((2, 4), (3, 4))
