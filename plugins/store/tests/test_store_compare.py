"""Two runs are compared row by row, and what makes them differ is named."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_store import (
    LayerArray,
    MemoryStore,
    RowBlock,
    Run,
    RunPlan,
    compare,
    dtype_name,
    quantize,
)
from tenterhook_store.rounding import ulps

BOS = 1


@attrs.define(eq=False)
class Text:
    """A document of a run: its tokens, their positions, and the rows of each layer."""

    tokens: Tensor
    positions: Tensor
    layers: dict[str, Tensor]


def texts(lengths: Sequence[int] = (6, 9, 4, 12, 7, 9, 5, 8), layers: int = 3) -> list[Text]:
    """Return documents whose rows are as unlike each other as those of a model."""
    random = torch.Generator().manual_seed(0)
    found = []
    for length in lengths:
        tokens = torch.randint(2, 1000, (length,), generator=random)
        tokens[0] = BOS
        rows = {
            f"h.{at}": torch.randn(length, 16, generator=random) * (1 + at) for at in range(layers)
        }
        found.append(Text(tokens, torch.arange(length), rows))
    return found


def run_of(documents: Mapping[int, Text] | Sequence[Text], name: str = "one", size: int = 8) -> Run:
    """Write documents, by their numbers, as a run of units of so many rows."""
    numbered = dict(documents if isinstance(documents, Mapping) else enumerate(documents))
    plan = plan_of(numbered, size)
    return written(plan, numbered, name, range(plan.unit_count))


def plan_of(numbered: Mapping[int, Text], size: int) -> RunPlan:
    """Return the plan of a run of them."""
    first = next(iter(numbered.values()))
    return RunPlan(
        rows=sum(len(each.tokens) for each in numbered.values()),
        rows_per_unit=size,
        documents=max(numbered) + 1,
        layers=[
            LayerArray(layer, rows.shape[1], dtype_name(rows.dtype))
            for layer, rows in first.layers.items()
        ],
        spec={"size": size},
    )


def written(plan: RunPlan, numbered: Mapping[int, Text], name: str, units: range) -> Run:
    """Write some units of a run."""
    store = MemoryStore()
    writer = store.write_run(name, plan)
    documents = torch.cat(
        [torch.full((len(each.tokens),), number) for number, each in numbered.items()]
    )
    tokens = torch.cat([each.tokens for each in numbered.values()])
    positions = torch.cat([each.positions for each in numbered.values()])
    layers = {
        layer.name: torch.cat([each.layers[layer.name] for each in numbered.values()])
        for layer in plan.layers
    }
    for number in units:
        unit = plan.unit(number)
        some = slice(unit.start, unit.stop)
        with writer.open_unit(unit) as writing:
            block = {layer: rows[some] for layer, rows in layers.items()}
            writing.append(
                RowBlock(
                    tokens=tokens[some],
                    documents=documents[some],
                    positions=positions[some],
                    layers=block,
                )
            )
            writing.commit({})
    return store.run(name)


def kinds(a: Run, b: Run) -> set[str]:
    """Return the kinds of differences that were recognised."""
    return {each.kind for each in compare(a, b).recognised}


def each_layer(documents: Sequence[Text], change: Callable[[Tensor], Tensor]) -> list[Text]:
    """Return documents with the rows of all layers changed."""
    return [
        attrs.evolve(each, layers={name: change(rows) for name, rows in each.layers.items()})
        for each in documents
    ]


def without_first(text: Text) -> Text:
    """Return a document without its first token."""
    layers = {name: rows[1:] for name, rows in text.layers.items()}
    return Text(text.tokens[1:], torch.arange(len(text.tokens) - 1), layers)


def with_first_twice(text: Text) -> Text:
    """Return a document with its first token twice."""
    layers = {name: torch.cat([rows[:1], rows]) for name, rows in text.layers.items()}
    tokens = torch.cat([text.tokens[:1], text.tokens])
    return Text(tokens, torch.arange(len(tokens)), layers)


# --- alike


def test_the_same_rows_are_equal() -> None:
    """Whatever the units they were written in."""
    found = compare(run_of(texts()), run_of(texts(), "two", size=5))
    assert found.is_alike
    assert [each.verdict for each in found.layers] == ["equal"] * 3
    assert (found.rows, found.documents, found.recognised) == (60, 8, ())
    assert found.layers[0].cosine_mean == 1
    assert found.layers[0].ulps_most == 0
    assert "size is 5 there and 8 here" in found.made_differently
    assert str(found).splitlines()[-1] == "alike"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    """Sums in another order move the last bits."""
    exact = each_layer(texts(), lambda rows: rows.to(dtype))
    eps = torch.finfo(dtype).eps
    other = each_layer(exact, lambda rows: (rows.double() * (1 + eps)).to(dtype))
    found = compare(run_of(exact), run_of(other))
    assert found.is_alike
    assert found.recognised == ()
    assert {each.verdict for each in found.layers} == {"close"}
    assert 0 < found.layers[0].ulps_median <= 2  # type: ignore[operator]


def test_rows_that_are_nearly_zero_have_the_error_of_the_others() -> None:
    """They are sums of large numbers that cancel."""
    small = each_layer(texts(), torch.clone)
    for each in small:
        each.layers["h.0"][2] = 1e-7
    other = each_layer(small, lambda rows: rows + 1e-7)
    assert compare(run_of(small), run_of(other)).is_alike


def test_nan_is_equal_to_nan_alone() -> None:
    """And infinity to itself."""
    odd = each_layer(texts(), torch.clone)
    odd[0].layers["h.0"][1, 3] = torch.nan
    odd[0].layers["h.0"][2, 3] = torch.inf
    assert compare(run_of(odd), run_of(odd)).layers[0].verdict == "equal"
    found = compare(run_of(odd), run_of(texts())).layers[0]
    assert (found.verdict, found.rows_different) == ("different", 2)


def test_runs_that_lack_units() -> None:
    """The documents that both have are compared, and the rest is counted."""
    numbered = dict(enumerate(texts()))
    plan = plan_of(numbered, 8)
    a = written(plan, numbered, "a", range(4))
    b = written(plan, numbered, "b", range(2, plan.unit_count))
    found = compare(a, b)
    assert found.is_alike
    assert found.rows == 16
    assert (found.rows_missing_a, found.rows_missing_b) == (60 - 32, 16)
    assert (found.rows_only_a, found.rows_only_b) == (0, 0)
    assert "28 rows are not compared: A lacks units" in str(found)
    numbered[3].layers["h.1"][0] += 1
    assert not compare(a, written(plan, numbered, "c", range(2, 8))).is_alike


def test_rows_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out does not follow from how many."""
    from tenterhook_store.comparing import comparison

    a, b = run_of(texts()), run_of(each_layer(texts(), lambda rows: rows + 0.1))
    whole = compare(a, b)
    monkeypatch.setattr(comparison, "BLOCK_BYTES", 3 * 64)
    steps: list[tuple[int, int]] = []
    parts = compare(a, b, progress=lambda done, total: steps.append((done, total)))
    assert [each.rows_different for each in parts.layers] == [60] * 3
    assert parts.layers[0].ulps_99 == whole.layers[0].ulps_99
    assert parts.layers[0].relative_error == pytest.approx(whole.layers[0].relative_error)
    assert len(steps) > 8
    assert steps[-1] == (60, 60)


# --- rows of other tokens


def test_the_first_token_dropped() -> None:
    """By its position or by its tokens alone, from either run."""
    a = run_of(texts())
    b = run_of([without_first(each) for each in texts()])
    found = compare(a, b)
    assert not found.is_alike
    assert (found.rows, found.rows_only_a, found.rows_only_b) == (52, 8, 0)
    assert {each.verdict for each in found.layers} == {"equal"}
    assert [str(each) for each in found.recognised] == [
        "first token: B drops the first token of A, in 8 documents: token 1"
    ]
    assert "A drops the first token of B" in str(compare(b, a))
    at_its_place = [
        attrs.evolve(without_first(each), positions=each.positions[1:]) for each in texts()
    ]
    assert "B drops the first token of A" in str(compare(a, run_of(at_its_place)))


def test_the_first_token_doubled() -> None:
    """As when a template and a tokenizer both begin a text."""
    a, b = run_of(texts()), run_of([with_first_twice(each) for each in texts()])
    found = compare(a, b)
    assert not found.is_alike
    assert (found.rows, found.rows_only_a, found.rows_only_b) == (60, 0, 8)
    assert "B has the first token twice (a doubled first token), in 8 documents: token 1" in str(
        found
    )
    assert "A has the first token twice" in str(compare(b, a))


def test_a_doubled_token_in_texts_that_were_cut() -> None:
    """The last token is gone for it."""
    cut = [with_first_twice(each) for each in texts()]
    for each in cut:
        each.tokens, each.positions = each.tokens[:-1], each.positions[:-1]
        each.layers = {name: rows[:-1] for name, rows in each.layers.items()}
    found = compare(run_of(texts()), run_of(cut))
    assert (found.rows, found.rows_only_a, found.rows_only_b) == (52, 8, 8)
    assert {each.kind for each in found.recognised} == {"first token"}


def test_some_tokens_alone() -> None:
    """Rows of the last token are compared with those of the same positions."""
    last = [
        Text(
            each.tokens[-1:],
            each.positions[-1:],
            {name: rows[-1:] for name, rows in each.layers.items()},
        )
        for each in texts()
    ]
    found = compare(run_of(texts()), run_of(last))
    assert (found.rows, found.rows_only_a) == (8, 52)
    assert {each.verdict for each in found.layers} == {"equal"}


def test_rows_shifted_by_one() -> None:
    """A row later or earlier, the tokens beside them as they were."""
    for by, way in ((1, "later"), (-1, "earlier")):
        moved = run_of(each_layer(texts(), lambda rows, by=by: rows.roll(by, 0)))  # type: ignore[misc]
        found = compare(run_of(texts()), moved)
        assert not found.is_alike
        assert [each.kind for each in found.recognised] == ["shift"]
        assert f"rows are shifted by one: B has them one token {way}" in str(found)


def test_rows_shifted_by_their_padding() -> None:
    """Each by as much as its batch of four is longer."""
    padded = each_layer(texts(), torch.clone)
    for start in range(0, 8, 4):
        longest = max(len(each.tokens) for each in padded[start : start + 4])
        for each in padded[start : start + 4]:
            by = longest - len(each.tokens)
            each.layers = {
                name: torch.cat([torch.randn(by, 16), rows])[: len(rows)]
                for name, rows in each.layers.items()
            }
    found = compare(run_of(texts()), run_of(padded))
    assert [each.kind for each in found.recognised] == ["padding side"]
    assert "rows are shifted by the padding of their batch" in str(found)


def test_positions_that_count_padding() -> None:
    """The tokens and the rows are the same."""
    moved = [
        attrs.evolve(each, positions=each.positions + 12 - len(each.tokens)) for each in texts()
    ]
    found = compare(run_of(texts()), run_of(moved))
    assert [each.kind for each in found.recognised] == ["padding side"]
    assert found.rows == 60


def test_rows_of_padding() -> None:
    """Before the text, as where padding was captured too."""
    padded = [
        Text(
            torch.cat([torch.zeros(3, dtype=torch.int64), each.tokens]),
            torch.arange(len(each.tokens) + 3),
            {name: torch.cat([torch.zeros(3, 16), rows]) for name, rows in each.layers.items()},
        )
        for each in texts()
    ]
    found = compare(run_of(texts()), run_of(padded))
    assert [each.kind for each in found.recognised] == ["padding side"]
    assert (found.rows, found.rows_only_b) == (60, 24)


def test_padding_that_is_seen_moves_all_but_the_longest() -> None:
    """In each batch, as left padding does to positions that a model learned."""
    seen = each_layer(texts(), torch.clone)
    for start in range(0, 8, 4):
        longest = max(len(each.tokens) for each in seen[start : start + 4])
        for each in seen[start : start + 4]:
            if len(each.tokens) < longest:
                each.layers = {name: rows * 0.9 for name, rows in each.layers.items()}
    found = compare(run_of(texts()), run_of(seen))
    assert [each.kind for each in found.recognised] == ["padding side"]
    assert "documents that are padded differ" in str(found)


# --- rows of others


def test_layers_off_by_one() -> None:
    """Each is the one before or after it."""
    shifted = texts()
    for each in shifted:
        each.layers = {f"h.{at}": each.layers[f"h.{(at + 1) % 3}"] for at in range(3)}
    found = compare(run_of(texts()), run_of(shifted))
    assert [each.kind for each in found.recognised] == ["layers"]
    other_names = texts()
    for each in other_names:
        each.layers = {f"h.{at + 1}": each.layers[f"h.{at}"] for at in range(3)}
    for a, b in ((texts(), other_names), (other_names, texts())):
        found = compare(run_of(a), run_of(b))
        assert [each.kind for each in found.recognised] == ["layers"]
        assert "layers are off by one" in str(found)
    assert "h.2 of A is h.1 of B" in str(found)
    assert "only in B: h.0" in str(found)


@pytest.mark.parametrize("tokens", [True, False], ids=["with their tokens", "rows alone"])
def test_two_documents_exchanged(tokens: bool) -> None:
    """Of equal length or not, among many that are as they should be."""
    for one, other in ((1, 5), (3, 7)):
        mixed = texts()
        if tokens:
            mixed[one], mixed[other] = mixed[other], mixed[one]
        else:
            count = min(len(mixed[one].tokens), len(mixed[other].tokens))
            for name in mixed[one].layers:
                rows = [mixed[at].layers[name][:count].clone() for at in (one, other)]
                mixed[one].layers[name][:count] = rows[1]
                mixed[other].layers[name][:count] = rows[0]
        found = compare(run_of(texts()), run_of(mixed))
        assert not found.is_alike
        assert [each.kind for each in found.recognised] == ["documents"]
        assert f"{one} and {other}" in str(found)


def test_other_texts() -> None:
    """Tokens that are nowhere in the other run."""
    other = texts()
    for each in other:
        each.tokens = each.tokens + 5000
    found = compare(run_of(texts()), run_of(other))
    assert found.rows == 0
    assert not found.is_alike
    assert {each.verdict for each in found.layers} == {"not compared"}
    assert "8 documents have other tokens" in str(found)


def test_documents_that_one_has_not() -> None:
    """They are counted."""
    some = {at: each for at, each in enumerate(texts()) if at != 2}
    found = compare(run_of(texts()), run_of(some))
    assert (found.documents, found.documents_only_a, found.rows_only_a) == (7, 1, 4)
    assert not found.is_alike
    assert "only in A: 4 rows, 1 documents among them" in str(found)


# --- the same rows, changed


def rms(rows: Tensor) -> Tensor:
    """Return rows as a trained RMS norm gives them."""
    weight = torch.linspace(0.5, 2, rows.shape[1])
    return rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def layer_norm(rows: Tensor) -> Tensor:
    """Return rows as a trained layer norm gives them."""
    width = rows.shape[1]
    weight, bias = torch.linspace(0.5, 2, width), torch.linspace(-1, 1, width)
    return torch.nn.functional.layer_norm(rows, (width,), weight, bias)


@pytest.mark.parametrize("norm", [rms, layer_norm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_before_or_after(norm: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Whichever run has it."""
    plain = run_of(each_layer(texts(), lambda rows: rows.to(dtype)))
    normed = run_of(each_layer(texts(), lambda rows: norm(rows).to(dtype)))
    assert "rows of B are those of A after a norm" in str(compare(plain, normed))
    assert "rows of B are those of A before a norm" in str(compare(normed, plain))
    assert kinds(plain, normed) == {"norm"}


@pytest.mark.parametrize("norm", [rms, layer_norm])
def test_a_norm_under_another_name(norm: Callable[[Tensor], Tensor]) -> None:
    """The last layer of one run and the norm after it of the other."""
    plain = run_of(texts())
    normed = run_of(
        [attrs.evolve(each, layers={"norm": norm(each.layers["h.2"])}) for each in texts()]
    )
    assert (
        "a norm before or after, in h.2 of A and norm of B: rows of B are those of A after a norm"
        in str(compare(plain, normed))
    )
    assert kinds(plain, normed) == kinds(normed, plain) == {"norm"}


def test_rows_times_a_number_are_no_norm() -> None:
    """Nor is noise."""
    noise = torch.Generator().manual_seed(1)
    for change in (
        lambda rows: rows * 3,
        lambda rows: rows + torch.randn(rows.shape, generator=noise),
    ):
        found = compare(run_of(texts()), run_of(each_layer(texts(), change)))
        assert not found.is_alike
        assert found.recognised == ()
        assert "nothing that is known to make runs differ" in str(found)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_another_dtype(narrow: torch.dtype) -> None:
    """What rounding to the narrower one explains is named, and no difference."""
    b = run_of(each_layer(texts(), lambda rows: rows.to(narrow)))
    found = compare(run_of(texts()), b)
    assert found.is_alike
    assert [each.kind for each in found.recognised] == ["dtype"]
    assert {(each.dtype, each.ulps_most) for each in found.layers} == {(dtype_name(narrow), 0)}
    assert f"another dtype: float32 in A and {dtype_name(narrow)} in B" in str(found)
    far = run_of(each_layer(texts(), lambda rows: (rows * 1.5).to(narrow)))
    assert "rounding does not explain" in str(compare(run_of(texts()), far))


def test_rows_that_were_rounded_before_they_were_stored() -> None:
    """By a model that computes in another dtype than the run says."""
    rounded = each_layer(texts(), lambda rows: rows.bfloat16().float())
    found = compare(run_of(texts()), run_of(rounded))
    assert not found.is_alike
    assert "rows of B were rounded to bfloat16 before they were stored" in str(found)


def test_rows_as_int8() -> None:
    """Each value is within a step of its row's scale."""

    def as_int8(text: Text) -> Text:
        layers = {}
        for name, rows in text.layers.items():
            layers[name], layers[f"{name}:scale"] = quantize(rows)
        return attrs.evolve(text, layers=layers)

    found = compare(run_of(texts()), run_of([as_int8(each) for each in texts()]))
    assert found.is_alike
    assert [each.dtype for each in found.layers] == ["int8"] * 3
    assert [each.kind for each in found.recognised] == ["dtype"]


# --- ulps


def floats(width: int) -> st.SearchStrategy[float]:
    """Return numbers of a dtype."""
    return st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(value=floats(32), steps=st.integers(0, 50))
def test_ulps_count_the_values_between(value: float, steps: int) -> None:
    """So many steps to the next float, through 0 too."""
    one = torch.tensor([value], dtype=torch.float32)
    other = one.clone()
    for _ in range(steps):
        other = torch.nextafter(other, torch.tensor(torch.inf))
    if torch.isfinite(other).all():
        assert ulps(one, other, "float32").tolist() == [steps]
        assert ulps(other, one, "float32").tolist() == [steps]


VALUES = [
    ("bfloat16", 1.0, 1.0078125, 1),
    ("bfloat16", 1.0, 1.001, 0),
    ("float16", 0.0, -0.0, 0),
    ("float64", 1.0, 1.0 + 2**-52, 1),
    ("float8_e4m3fn", 1.0, 1.125, 1),
    ("int32", 4.0, 9.0, 5),
    ("float32", float("nan"), float("nan"), 0),
    ("float32", float("nan"), 1.0, float("inf")),
]
"""A dtype, two values, and the steps between."""


@pytest.mark.parametrize(("dtype", "one", "other", "steps"), VALUES)
def test_ulps_by_dtype(dtype: str, one: float, other: float, steps: float) -> None:
    """In the dtype that is named."""
    values = torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64)
    assert ulps(*values, dtype).tolist() == [steps]
