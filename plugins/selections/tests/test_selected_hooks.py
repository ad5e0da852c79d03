"""Selections on hooks of every kind: in scopes of several hooks, on gradients, in detectors."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError, Selection
from tenterhook.hooks import Controller, Detector, HookWarning
from tenterhook.selections import tokens_here

WIDTH = 4
IDS = torch.tensor([[7, 7, 1, 2, 3], [4, 5, 6, 1, 2]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
LAST = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]).bool()


class Texts(nn.Module):
    """Takes ids and mask as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return a vector for each token."""
        out: Tensor = torch.tanh(self.line(self.embed(input_ids)))
        return out


class Sees(Detector):
    """Keeps what it is given."""

    def __init__(self, hook_type: str = "forward") -> None:
        super().__init__(hook_type)
        self.seen: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep it."""
        self.seen.append((input[0] if output is None else output).clone())


class Doubles(Controller):
    """Doubles what it is given."""

    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Return twice the activation, or the gradient."""
        return 2 * (inputs if output is None else output)


class Both(Sees, Doubles):
    """Keeps what it is given, and doubles it."""


@pytest.fixture
def model() -> HookedModel:
    """A small model of texts."""
    torch.manual_seed(0)
    return tenterhook.attach(Texts())


def plain(model: HookedModel, layer: str) -> Tensor:
    """Return what a layer gives without hooks, every token."""
    with model.capture(layer) as captured:
        model(IDS, attention_mask=MASK)
    return captured.last(layer)


class TestScope:
    """`model.hooks` takes what `steer` takes, for all of its hooks or for one."""

    def test_controller(self, model: HookedModel) -> None:
        """A controller's change counts only where the selection says."""
        before = plain(model, "line")
        with (
            model.hooks(("line", Doubles()), tokens="last", rows=1),
            model.capture("line") as captured,
        ):
            model(IDS, attention_mask=MASK)
        expected = before.clone()
        expected[1, -1] *= 2
        assert torch.equal(captured.last("line"), expected)

    def test_detector(self, model: HookedModel) -> None:
        """A detector sees the selected part alone, as a capture keeps it."""
        before, sees = plain(model, "line"), Sees()
        with model.hooks(("line", sees), tokens="0:2"):
            model(IDS, attention_mask=MASK)
        assert torch.equal(sees.seen[0], before[[0, 0, 1, 1], [2, 3, 0, 1]])

    def test_detector_before(self, model: HookedModel) -> None:
        """So does one of the inputs."""
        before, sees = plain(model, "embed"), Sees("pre_forward")
        with model.hooks(("line", sees), tokens=0, features=[1]):
            model(IDS, attention_mask=MASK)
        assert torch.equal(sees.seen[0], before[[0, 1], [2, 0]][:, 1:2])

    def test_both(self, model: HookedModel) -> None:
        """A hook of both kinds detects on the selected part, and changes it in the whole."""
        before, both = plain(model, "line"), Both()
        with model.hooks(("line", both), tokens="last"), model.capture("line") as captured:
            model(IDS, attention_mask=MASK)
        assert torch.equal(both.seen[0], before[:, -1])
        assert torch.equal(captured.last("line"), before * (1 + LAST[..., None].int()))

    def test_each_its_own(self, model: HookedModel) -> None:
        """A pair may have a selection in its third place; the scope's is for the others."""
        one, two = Sees(), Sees()
        with model.hooks(("line", one, Selection(tokens=0)), ("line", two), tokens="last", rows=0):
            model(IDS, attention_mask=MASK)
        before = plain(model, "line")
        assert torch.equal(one.seen[0], before[[0, 1], [2, 0]])
        assert torch.equal(two.seen[0], before[:1, -1])

    def test_every(self, model: HookedModel) -> None:
        """`every` counts the calls of each hook."""
        sees = Sees()
        with model.hooks(("line", sees), every=2, rows=0):
            for _ in range(3):
                model(IDS, attention_mask=MASK)
        assert len(sees.seen) == 2

    def test_unmatched(self, model: HookedModel) -> None:
        """A selection that matched nothing is reported, of a detector too."""
        scope = model.hooks(("line", Sees()), ("embed", Doubles()), tokens=9)
        with pytest.warns(HookWarning, match=r"matched no token at 'line', 'embed'"), scope:
            model(IDS, attention_mask=MASK)

    def test_decorator(self, model: HookedModel) -> None:
        """Each call of a decorated function has the selection anew."""
        sees = Sees()

        @model.hooks(("line", sees), tokens="last")
        def run() -> None:
            model(IDS, attention_mask=MASK)

        run()
        run()
        assert [tuple(each.shape) for each in sees.seen] == [(2, WIDTH)] * 2

    def test_no_pair(self, model: HookedModel) -> None:
        """What is no pair is an error, with a selection too."""
        with pytest.raises(TypeError, match="is not a pair of a layer and a Hook"):
            model.hooks("line", tokens=0)  # type: ignore[arg-type]

    def test_asks(self, model: HookedModel) -> None:
        """A detector that asks for the tokens of the whole is told that it sees a part."""

        class Counts(Sees):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                tokens_here(module)

        with model.hooks(("line", Counts())):
            model(IDS, attention_mask=MASK)
        scope = model.hooks(("line", Counts()), tokens="last")
        with scope, pytest.raises(HookError, match="given the selected part alone"):
            model(IDS, attention_mask=MASK)


def gradient(model: HookedModel, run: Callable[[], Any]) -> Tensor:
    """Return the gradient of the embeddings when `run` has run the model forward."""
    weight: Any = model.module.get_submodule("embed").weight
    weight.grad = None
    run().sum().backward()
    found: Tensor = weight.grad
    return found


class TestGradients:
    """What was selected in the forward is what counts of the gradient."""

    def test_changes(self, model: HookedModel) -> None:
        """A gradient is changed where the selection says: as one that is masked by hand."""
        where = LAST[..., None]

        def by_hand() -> Tensor:
            embedded = model.module.get_submodule("embed")(IDS)
            embedded.register_hook(lambda grad: torch.where(where, 3 * grad, grad))
            out: Tensor = torch.tanh(model.module.get_submodule("line")(embedded))
            return out

        def ours() -> Any:
            return model(IDS, attention_mask=MASK)

        with model.steer("embed", lambda g: 3 * g, hook_type="backward", tokens="last"):
            found = gradient(model, ours)
        assert torch.allclose(found, gradient(model, by_hand), atol=1e-7)
        assert not torch.allclose(found, gradient(model, ours), atol=1e-3)

    def test_detector(self, model: HookedModel) -> None:
        """A detector of gradients sees those of the selected tokens."""
        part, whole = Sees("backward"), Sees("backward")
        with model.hooks(("line", whole)), model.hooks(("line", part), tokens="0:2"):
            model(IDS, attention_mask=MASK).sum().backward()
        assert torch.equal(part.seen[0], whole.seen[0][[0, 0, 1, 1], [2, 3, 0, 1]])

    def test_each_forward_its_own(self, model: HookedModel) -> None:
        """Each gradient has what was selected in its own forward, however late it comes."""
        other = MASK.flip(1)
        part, whole = Sees("backward"), Sees("backward")
        with model.hooks(("line", whole)), model.hooks(("line", part), tokens="last"):
            outs = [model(IDS, attention_mask=mask) for mask in (MASK, other)]
            for out in outs:
                out.sum().backward()
        assert torch.equal(part.seen[0], whole.seen[0][[0, 1], [4, 4]])
        assert torch.equal(part.seen[1], whole.seen[1][[0, 1], [2, 4]])

    def test_nothing_selected(self, model: HookedModel) -> None:
        """Where nothing was selected in a forward the hook does not run on its gradient."""
        part = Sees("backward")
        with model.hooks(("line", part), step=1, missing="ignore"):
            for _ in range(3):
                model(IDS, attention_mask=MASK).sum().backward()
        assert len(part.seen) == 1

    def test_shape(self, model: HookedModel) -> None:
        """A gradient keeps its shape, with a selection as without."""
        scope = model.steer("line", lambda g: g[:1], hook_type="backward", tokens="last")
        with scope, pytest.raises(HookError, match="returned a gradient of shape"):
            model(IDS, attention_mask=MASK).sum().backward()

    def test_unmatched(self, model: HookedModel) -> None:
        """A selection of gradients that matched nothing is reported."""
        scope = model.steer("line", torch.neg, hook_type="backward", tokens=9)
        with pytest.warns(HookWarning, match="matched no token at 'line'"), scope:
            model(IDS, attention_mask=MASK).sum().backward()


class TestRegistered:
    """`register_hook` takes a selection, which holds as long as the hook stands."""

    def test_padding(self, model: HookedModel) -> None:
        """It means the tokens of each forward, padded on either side, for all who run it."""
        before, sees = plain(model, "line"), Sees()
        model.layers.register_hook("line", sees, tokens="last")
        model.module(IDS, attention_mask=MASK)
        model.module(IDS, attention_mask=MASK.flip(1))
        assert torch.equal(sees.seen[0], before[:, -1])
        assert torch.equal(sees.seen[1], before[[0, 1], [2, 4]])

    def test_controller(self, model: HookedModel) -> None:
        """A controller's change counts there alone, and others on the layer see it."""
        before = plain(model, "line")
        model.layers.register_hook("line", Doubles(), selection=Selection(tokens=0, rows=1))
        assert torch.equal(plain(model, "line")[1, 0], 2 * before[1, 0])
        assert torch.equal(plain(model, "line")[0], before[0])

    @pytest.mark.parametrize("layer", ["input", "output"])
    def test_whole_model(self, model: HookedModel, layer: str) -> None:
        """On the whole model its look at the forward comes first, whoever was there before."""
        first, last = (Sees("pre_forward" if layer == "input" else "forward") for _ in range(2))
        model.layers.register_hook(layer, first)
        model.layers.register_hook(layer, last, prepend=True, rows=1)
        model.module(IDS, attention_mask=MASK)
        assert torch.equal(last.seen[0], first.seen[0][1:])

    def test_one_hook(self, model: HookedModel) -> None:
        """It is one hook, of its own layer; what looks on at the model is nobody's business."""
        model.layers.register_hook("line", Doubles(), tokens=0)
        model.layers.register_hook("output", Sees())
        assert [hook.layer_signature for hook in model.layers] == ["line", "output"]
        assert list(model.layers.by_layer()) == ["line", "output"]

    def test_off_and_on(self, model: HookedModel) -> None:
        """Switched off it costs nothing and does nothing; switched on it selects as before."""
        sees = Sees()
        model.layers.register_hook("line", sees, tokens="last")
        sees.disable()
        assert not any(module._forward_hooks for module in model.module.modules())
        model.module(IDS, attention_mask=MASK)
        sees.enable()
        model.module(IDS, attention_mask=MASK)
        assert [tuple(each.shape) for each in sees.seen] == [(2, WIDTH)]

    def test_taken_off(self, model: HookedModel) -> None:
        """Nothing of it is left when it is unregistered."""
        hook_id = model.layers.register_hook("line", Doubles(), tokens="last")
        with pytest.raises(tenterhook.NotClean, match="Doubles"):
            tenterhook.assert_clean(model)
        model.layers.unregister_hook(hook_id)
        tenterhook.assert_clean(model)
        assert not model.module._forward_hooks
        assert not model.module._forward_pre_hooks

    def test_copies(self, model: HookedModel) -> None:
        """A copy of the module has none of it."""
        model.layers.register_hook("line", Doubles(), tokens="last")
        plain_out = copy.deepcopy(model.module)(IDS, attention_mask=MASK)
        model.layers.clear()
        assert torch.equal(plain_out, model(IDS, attention_mask=MASK))

    def test_with_scopes(self, model: HookedModel) -> None:
        """It runs before open scopes, which see what it made."""
        before = plain(model, "line")
        model.layers.register_hook("line", Doubles(), tokens="last")
        with model.steer("line", torch.neg, tokens="last"), model.capture("line") as captured:
            model(IDS, attention_mask=MASK)
        assert torch.equal(captured.last("line")[:, -1], -2 * before[:, -1])
        assert torch.equal(plain(model, "line")[:, -1], 2 * before[:, -1])

    def test_gradient(self, model: HookedModel) -> None:
        """So does one on the gradient."""
        sees, whole = Sees("backward"), Sees("backward")
        model.layers.register_hook("line", whole)
        model.layers.register_hook("line", sees, tokens="last")
        model.module(IDS, attention_mask=MASK).sum().backward()
        assert torch.equal(sees.seen[0], whole.seen[0][:, -1])

    def test_threads(self, model: HookedModel) -> None:
        """In each thread it means the tokens of that thread's forward."""
        before, wrong = plain(model, "line"), []
        model.layers.register_hook("line", Doubles(), tokens="last")

        def run(mask: Tensor, columns: list[int]) -> None:
            for _ in range(50):
                with model.capture("line") as captured:
                    model(IDS, attention_mask=mask)
                expected = before.clone()
                expected[[0, 1], columns] *= 2
                wrong.append(not torch.equal(captured.last("line"), expected))

        threads = [
            threading.Thread(target=run, args=(mask, columns))
            for mask, columns in ((MASK, [4, 4]), (MASK.flip(1), [2, 4])) * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [False] * 200

    def test_registered_meanwhile(self, model: HookedModel) -> None:
        """One that is registered while the model runs does not guess what that was given."""

        def register(h: Tensor) -> None:
            if not len(model.layers):
                model.layers.register_hook("line", Doubles(), tokens="last")

        scope = model.steer("embed", register)
        with scope, pytest.raises(HookError, match="a hook that was registered, while the model"):
            model(IDS, attention_mask=MASK)
        model(IDS, attention_mask=MASK)

    def test_fails(self, model: HookedModel) -> None:
        """A registration that fails leaves nothing behind."""
        with pytest.raises(ValueError, match="is not a selection of positions"):
            model.layers.register_hook("line", Doubles(), tokens="a:b")
        hook = Doubles()
        model.layers.register_hook("line", hook)
        with pytest.raises(ValueError, match="registered already"):
            model.layers.register_hook("embed", hook, tokens=0)
        model.layers.clear()
        tenterhook.assert_clean(model)

    @pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
    def test_compiled(self, model: HookedModel, first: bool) -> None:
        """In a compiled model it is right, registered before or after compiling."""
        torch.compiler.reset()
        model.module.requires_grad_(False)
        before, net = plain(model, "line"), model.module
        compiled = torch.compile(net, backend="eager")
        if not first:
            compiled(IDS, attention_mask=MASK)
        model.layers.register_hook("line", Doubles(), tokens="last")
        expected = net(IDS, attention_mask=MASK)
        for _ in range(2):
            assert torch.equal(compiled(IDS, attention_mask=MASK), expected)
        assert torch.equal(expected[:, -1], torch.tanh(2 * before[:, -1]))
        other = compiled(IDS, attention_mask=MASK.flip(1))
        assert torch.equal(other, net(IDS, attention_mask=MASK.flip(1)))
        model.layers.clear()
        assert torch.equal(compiled(IDS, attention_mask=MASK), torch.tanh(before))
