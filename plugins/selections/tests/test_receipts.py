"""What a steered scope says of itself: calls, tokens, and how large the change was."""

import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 10, 0, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def model() -> HookedModel:
    """A small GPT-2."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=32)
    return tenterhook.attach(GPT2LMHeadModel(config).train(False))


def double(tensor: Tensor) -> Tensor:
    """Return twice a tensor."""
    return tensor * 2


@pytest.mark.parametrize(
    ("selected", "tokens"),
    [
        ({"tokens": ":"}, 10),
        ({"tokens": "last"}, 3),
        ({"tokens": [0, 1]}, 6),
        ({"tokens": [2]}, 2),
        ({"tokens": ":", "rows": [1]}, 3),
        ({"rows": [0, 2]}, 10),  # rows alone, padding too
        ({"tokens": ":", "features": [1, 3]}, 10),
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_are_counted(
    model: HookedModel, selected: dict[str, Any], tokens: int, side: str
) -> None:
    """Those that were changed, in each call, padding left out where tokens are selected."""
    ids, mask = IDS, MASK
    if side == "left":
        ids, mask = (torch.stack([row.roll(-n) for row, n in zip(t, (0, 3, 2), strict=True)])
                     for t in (IDS, MASK))  # fmt: skip
    with torch.no_grad(), model.steer("transformer.h.0", double, **selected) as receipt:
        assert (receipt.calls, receipt.tokens) == (0, 0)
        model(ids, attention_mask=mask)
        assert (receipt.calls, receipt.tokens) == (1, tokens)
        model(ids, attention_mask=mask)
    assert (receipt.calls, receipt.tokens, receipt.change) == (2, 2 * tokens, None)


class Heads(nn.Module):
    """Embeds ids, and splits what it gives into heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 8)
        self.split = nn.Unflatten(-1, (2, 4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[batch, tokens, heads, features]`."""
        found: Tensor = self.split(self.table(input_ids))
        return found


@pytest.mark.parametrize(
    ("selected", "tokens"), [({"tokens": [0]}, 3), ({"rows": [0, 1]}, 10), ({"tokens": ":"}, 10)]
)
def test_axes_behind_the_tokens(selected: dict[str, Any], tokens: int) -> None:
    """A token counts once, however many heads it has."""
    model = tenterhook.attach(Heads())
    with torch.no_grad(), model.steer("split", double, **selected, measure=True) as receipt:
        model(IDS, attention_mask=MASK)
    assert (receipt.tokens, receipt.change) == (tokens, 1.0)


def test_how_large(model: HookedModel) -> None:
    """The norm of the change through that of the activation where it was changed."""
    torch.manual_seed(1)
    vector = torch.randn(8)
    with torch.no_grad(), model.capture("transformer.h.1", tokens=[1, 2]) as captured:
        model(IDS, attention_mask=MASK)
    before = captured.last("transformer.h.1").double()
    with (
        torch.no_grad(),
        model.steer(
            "transformer.h.1", lambda x: x + vector, tokens=[1, 2], measure=True
        ) as receipt,
    ):
        model(IDS, attention_mask=MASK)
    change = vector.double().expand(before.shape).norm() / before.norm()
    assert receipt.tokens == len(before)
    assert receipt.change == pytest.approx(float(change), rel=1e-5)


def test_of_everything(model: HookedModel) -> None:
    """Without a selection the calls are counted; measured, all that is in the activation."""
    with torch.no_grad(), model.steer("transformer.h.[01]", double) as receipt:
        model(IDS)
    assert (receipt.calls, receipt.tokens, receipt.change) == (2, None, None)
    with torch.no_grad(), model.steer("transformer.h.[01]", double, measure=True) as receipt:
        model(IDS)
    assert (receipt.calls, receipt.tokens, receipt.change) == (2, 2 * IDS.numel(), 1.0)


def test_a_function_that_leaves_it(model: HookedModel) -> None:
    """A call in which nothing was changed is none."""
    with torch.no_grad(), model.steer("transformer.h.0", lambda x: None, tokens=":") as receipt:
        model(IDS, attention_mask=MASK)
    assert (receipt.calls, receipt.tokens) == (0, 0)


def test_each_opening_has_its_own(model: HookedModel) -> None:
    """A scope that is opened again begins at 0, and one for many calls is right after many."""
    scope = model.steer("transformer.h.0", double, tokens="last", measure=True)
    with torch.no_grad():
        with scope as receipt:
            for _ in range(600):
                model(IDS[:1, :2])
        assert (receipt.calls, receipt.tokens, receipt.change) == (600, 600, 1.0)
        with scope as receipt:
            model(IDS, attention_mask=MASK)
        assert (receipt.calls, receipt.tokens) == (1, 3)


def test_steps_of_a_generation(model: HookedModel) -> None:
    """Each generated token is counted once."""
    made: Any = model.module
    with model.steer("transformer.h.0", double, phase="generated") as receipt:
        made.generate(
            IDS[:1], attention_mask=MASK[:1], max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    assert receipt.tokens == 5  # the last one is not run
    assert receipt.calls == 5


class Halve(Controller):
    """Halves what it is given."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor:
        """Return half of it."""
        tensor = inputs if output is None else output
        assert tensor is not None
        return tensor / 2


@pytest.mark.parametrize("kind", ["pre_forward", "backward"])
def test_inputs_and_gradients(model: HookedModel, kind: str) -> None:
    """Are counted and measured alike."""
    with model.steer("transformer.h.1", Halve(kind), tokens=[0], measure=True) as receipt:
        model(IDS, attention_mask=MASK).logits.sum().backward()
    assert (receipt.calls, receipt.tokens) == (1, 3)
    assert receipt.change == pytest.approx(0.5)


def test_hooks_with_selections_of_their_own(model: HookedModel) -> None:
    """The counts are of all of them."""
    with (
        torch.no_grad(),
        model.hooks(
            ("transformer.h.0", Halve(), tenterhook.Selection(tokens=[0])),
            ("transformer.h.1", Halve(), tenterhook.Selection(tokens=":")),
        ) as receipt,
    ):
        model(IDS, attention_mask=MASK)
    assert (receipt.calls, receipt.tokens) == (2, 13)


def test_threads_lose_nothing(model: HookedModel) -> None:
    """Threads that a scope was carried into count together."""
    with torch.no_grad(), model.steer("transformer.h.0", double, tokens=":") as receipt:

        @tenterhook.carry
        def run() -> None:
            with torch.no_grad():
                for _ in range(100):
                    model(IDS, attention_mask=MASK)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (receipt.calls, receipt.tokens) == (400, 4000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4, 1e25], ids=str)
def test_measured_at_any_size(dtype: torch.dtype, size: float) -> None:
    """The squares of large and small numbers stay within a range."""
    value = torch.tensor([[size, size]]).to(dtype)
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    with model.steer("0", torch.Tensor.neg, measure=True) as receipt:
        model(value)
    if bool(value.isfinite().all()):
        assert receipt.change == pytest.approx(2.0, rel=1e-6)
    else:
        assert receipt.change is not None
        assert math.isnan(receipt.change)
