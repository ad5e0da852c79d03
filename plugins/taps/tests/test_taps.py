"""Taps on models that are not compiled: what they capture, what they change, how they go."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError, NeverFired, UnknownLayer
from tenterhook.errors import HookWarning
from tenterhook.hooks import Controller, Detector
from tenterhook_taps import RoomFull, RowsMismatch, Tap, Taps, TapsRemoved, WidthMismatch

ROWS, SEQ, WIDTH = 3, 5, 8
VECTOR = torch.linspace(-1, 1, WIDTH)


class Pair(NamedTuple):
    """An output of two fields."""

    hidden: Tensor
    rest: str


class Block(nn.Module):
    """Returns a pair, as blocks of language models did."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *, plus: Tensor | None = None) -> Pair:
        """Return what the block makes of `x`."""
        made = x + torch.relu(self.line(x))
        return Pair(made if plus is None else made + plus, "rest")


class Net(nn.Module):
    """A stack of blocks between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return `(rows, seq, 4)` for ids."""
        x = self.embed(ids)
        for block in self.h:
            x = block(x, plus=x).hidden
        out: Tensor = self.head(x)
        return out


IDS = torch.arange(ROWS * SEQ).reshape(ROWS, SEQ) % 11


@pytest.fixture
def model() -> HookedModel:
    """A small model, the same every time."""
    torch.manual_seed(0)
    return tenterhook.attach(Net())


def steered(model: HookedModel, layer: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what the model makes of a change by a scope."""
    with model.steer(layer, change):
        out: Tensor = model(IDS)
    return out


class TestPlacing:
    """Which layers have a tap."""

    def test_every_spelling(self, model: HookedModel) -> None:
        """Layers are found, and a tap is had, by name, alias, index, pattern or module's list."""
        taps = model.taps(["layer_1", "h.*.line"], "head")
        assert list(taps) == ["h.1", "h.0.line", "h.1.line", "h.2.line", "head"]
        assert len(taps) == 5
        assert taps["layer_1"] is taps["h.1"] is taps[model.layers.list_layers().index("h.1")]
        assert taps["h.1"].layer_signature == "h.1"
        assert repr(taps["head"]).startswith("Tap(id=")
        assert repr(model.taps("embed")) == "Taps(['embed'])"

    def test_unknown(self, model: HookedModel) -> None:
        """A layer that is not there is named with the closest, and nothing is placed."""
        with pytest.raises(UnknownLayer, match=r"No layer 'layer_7'.*layer_0"):
            model.taps("h.0", "layer_7")
        with pytest.raises(ValueError, match="at least one layer"):
            model.taps()
        with pytest.raises(ValueError, match="does not run at 'input'"):
            model.taps("h.0", "input")
        assert len(model.layers) == 0
        tenterhook.assert_clean(model)

    def test_not_tapped(self, model: HookedModel) -> None:
        """A layer without a tap is a `KeyError` that says which have one."""
        taps = model.taps("h.0")
        with pytest.raises(KeyError, match=r"'h\.1' has no tap here; \['h.0'\] have"):
            taps["layer_1"]
        with pytest.raises(KeyError, match=r"'h\.1' has no tap here"):
            taps.capture("h.0", "h.1")
        with pytest.raises(KeyError, match=r"'h\.0\.line' has no tap here"):
            taps.capture("*.line")
        with pytest.raises(UnknownLayer):
            taps["layer_7"]
        assert "layer_0" in taps
        assert "h.1" not in taps
        assert "nothing" not in taps
        assert taps.get("layer_1", "none") == "none"

    def test_beside_other_hooks(self, model: HookedModel) -> None:
        """Detectors and controllers join a layer with a tap, in the order of registration."""

        class Seen(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                self.tensor_metadata["seen"] = output.hidden

        class Doubles(Controller):
            def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
                doubled: Tensor = output * 2
                return doubled

        taps, seen = model.taps("h.0"), Seen()
        model.layers.register_hook("h.0", seen)
        model.layers.register_hook("h.0", Doubles())
        taps["h.0"].add(VECTOR)
        with taps.capture() as captured, model.capture("h.0") as later:
            model(IDS)
        first = captured.last("h.0")
        assert torch.equal(seen.tensor_metadata["seen"], first + VECTOR)
        assert torch.equal(later.last("h.0"), (first + VECTOR) * 2)

    def test_twice(self, model: HookedModel) -> None:
        """Two sets of taps on a layer are two hooks: the second sees what the first changed."""
        first, second = model.taps("h.0"), model.taps("layer_0")
        first["h.0"].add(VECTOR)
        with first.capture() as before, second.capture() as after:
            model(IDS)
        assert torch.equal(after.last("h.0"), before.last("h.0") + VECTOR)


class TestChanging:
    """Vectors that are added, and factors."""

    def test_as_a_scope(self, model: HookedModel) -> None:
        """A vector, a factor and both are what a scope that says the same gives."""
        plain, taps = model(IDS), model.taps("h.0", "h.1.line", "head")
        assert torch.equal(model(IDS), plain)
        tap = taps["h.1.line"]
        cases: list[tuple[Callable[[Tap], Any], Callable[[Tensor], Tensor]]] = [
            (lambda tap: tap.add(VECTOR), lambda x: x + VECTOR),
            (lambda tap: tap.add(VECTOR, -0.5), lambda x: x - 0.5 * VECTOR),
            (lambda tap: tap.scale(0), lambda x: 0 * x),
            (lambda tap: tap.scale(torch.tensor(2.5)), lambda x: 2.5 * x),
        ]
        for change, says in cases:
            change(tap)
            out = model(IDS)
            taps.clear()
            assert torch.equal(out, steered(model, "h.1.line", says))

    def test_each_row(self, model: HookedModel) -> None:
        """Rows of the batch have factors, coefficients and vectors of their own."""
        taps = model.taps("h.1.line")
        factors, coefficients = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1, 0, 4])
        vectors = torch.randn(ROWS, WIDTH)
        taps["h.1.line"].scale(factors)
        taps["h.1.line"].add(vectors, coefficients)
        out = model(IDS)
        taps.clear()
        by_hand = steered(
            model,
            "h.1.line",
            lambda x: x * factors[:, None, None] + (coefficients[:, None] * vectors)[:, None],
        )
        assert torch.allclose(out, by_hand, atol=1e-6)

    def test_the_other_fields_stay(self, model: HookedModel) -> None:
        """Of a tuple or object the activation changes, and its type and other fields do not."""
        block = model.module.get_submodule("h.0")
        taps, x = model.taps("h.0"), torch.randn(2, 3, WIDTH)
        plain = block(x)
        taps["h.0"].add(VECTOR)
        out = block(x)
        assert type(out) is Pair
        assert out.rest == "rest"
        assert torch.equal(out.hidden, plain.hidden + VECTOR)

    def test_until(self, model: HookedModel) -> None:
        """A `with` block takes back what was changed for it, after an error, too."""
        taps, plain = model.taps("h.0"), model(IDS)
        tap = taps["h.0"]
        tap.scale(2.0)
        doubled = model(IDS)
        with tap.add(VECTOR) as same:
            assert same is tap
            with tap.clear():
                assert torch.equal(model(IDS), plain)
            assert not torch.equal(model(IDS), doubled)
        assert torch.equal(model(IDS), doubled)
        with pytest.raises(KeyError, match="mine"), tap.scale(0):
            raise KeyError("mine")
        assert torch.equal(model(IDS), doubled)

    def test_copied(self, model: HookedModel) -> None:
        """What is written to a vector afterwards does not count; no input is written to."""
        taps, vector = model.taps("h.0"), VECTOR.clone()
        taps["h.0"].add(vector)
        out = model(IDS)
        vector.zero_()
        assert torch.equal(model(IDS), out)
        x = torch.randn(2, 3, WIDTH)
        before = x.clone()
        model.module.get_submodule("h.0")(x)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        """The sum is rounded once, to the activation's dtype."""
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        taps, x = model.taps("0"), torch.randn(ROWS, SEQ, WIDTH).to(dtype)
        taps["0"].add(VECTOR, 0.3)
        taps["0"].scale(1.1)
        wide = torch.promote_types(dtype, torch.float32)
        out = model(x)
        assert out.dtype is dtype
        assert torch.equal(
            out, (x * torch.tensor([1.1], dtype=wide) + 0.3 * VECTOR.to(wide)).to(dtype)
        )

    def test_few_axes(self) -> None:
        """Activations of one or two axes are changed; those of one axis have no rows."""
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        taps = model.taps("0")
        x = torch.randn(ROWS, WIDTH)
        taps["0"].add(VECTOR, torch.tensor([1.0, 2.0, 3.0]))
        assert torch.allclose(model(x), x + torch.tensor([[1.0], [2.0], [3.0]]) * VECTOR)
        with pytest.raises(HookError, match="for 3 rows, and the batch of this call has no rows"):
            model(x[0])
        taps["0"].add(VECTOR)
        assert torch.equal(model(x[0]), x[0] + VECTOR)
        with pytest.raises(HookError, match=r"changes vectors.*torch\.float32, of shape \(\)"):
            model(torch.tensor(2.0))

    def test_gradients(self, model: HookedModel) -> None:
        """Gradients flow through a tap, with its factor, as through the same by hand."""
        taps = model.taps("h.1.line")
        weight = model.module.get_parameter("h.0.line.weight")
        taps["h.1.line"].scale(torch.tensor([1.0, -3.0, 0.5]))
        (model(IDS) ** 2).sum().backward()
        found = weight.grad
        weight.grad = None
        taps.remove()
        factors = torch.tensor([1.0, -3.0, 0.5])[:, None, None]
        loss = (steered(model, "h.1.line", lambda x: x * factors) ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        expected = model.module.get_parameter("h.0.line.weight").grad
        assert found is not None
        assert expected is not None
        assert torch.allclose(found, expected, atol=1e-5)


class TestRefused:
    """What a tap does not take, at once where it can be told."""

    @pytest.mark.parametrize(
        ("call", "error", "match"),
        [
            (lambda tap: tap.add([1.0]), TypeError, "vector is a tensor of real numbers, not list"),
            (lambda tap: tap.add(1.0), TypeError, "vector is a tensor of real numbers, not float"),
            (lambda tap: tap.add(VECTOR > 0), TypeError, "not torch.bool"),
            (lambda tap: tap.add(VECTOR.to(torch.complex64)), TypeError, "not torch.complex64"),
            (
                lambda tap: tap.add(torch.zeros(1, 2, 3)),
                ValueError,
                r"vector is \(features,\) or \(rows, features\), not of shape \(1, 2, 3\)",
            ),
            (
                lambda tap: tap.add(VECTOR, torch.zeros(2, 2)),
                ValueError,
                r"coefficient is a number or \(rows,\), not of shape \(2, 2\)",
            ),
            (
                lambda tap: tap.scale("2"),
                TypeError,
                "factors is a number or a tensor of real numbers, not str",
            ),
            (
                lambda tap: tap.add(nn.Parameter(VECTOR.clone())),
                TypeError,
                r"no gradient|requires a gradient.*vector.detach\(\).*AddVector",
            ),
        ],
    )
    def test_values(
        self, model: HookedModel, call: Callable[[Any], Any], error: type, match: str
    ) -> None:
        """What is no vector or number, with what would be; nothing is changed."""
        taps = model.taps("h.0")
        with pytest.raises(error, match=match):
            call(taps["h.0"])
        assert not taps["h.0"].changes

    def test_does_not_fit(self, model: HookedModel) -> None:
        """A width or number of rows that is not the call's is a `HookError` that names both."""
        taps = model.taps("h.0")
        taps["h.0"].add(torch.ones(7))
        with pytest.raises(HookError, match=r"Layer 'h\.0': Tap.*7 features.*has 8\.") as caught:
            model(IDS)
        assert isinstance(caught.value.original_error, WidthMismatch)
        taps["h.0"].add(VECTOR)
        taps["h.0"].scale(torch.ones(4))
        with pytest.raises(HookError, match=r"scale\(\) was given for 4 rows.*has 3") as rows:
            model(IDS)
        assert isinstance(rows.value.original_error, RowsMismatch)
        assert rows.value.original_error.batch == 3
        taps.clear()
        model(IDS)

    def test_integers(self) -> None:
        """Integers are captured and not changed."""
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        taps = model.taps("0")
        with taps.capture() as captured:
            model(IDS)
        assert torch.equal(captured.last("0"), IDS)
        taps["0"].scale(2)
        with pytest.raises(HookError, match=r"changes vectors of floating point.*torch\.int64"):
            model(IDS)


class TestCapturing:
    """What layers returned, kept."""

    def test_calls(self, model: HookedModel) -> None:
        """A tensor for each call in the scope, by every spelling, and none after it."""
        taps = model.taps("h.*", "head")
        with taps.capture("layer_1", "head") as captured, model.capture("h.1", "head") as expected:
            model(IDS)
            out = model(IDS[:2, :3])
        model(IDS)
        assert list(captured) == ["h.1", "head"]
        assert [tuple(t.shape) for t in captured["layer_1"]] == [(3, 5, 8), (2, 3, 8)]
        for layer in captured:
            for one, other in zip(captured[layer], expected[layer], strict=True):
                assert torch.equal(one, other)
        assert torch.equal(captured.last("head"), out)
        assert not captured.last("head").requires_grad

    def test_before_the_change(self, model: HookedModel) -> None:
        """A capture has what the layer itself returned."""
        taps = model.taps("h.0")
        with model.capture("h.0") as plain:
            model(IDS)
        with taps["h.0"].add(VECTOR), taps.capture() as captured:
            model(IDS)
        assert torch.equal(captured.last("h.0"), plain.last("h.0"))

    def test_nested(self, model: HookedModel) -> None:
        """Captures open beside and in each other each have their calls."""
        taps = model.taps("h.0", "h.1")
        with taps.capture() as outer:
            model(IDS)
            with taps.capture("h.1") as inner:
                model(IDS)
        assert [len(outer["h.0"]), len(outer["h.1"]), len(inner["h.1"])] == [2, 2, 1]

    def test_room(self, model: HookedModel) -> None:
        """With `max_tokens` the calls lie one after another in memory that is taken once."""
        taps = model.taps("h.0")
        with taps.capture(max_tokens=40, dtype=torch.float64) as captured:
            model(IDS)
            model(IDS[:2, :4])
            model(IDS[:1])
        first, second, third = captured["h.0"]
        assert first.dtype is torch.float64
        assert [t.shape[:2].numel() for t in (first, second, third)] == [15, 8, 5]
        assert first.untyped_storage().data_ptr() == third.untyped_storage().data_ptr()
        assert second.data_ptr() - first.data_ptr() == 15 * WIDTH * 8
        with model.capture("h.0") as expected:
            model(IDS[:2, :4])
        assert torch.equal(second, expected.last("h.0").double())

    def test_too_little_room(self, model: HookedModel) -> None:
        """A call that does not fit is an error that says how much is needed; the rest is there."""
        taps = model.taps("h.0")
        with taps.capture(max_tokens=20) as captured:
            model(IDS)
            with pytest.raises(HookError, match=r"max_tokens=20, and the calls .* 30") as caught:
                model(IDS)
        assert isinstance(caught.value.original_error, RoomFull)
        assert len(captured["h.0"]) == 1
        with pytest.raises(ValueError, match="max_tokens=0 is not a number of tokens"):
            taps.capture(max_tokens=0)
        model(IDS)

    def test_room_of_one_width(self) -> None:
        """Room is for activations of one width."""
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        taps = model.taps("0")
        with taps.capture(max_tokens=20):
            model(torch.zeros(2, 4))
            with pytest.raises(HookError, match=r"has 4 features.*this call has 5.*max_tokens out"):
                model(torch.zeros(2, 5))

    def test_no_inference_tensors(self, model: HookedModel) -> None:
        """What was captured in inference mode can be trained on."""
        taps = model.taps("h.0")
        with torch.inference_mode():
            for room in (None, 20):
                with taps["h.0"].scale(2.0), taps.capture(max_tokens=room) as captured:
                    model(IDS)
                assert not captured.last("h.0").is_inference()

    def test_never_ran(self, model: HookedModel) -> None:
        """A layer that no call came by is reported as asked; an error in the scope comes first."""
        taps = model.taps("h.0", "h.1")
        with pytest.warns(HookWarning, match=r"saw no call at 'h\.0', 'h\.1'"), taps.capture():
            pass
        with pytest.raises(NeverFired, match=r"'h\.0'"), taps.capture(missing="raise"):
            pass
        with taps.capture(missing="ignore"):
            pass
        with pytest.raises(KeyError, match="mine"), taps.capture(missing="raise"):
            raise KeyError("mine")
        with pytest.raises(ValueError, match="missing='loud' is not one of 'warn', 'raise'"):
            taps.capture(missing="loud")  # type: ignore[arg-type]

    def test_opened_again(self, model: HookedModel) -> None:
        """One capture can be opened again, for other tensors, and not while it is open."""
        taps = model.taps("h.0")
        capture = taps.capture()
        with capture as first:
            model(IDS)
            with pytest.raises(RuntimeError, match="is open already"):
                capture.__enter__()
        with capture as second:
            model(IDS)
        assert len(first["h.0"]) == len(second["h.0"]) == 1


class TestLifetimes:
    """How taps end, and whose they are."""

    def test_removed(self, model: HookedModel) -> None:
        """Nothing stays on the model, and what is asked of removed taps is an error."""
        plain = model(IDS)
        with model.taps("h.*") as taps:
            taps["h.0"].add(VECTOR)
            capture = taps.capture()
            assert not torch.equal(model(IDS), plain)
        assert torch.equal(model(IDS), plain)
        tenterhook.assert_clean(model)
        taps.remove()
        for call in (lambda: taps["h.0"].add(VECTOR), taps.clear, capture.__enter__):
            with pytest.raises(TapsRemoved, match=r"at 'h.0' was removed.*model\.taps"):
                call()

    def test_removed_inside(self, model: HookedModel) -> None:
        """Taps that are removed while a capture is open or a change stands are gone for good."""
        taps, plain = model.taps("h.0"), model(IDS)
        with taps["h.0"].add(VECTOR), taps.capture(missing="ignore") as captured:
            taps.remove()
            model(IDS)
        assert captured["h.0"] == []
        assert torch.equal(model(IDS), plain)

    def test_cleared_by_others(self, model: HookedModel) -> None:
        """Where somebody unregisters all hooks, a capture says that it saw nothing."""
        taps = model.taps("h.0")
        model.layers.clear()
        with pytest.warns(HookWarning, match="saw no call at 'h.0'"), taps.capture():
            model(IDS)
        taps.remove()

    @pytest.mark.parametrize(
        "copied",
        [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies_of_the_model(
        self, model: HookedModel, copied: Callable[[nn.Module], nn.Module]
    ) -> None:
        """A copy of a model has no taps, and can have its own."""
        taps, plain = model.taps("h.0"), model(IDS)
        taps["h.0"].add(VECTOR)
        other = tenterhook.attach(copied(model.module))
        assert torch.equal(other(IDS), plain)
        own = other.taps("h.0")
        with own.capture() as captured, taps.capture(missing="ignore") as first:
            other(IDS)
        assert len(captured["h.0"]) == 1
        assert first["h.0"] == []

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_no_copies_of_taps(self, model: HookedModel, copied: Callable[[Any], Any]) -> None:
        """Taps themselves are not copied."""
        taps = model.taps("h.0")
        with pytest.raises(TypeError, match=r"'h.0' belongs to its model.*model\.taps"):
            copied(taps["h.0"])

    def test_moved(self, model: HookedModel) -> None:
        """A model that is moved to another dtype keeps its taps, and vectors follow."""
        taps = model.taps("h.0")
        taps["h.0"].add(VECTOR.double(), torch.tensor([1.0, 2.0, 3.0]))
        single = model(IDS)
        model.module.double()
        assert torch.allclose(model(IDS), single.double(), atol=1e-5)
        model.module.to(torch.bfloat16)
        assert torch.allclose(model(IDS).float(), single, atol=0.2)

    def test_threads(self, model: HookedModel) -> None:
        """Taps are for everyone who runs the model: another thread sees a change and is seen."""
        taps, outs = model.taps("h.0"), []
        with taps["h.0"].add(VECTOR), taps.capture() as captured:
            threads = [threading.Thread(target=lambda: outs.append(model(IDS))) for _ in range(8)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            mine = model(IDS)
        assert len(captured["h.0"]) == 9
        assert all(torch.equal(out, mine) for out in outs)

    def test_without_controllers(self, model: HookedModel) -> None:
        """Where controllers are off, so are taps."""
        taps, plain = model.taps("h.0"), model(IDS)
        with taps["h.0"].add(VECTOR), model.without_controllers():
            assert torch.equal(model(IDS), plain)

    def test_freed(self, model: HookedModel) -> None:
        """Taps keep nothing of a model that is gone."""
        import weakref

        taps = tenterhook.attach(Net()).taps("h.0")
        weight = weakref.ref(taps._registry.index.module)  # no public way to the module
        del taps
        import gc

        gc.collect()
        assert weight() is None


def test_made_by_the_model(model: HookedModel) -> None:
    """`model.taps` is `Taps(model, ...)`, by the name of core, too."""
    import tenterhook.taps

    assert tenterhook.taps.Taps is Taps
    assert type(model.taps("h.0")) is Taps
