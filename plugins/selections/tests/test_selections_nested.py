"""Selections where a hook runs the model itself: each forward has its own tokens."""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook_selections import generating

WIDTH, DEPTH = 3, 4


class _Texts(nn.Module):
    """Takes ids and mask as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x: Tensor = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def model() -> HookedModel:
    """A model of texts."""
    torch.manual_seed(0)
    return tenterhook.attach(_Texts())


IDS = torch.arange(8).reshape(2, 4)
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
OTHER_MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
LAST = [[0, 1], [1, 2]]


class _Interrupted(BaseException):
    """What `except Exception` does not catch, as Ctrl-C."""


def once(run: Callable[[], Any]) -> Callable[[Tensor], None]:
    """Return a change that runs something the first time, and leaves the activation alone."""
    left = [run]

    def change(t: Tensor) -> None:
        if left:
            left.pop()()

    return change


def plainly(model: HookedModel) -> None:
    """Run other text."""
    model(IDS, OTHER_MASK)


def other_shape(model: HookedModel) -> None:
    """Run a batch of another shape."""
    model(torch.ones(3, 2, dtype=torch.long))


def bare(model: HookedModel) -> None:
    """Run the module and not what `attach` gave."""
    model.module(IDS, attention_mask=OTHER_MASK)


def failing(model: HookedModel) -> None:
    """Run a forward that raises, and go on."""

    def fail(t: Tensor) -> None:
        raise KeyError

    with suppress(HookError), model.steer("blocks.1", fail):
        model(IDS, OTHER_MASK)


def failing_on_its_own(model: HookedModel) -> None:
    """Run a forward that raises without any hook, and go on."""
    with suppress(IndexError):
        model(IDS + 100, OTHER_MASK)


def interrupted(model: HookedModel) -> None:
    """Run a forward that ends as Ctrl-C ends it, and go on."""

    def stop(*_: Any) -> None:
        raise _Interrupted

    handle = model.module.get_submodule("blocks.2").register_forward_hook(stop)
    with suppress(_Interrupted):
        model(IDS, OTHER_MASK)
    handle.remove()


def stopped(model: HookedModel) -> None:
    """Run the first layers."""
    with model.capture("blocks.1", stop_after="blocks.1"):
        model(IDS, OTHER_MASK)


def deeper(model: HookedModel) -> None:
    """Run forwards within forwards, some of which fail."""
    with model.steer("blocks.1", once(lambda: failing(model))):
        stopped(model)
        interrupted(model)


WAYS = [plainly, other_shape, bare, failing, failing_on_its_own, interrupted, stopped, deeper]


class TestForwardInAHook:
    @pytest.mark.parametrize("way", WAYS)
    def test_captures_the_tokens_of_its_own(
        self, model: HookedModel, way: Callable[[HookedModel], None]
    ) -> None:
        """What is selected after it are the tokens of the forward that goes on."""
        with (
            model.steer("blocks.0", once(lambda: way(model))),
            model.capture("blocks.3", tokens="last") as captured,
            model.capture("blocks.3") as whole,
        ):
            model(IDS, MASK)
        assert captured.where("blocks.3")[-1].tolist() == LAST
        assert torch.equal(captured.last("blocks.3"), whole.last("blocks.3")[[0, 1], [1, 2]])

    @pytest.mark.parametrize("way", WAYS)
    def test_changes_the_tokens_of_its_own(
        self, model: HookedModel, way: Callable[[HookedModel], None]
    ) -> None:
        """What is changed after it are the tokens of the forward that goes on."""
        with (
            model.steer("blocks.0", once(lambda: way(model))),
            model.capture("blocks.3") as plain,
            model.steer("blocks.3", torch.zeros_like, tokens="last"),
        ):
            out = model(IDS, MASK)
        expected = plain.last("blocks.3").clone()
        expected[[0, 1], [1, 2]] = 0
        assert torch.equal(out, expected)

    def test_each_forward_its_own(self, model: HookedModel) -> None:
        """The inner forward's tokens are the inner's, the outer's before and after the outer's."""
        with (
            model.capture("embed", "blocks.3", tokens="last") as captured,
            model.steer("blocks.0", once(lambda: model(IDS, OTHER_MASK))),
        ):
            model(IDS, MASK)
        inner = [[0, 3], [1, 0]]
        assert [where.tolist() for where in captured.where("embed")] == [LAST, inner]
        assert [where.tolist() for where in captured.where("blocks.3")] == [inner, LAST]

    def test_a_hook_before_the_whole_model(self, model: HookedModel) -> None:
        """It may run the model, too."""
        with (
            model.steer("input", once(lambda: plainly(model)), hook_type="pre_forward"),
            model.capture("blocks.3", tokens="last") as captured,
        ):
            model(IDS, MASK)
        assert captured.where("blocks.3")[-1].tolist() == LAST

    def test_a_module_that_calls_itself(self) -> None:
        """A forward within a forward needs no hook."""

        class Recursive(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.line = nn.Embedding(100, WIDTH)

            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
                if input_ids.shape[1] > 2:
                    self(input_ids[:, 1:], attention_mask[:, 1:])
                out: Tensor = self.line(input_ids)
                return out

        recursive = tenterhook.attach(Recursive())
        with recursive.capture("line", tokens="last") as captured:
            recursive(IDS, MASK)
        found = [where.tolist() for where in captured.where("line")]
        assert found == [[[1, 0]], [[0, 0], [1, 1]], LAST]

    def test_threads(self, model: HookedModel) -> None:
        """Forwards of other threads, in scopes of their own, are nobody else's."""
        wrong: list[Any] = []

        def work(mask: Tensor, last: list[list[int]]) -> None:
            for _ in range(20):
                with (
                    model.steer("blocks.0", once(lambda: model(IDS, 1 - mask))),
                    model.capture("blocks.3", tokens="last") as captured,
                ):
                    model(IDS, mask)
                if captured.where("blocks.3")[-1].tolist() != last:
                    wrong.append(captured.where("blocks.3"))

        jobs = [(MASK, LAST), (OTHER_MASK, [[0, 3], [1, 0]])] * 2
        threads = [threading.Thread(target=work, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestStopped:
    """`stop_after` and a hook that runs the model."""

    def test_each_forward(self, model: HookedModel) -> None:
        """Each forward is ended by itself, the hook's first."""
        given: list[Any] = []
        with (
            model.capture("blocks.2", stop_after="blocks.2") as captured,
            model.steer("blocks.0", once(lambda: given.append(model(IDS + 1)))),
        ):
            assert model(IDS) is None
        assert given == [None]
        inner, outer = captured["blocks.2"]
        assert not torch.equal(inner, outer)

    @pytest.mark.parametrize("hook_type", ["forward", "pre_forward"])
    def test_of_the_bare_module(self, model: HookedModel, hook_type: str) -> None:
        """It cannot return from the hook's forward alone, so it is an error and ends no other."""
        said = r"It ran the model, and the stop_after of a scope.*Call what attach\(\) gave instead"
        with (
            pytest.raises(HookError, match=said),
            model.capture("blocks.2", stop_after="blocks.2"),
            model.steer("blocks.0", once(lambda: model.module(IDS)), hook_type=hook_type),
        ):
            model(IDS)
        tenterhook.assert_clean(model)


class TestAfterwards:
    @pytest.mark.parametrize("way", [failing, failing_on_its_own, interrupted, stopped])
    def test_a_block_by_itself(
        self, model: HookedModel, way: Callable[[HookedModel], None]
    ) -> None:
        """A forward that did not come to its end is not taken for one that runs."""
        with model.capture("blocks.3", tokens="last") as captured:
            way(model)
            model.module.get_submodule("blocks.3")(torch.ones(2, 4, WIDTH))
        assert captured.where("blocks.3")[-1].tolist() == [[0, 3], [1, 3]]


class TestFailed:
    """A forward that failed is let go of at once, in an open scope too."""

    @pytest.mark.parametrize("way", [failing, failing_on_its_own, interrupted, stopped])
    @pytest.mark.parametrize("kind", ["capture", "steer"])
    def test_nothing_of_it_is_kept(
        self, model: HookedModel, kind: str, way: Callable[[HookedModel], None]
    ) -> None:
        """Neither what it was given nor what its callers had."""

        def run() -> "weakref.ref[Tensor]":
            callers = torch.ones(1)
            way(model)
            return weakref.ref(callers)

        scope: Any = (
            model.capture("blocks.3", tokens="last", missing="ignore")
            if kind == "capture"
            else model.steer("blocks.3", torch.neg, tokens="last", missing="ignore")
        )
        gc.collect()
        gc.disable()
        try:
            with scope:
                assert run()() is None
        finally:
            gc.enable()


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, x, use_reentrant=self.reentrant)
        return out


class TestUnknown:
    """Where nothing says which tokens are real, that is an error."""

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("kind", ["capture", "steer"])
    def test_run_again_in_backward(self, model: HookedModel, kind: str, reentrant: bool) -> None:
        """A checkpointed layer does not know whose forward it runs again, where one has padding."""
        blocks: Any = model.module.blocks
        blocks[1] = _Checkpointed(blocks[1], reentrant)

        def scope() -> Any:
            if kind == "capture":
                return model.capture("blocks.1.inner", tokens="last")
            return model.steer("blocks.1.inner", torch.neg, tokens="last")

        with scope():
            model(IDS).sum().backward()  # every token is real, so nothing is in doubt
        said = r"blocks\.1\.inner.*runs again during backward\(\).*Select tokens without checkp"
        with pytest.raises((ValueError, HookError), match=said), scope():
            model(IDS, MASK).sum().backward()
        tenterhook.assert_clean(model)

    @pytest.mark.parametrize("kind", ["capture", "steer"])
    @pytest.mark.parametrize("inputs", [False, True])
    def test_the_encoders_tokens_in_a_decoder(self, kind: str, inputs: bool) -> None:
        """What a decoder's layer makes of the encoder's tokens has the encoder's padding."""

        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = nn.Embedding(100, WIDTH)
                self.key, self.query = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

            def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
                keys, queries = self.key(encoder_hidden_states), self.query(self.embed(input_ids))
                weights: Tensor = queries @ keys.transpose(1, 2)
                return weights

        decoder = tenterhook.attach(Decoder())
        given = {"input_ids": IDS, "encoder_hidden_states": torch.ones(2, 4, WIDTH)}

        def scope(layer: str) -> Any:
            if kind == "capture":
                return decoder.capture(layer, tokens="last", inputs=inputs)
            side = "pre_forward" if inputs else "forward"
            return decoder.steer(layer, torch.neg, tokens="last", hook_type=side)

        with scope("query"):
            decoder(**given)
        said = r"'key'.*the layer is given the encoder's.*Select them in the encoder"
        with pytest.raises((ValueError, HookError), match=said), scope("key"):
            decoder(**given)

    @pytest.mark.parametrize("kind", ["capture", "steer"])
    def test_opened_in_the_middle(self, model: HookedModel, kind: str) -> None:
        """A scope that is opened in the middle of a forward has not seen its mask."""
        opened: list[Any] = []

        def open_scope() -> None:
            if kind == "capture":
                opened.append(model.capture("blocks.3", tokens="last"))
            else:
                opened.append(model.steer("blocks.3", torch.neg, tokens="last"))
            opened[0].__enter__()

        said = r"'blocks\.3'.*scope that was opened, or .* while the model ran"
        with (
            model.steer("blocks.0", once(open_scope)),
            pytest.raises((ValueError, HookError), match=said),
        ):
            model(IDS, MASK)
        opened[0].close()
        tenterhook.assert_clean(model)


@attrs.frozen
class _Run:
    """A forward, and those that its hooks make, by layer."""

    lengths: tuple[int, ...]
    within: tuple[tuple[int, "_Run"], ...]
    end: str
    """How it ends: at its end, or after layer 2, by an error, an interrupt or a scope."""


RUNS = st.recursive(
    st.builds(
        _Run,
        st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
        st.just(()),
        st.sampled_from(["end", "error", "interrupt", "stop"]),
    ),
    lambda inner: st.builds(
        _Run,
        st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
        st.lists(st.tuples(st.integers(0, DEPTH - 1), inner), min_size=1, max_size=3).map(tuple),
        st.sampled_from(["end", "error", "interrupt", "stop"]),
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=2), st.sampled_from([0, -1, -2]))
def test_any_nesting(runs: Sequence[_Run], at: int) -> None:
    """Of forwards within forwards, however each of them ends, each layer sees its own tokens."""
    torch.manual_seed(0)
    model = tenterhook.attach(_Texts())
    under_way: list[_Run] = []
    expected: dict[int, list[list[list[int]]]] = {layer: [] for layer in range(DEPTH)}

    def come_by(layer: int) -> None:
        run = under_way[-1]
        for when, inner in run.within:
            if when == layer:
                perform(inner)
        if layer == 2 and run.end == "error":
            raise KeyError
        if layer == 2 and run.end == "interrupt":
            raise _Interrupted
        places = [(row, at if at >= 0 else n + at, n) for row, n in enumerate(run.lengths)]
        expected[layer].append([[row, p] for row, p, n in places if 0 <= p < n])

    def perform(run: _Run) -> None:
        mask = torch.tensor([[int(place < n) for place in range(4)] for n in run.lengths])
        under_way.append(run)
        with suppress(KeyError, _Interrupted):
            if run.end == "stop":
                with model.capture("blocks.2", stop_after="blocks.2"):
                    model(torch.zeros_like(mask), mask)
            else:
                model(torch.zeros_like(mask), mask)
        under_way.pop()

    names = [f"blocks.{layer}" for layer in range(DEPTH)]
    with model.capture(*names, tokens=at, missing="ignore") as captured:
        handles = [
            model.module.get_submodule(name).register_forward_hook(
                lambda m, a, out, layer=layer: come_by(layer), prepend=True
            )
            for layer, name in enumerate(names)
        ]
        for run in runs:
            perform(run)
        for handle in handles:
            handle.remove()
    for layer, name in enumerate(names):
        assert [where.tolist() for where in captured.where(name)] == expected[layer]


class TestGeneration:
    def test_other_text_within_a_step(self, model: HookedModel) -> None:
        """A forward that a hook makes is no step, though its batch has as many rows."""
        with (
            generating([2, 1]),
            model.capture("blocks.3", phase="generated", missing="ignore") as captured,
            model.steer("blocks.0", once(lambda: model(IDS))),
        ):
            model(IDS)
        assert captured.where("blocks.3")[0].tolist() == []
        assert captured.where("blocks.3")[1].tolist() == [[0, 2], [0, 3], [1, 1], [1, 2], [1, 3]]

    def test_a_scope_of_the_hook(self, model: HookedModel) -> None:
        """Nor is it one where the hook has opened the only scope with a selection."""
        found: list[Any] = []

        def look() -> None:
            with model.capture("blocks.3", phase="prompt") as captured:
                model(IDS)
            found.append(captured.where("blocks.3")[0].tolist())

        with generating([2, 1]), model.steer("blocks.0", once(look)):
            model(IDS)
        assert len(found[0]) == 8

    def test_rows_of_copies(self, model: HookedModel) -> None:
        """Rows are rows there, and not beams of the generation around it."""
        four = torch.arange(12).reshape(4, 3)
        with (
            generating([2, 1]),
            model.capture("blocks.3", rows=1) as captured,
            model.steer("blocks.0", once(lambda: model(four))),
        ):
            model(four)
        assert [len(call) for call in captured["blocks.3"]] == [1, 2]

    def test_a_generation_within_a_step(self, model: HookedModel) -> None:
        """One that a hook begins has steps of its own."""

        def generate() -> None:
            with generating([1, 3]):
                model(IDS)

        with (
            generating([2, 2]),
            model.capture("blocks.3", phase="generated") as captured,
            model.steer("blocks.0", once(generate)),
        ):
            model(IDS)
        assert [len(call) for call in captured["blocks.3"]] == [4, 4]

    def test_a_part_of_what_generates(self, model: HookedModel) -> None:
        """A step of a model is one of the parts of it, and of what is around it."""
        whole, inner = nn.ModuleDict({"texts": model.module}), model.module.get_submodule("embed")
        for generates in (whole, inner):
            with (
                generating([2, 1], model=generates),
                model.capture("blocks.3", phase="generated") as captured,
            ):
                model(IDS)
            assert len(captured.last("blocks.3")) == 5

    def test_another_model(self, model: HookedModel) -> None:
        """A forward of a model that has no part in the generation is no step of it."""
        other = tenterhook.attach(_Texts())
        with (
            generating([2, 1], model=model.module),
            other.capture("blocks.3", phase="prompt") as captured,
            model.steer("blocks.0", once(lambda: other(IDS))),
        ):
            model(IDS)
        assert len(captured.last("blocks.3")) == 8
