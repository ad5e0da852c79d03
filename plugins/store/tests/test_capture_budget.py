"""`capture(..., budget=)`: the memory that a capture in a scope may hold."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook_store import BadSetting, CannotKeep, CaptureBudget, MemoryStore, OverBudget

ROWS = torch.arange(8.0).reshape(2, 4)
BYTES = ROWS.numel() * 4
"""What each layer of the model gives for them."""


class _Half(nn.Module):
    """Gives a view of what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:1]


class _Same(nn.Module):
    """Gives what it was given, in another form."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(x)


@pytest.fixture
def model() -> HookedModel:
    """Three layers of four features."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))


class TestWithoutAStore:
    def test_what_fits_to_the_byte_is_captured(self, model: HookedModel) -> None:
        """A budget of what the tensors take changes nothing."""
        with model.capture("0", "1", "2", budget=3 * BYTES) as captured:
            model(ROWS)
        with model.capture("0", "1", "2") as plain:
            model(ROWS)
        assert all(torch.equal(captured.last(layer), plain.last(layer)) for layer in plain)

    def test_one_byte_less_is_an_error_that_names_layer_amounts_and_ways_out(
        self, model: HookedModel
    ) -> None:
        """The forward ends, and what was captured by then is there."""
        with (
            pytest.raises(
                OverBudget,
                match=r"Layer '2' gave 32 B \(float32 \[2, 4\]\), and the capture holds 64 B of "
                r"its budget of 95 B\. Capture fewer layers or tokens.*store=LocalStore\(folder\)",
            ) as raised,
            model.capture("0", "1", "2", budget=3 * BYTES - 1) as captured,
        ):
            model(ROWS)
        assert [len(calls) for calls in captured.values()] == [1, 1, 0]
        assert (raised.value.layer, raised.value.size, raised.value.held) == ("2", BYTES, 2 * BYTES)
        assert isinstance(raised.value, MemoryError)
        tenterhook.assert_clean(model)

    def test_the_error_crosses_processes(self, model: HookedModel) -> None:
        """It pickles and copies with all its facts."""
        with pytest.raises(OverBudget) as raised, model.capture("0", budget=1):
            model(ROWS)
        for again in (pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
            assert str(again) == str(raised.value)

    def test_amounts_are_said_as_people_say_them(self, model: HookedModel) -> None:
        """In units of 1,024."""
        with (
            pytest.raises(OverBudget, match=r"gave 15\.62 KiB .* holds 15\.62 KiB .* of 20 KiB"),
            model.capture("0", "1", budget="20KiB"),
        ):
            model(torch.zeros(1000, 4))

    def test_each_opening_has_all_of_it(self, model: HookedModel) -> None:
        """A scope that decorates a function begins anew at each call."""

        @model.capture("0", budget=BYTES)
        def run() -> None:
            model(ROWS)

        run()
        run()

    def test_what_is_taken_out_leaves_room(self, model: HookedModel) -> None:
        """A loop that uses each call and drops it never goes over."""
        with model.capture("0", budget=2 * BYTES) as captured:
            for _ in range(5):
                model(ROWS)
                captured["0"].pop(0)
            model(ROWS)
            model(ROWS)
            captured["0"].clear()
            model(ROWS)
            model(ROWS)
            with pytest.raises(OverBudget):
                model(ROWS)
        assert len(captured["0"]) == 2

    def test_views_of_one_block_count_once(self) -> None:
        """With `detach=False` several tensors may lie in the same memory."""
        model = tenterhook.attach(nn.Sequential(nn.Identity(), nn.Identity(), _Half()))
        with model.capture("0", "1", "2", detach=False, budget=BYTES) as captured:
            model(ROWS)
            model(ROWS)
        assert [len(calls) for calls in captured.values()] == [2, 2, 2]
        with pytest.raises(OverBudget, match="Layer '1'"), model.capture("0", "1", budget=BYTES):
            model(ROWS)

    def test_a_narrower_dtype_counts_as_it_is_kept(self, model: HookedModel) -> None:
        """And so does a selected part."""
        with model.capture("0", "1", dtype="bfloat16", budget=BYTES):
            model(ROWS)
        with model.capture("0", "1", features=[0, 1], budget=BYTES):
            model(ROWS)

    @pytest.mark.parametrize(
        ("form", "bytes_held"),
        [
            pytest.param(lambda x: x.to_sparse(), 7 * (2 * 8 + 4), id="sparse"),
            pytest.param(lambda x: x.to_sparse_csr(), 3 * 8 + 7 * (8 + 4), id="csr"),
            pytest.param(
                lambda x: torch.nested.as_nested_tensor([*x], layout=torch.jagged),
                BYTES + 3 * 8,
                id="jagged",
            ),
            pytest.param(lambda x: x.to("meta"), 0, id="meta"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_other_kinds_of_tensors_count_what_they_are_made_of(
        self, form: Any, bytes_held: int
    ) -> None:
        """Not what they would take if they were dense."""
        model = tenterhook.attach(nn.Sequential(_Same(form)))
        with model.capture("0", budget=bytes_held):
            model(ROWS)
        if bytes_held:
            with pytest.raises(OverBudget), model.capture("0", budget=bytes_held - 1):
                model(ROWS)

    def test_inside_a_transform_copies_count(self, model: HookedModel) -> None:
        """What `torch.func` wraps counts as the tensor that it stands for."""

        def loss(x: Tensor) -> Tensor:
            return model(x).sum()  # type: ignore[no-any-return]

        with model.capture("0", "1", budget=2 * BYTES) as captured:
            torch.func.grad(loss)(ROWS)
        with model.capture("0", "1") as plain:
            torch.func.grad(loss)(ROWS)
        assert torch.equal(captured.last("1"), plain.last("1"))
        with pytest.raises(OverBudget), model.capture("0", "1", budget=2 * BYTES - 1):
            torch.func.grad(loss)(ROWS)


class TestWithAStore:
    @pytest.mark.parametrize("budget", [0, BYTES, 3 * BYTES, "1GiB"])
    def test_what_was_captured_reads_the_same(self, model: HookedModel, budget: Any) -> None:
        """By each way of reading it, in the scope and after it."""
        store = MemoryStore()
        with (
            model.capture("0", "2", budget=budget, store=store) as captured,
            model.capture("0", "2") as plain,
        ):
            for factor in range(3):
                model(ROWS * factor)
            assert torch.equal(captured.last("2"), plain.last("2"))
        for layer in plain:
            pairs = zip(captured[layer], plain[layer], strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
            assert torch.equal(captured.cat(layer), plain.cat(layer))
            assert torch.equal(torch.stack(captured[layer]), torch.stack(plain[layer]))
            assert torch.equal(captured[layer][-1], plain[layer][-1])
            assert torch.equal(torch.cat(captured[layer][1:]), torch.cat(plain[layer][1:]))
            assert torch.equal(next(reversed(captured[layer])), plain[layer][-1])
            assert torch.equal((captured[layer] + [ROWS])[0], plain[layer][0])
            assert torch.equal(captured[layer].copy()[1], plain[layer][1])
            assert str(captured[layer]) == str(plain[layer])
            again = pickle.loads(pickle.dumps(captured[layer]))
            assert type(again) is list
            assert torch.equal(again[2], plain[layer][2])
            assert torch.equal(captured[layer].pop(), plain[layer].pop())
        assert len(store.list_tensors()) == 6 - min(
            6, 2**30 if budget == "1GiB" else budget // BYTES
        )

    def test_nothing_is_loaded_before_it_is_read(self, model: HookedModel) -> None:
        """Not at the end of the scope either, nor for another layer."""

        class Counting(MemoryStore):
            loaded = 0

            def load_tensor(self, name: str) -> Tensor:
                self.loaded += 1
                return super().load_tensor(name)

        store = Counting()
        with model.capture("0", "1", budget=0, store=store) as captured:
            model(ROWS)
            model(ROWS)
        assert store.loaded == 0
        captured.last("0")
        assert store.loaded == 1

    def test_selected_tokens_read_the_same(self, model: HookedModel) -> None:
        """With where they stood, row by row."""
        store = MemoryStore()
        chosen: dict[str, Any] = {"tokens": [0, -1]}
        batch = torch.randn(2, 3, 4)
        with (
            model.capture("0", budget=0, store=store, **chosen) as captured,
            model.capture("0", **chosen) as plain,
        ):
            model(batch)
            model(batch)
        for one, other in zip(captured["0"], plain["0"], strict=True):
            assert torch.equal(one, other)
        assert torch.equal(captured.where("0")[0], plain.where("0")[0])
        for one, other in zip(captured.by_row("0"), plain.by_row("0"), strict=True):
            assert torch.equal(one, other)

    def test_inference_tensors_become_plain(self, model: HookedModel) -> None:
        """Those in memory and those in the store."""
        with (
            torch.inference_mode(),
            model.capture("0", budget=BYTES, store=MemoryStore()) as captured,
        ):
            model(ROWS)
            model(ROWS)
        assert not any(each.is_inference() for each in captured["0"])

    def test_what_a_store_does_not_take_is_its_error(self) -> None:
        """Sparse tensors that do not fit are refused by name."""
        model = tenterhook.attach(nn.Sequential(_Same(lambda x: x.to_sparse())))
        with (
            pytest.raises(CannotKeep, match="sparse_coo tensors"),
            model.capture("0", budget=1, store=MemoryStore()),
        ):
            model(ROWS)

    def test_a_transform_keeps_its_tensors_from_the_store(self, model: HookedModel) -> None:
        """They are no tensors of their own before it is over."""
        with (
            pytest.raises(
                OverBudget, match=r"a transform of torch\.func nothing goes to the store"
            ),
            model.capture("0", budget=1, store=MemoryStore()),
        ):
            torch.func.vmap(model)(ROWS)


@pytest.mark.parametrize(
    ("budget", "size"),
    [("2GiB", 2 * 1024**3), ("1.5 MB", 1_500_000), ("64", 64), ("3 kib", 3072), (2.5e3, 2500)],
)
def test_amounts_of_memory(budget: Any, size: int) -> None:
    """Bytes, or a number with a unit, in either case."""
    assert CaptureBudget.of(budget).limit == size


@pytest.mark.parametrize("budget", ["2 GiBs", "much", "-1", -1, True, float("nan"), b"1", ""])
def test_what_is_no_amount_is_refused_at_once(model: HookedModel, budget: Any) -> None:
    """With what it may be."""
    with pytest.raises(
        ValueError, match=r"^budget=.* must be bytes, as 2 \* 1024\*\*3, or a number"
    ):
        model.capture("0", budget=budget)


def test_a_store_needs_a_budget_and_no_graph(model: HookedModel) -> None:
    """Else there is nothing that it could take."""
    with pytest.raises(BadSetting, match=r"budget=None must be given with store="):
        model.capture("0", store=MemoryStore())
    with pytest.raises(BadSetting, match=r"detach=False must be True with store=, which keeps no"):
        model.capture("0", budget=1, store=MemoryStore(), detach=False)


# --- at random

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 4)),
        st.tuples(st.just("pop"), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(0, 2)),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, budget=st.integers(0, 400), with_store=st.booleans(), views=st.booleans())
def test_the_lists_are_those_of_a_capture_without_a_budget(
    steps: list[tuple[str, int]], budget: int, with_store: bool, views: bool
) -> None:
    """Whatever is taken out in between; and what they hold in memory is never over the budget.

    An error comes where, and only where, the blocks of all that is held and what came would be.
    """
    model = tenterhook.attach(nn.Sequential(nn.Identity(), nn.ReLU(), _Half()))
    names = ["0", "1", "2"]
    store = MemoryStore() if with_store else None
    views = views and not with_store
    how: dict[str, Any] = {"detach": not views, "missing": "ignore"}
    with (
        model.capture(*names, budget=budget, store=store, **how) as captured,
        model.capture(*names, **how) as plain,
    ):
        for what, number in steps:
            if what == "run":
                error = _error_of(model, torch.randn(number, 4))
                if error is not None:
                    assert not with_store
                    assert error.held + error.size > budget
                    assert error.held == _held(captured)
                    for name in names:  # the other one may have taken what came once too often
                        del plain[name][len(captured[name]) :]
            elif what == "pop" and plain[names[number]]:
                popped = captured[names[number]].pop(0)
                assert torch.equal(popped, plain[names[number]].pop(0))
            elif what == "drop":
                captured[names[number]].clear()
                plain[names[number]].clear()
            assert _held(captured) <= budget
    for name in names:
        for one, other in zip(captured[name], plain[name], strict=True):
            assert torch.equal(one, other)


def _error_of(model: HookedModel, rows: Tensor) -> OverBudget | None:
    try:
        model(rows)
    except OverBudget as error:
        return error
    return None


def _held(captured: Any) -> int:
    """Return the bytes of the distinct blocks under what a capture has in memory."""
    tensors = [each for name in captured for each in list.__iter__(captured[name])]
    storages = [each.untyped_storage() for each in tensors if isinstance(each, Tensor)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())
