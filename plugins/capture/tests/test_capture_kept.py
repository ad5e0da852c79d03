"""What a capture keeps: which tokens, in which batches, as int8, reduced."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenterhook_capture import (
    BadArgument,
    NoPattern,
    NothingChosen,
    Progress,
    ValuesLost,
    save_activations,
)
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_selections.selection import Selection
from tenterhook_store import MemoryStore, NotCaptured, NotReduced, Run
from tenterhook_store.testing import same_bits

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]


def captured(
    layers: Any = "blocks.0",
    texts: Sequence[str] = TEXTS,
    *,
    model: WordModel | None = None,
    store: MemoryStore | None = None,
    **how: Any,
) -> Run:
    """Capture and open the run."""
    store = store or MemoryStore()
    return store.run(save_activations(model or WordModel(), layers, list(texts), store, **how))


def padded(batch: Sequence[int]) -> int:
    """Return the tokens of a batch, padding counted."""
    return len(batch) * max(batch)


# --- batches


documents = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=documents,
    batch_size=st.integers(1, 5),
    batch_tokens=st.none() | st.integers(1, 60),
    rows_per_unit=st.integers(1, 40),
    bucket=st.booleans(),
    writing=st.sampled_from(["inline", "thread"]),
)
def test_the_stored_order_is_that_of_the_documents(
    lengths: list[int],
    batch_size: int,
    batch_tokens: int | None,
    rows_per_unit: int,
    bucket: bool,
    writing: str,
) -> None:
    """However documents are batched, rows stay in order, and are theirs.

    To the bit, for a layer that does not depend on what else is in the batch.
    """
    texts = [" ".join(f"w{i}.{at}" for at in range(n)) for i, n in enumerate(lengths)]
    model = WordModel()
    run = captured(
        ["embed", "blocks.0"],
        texts,
        model=model,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        rows_per_unit=rows_per_unit,
        bucket=bucket,
        writing=writing,
    )
    plain = captured(["embed", "blocks.0"], texts)
    for array in ("tokens", "documents.index", "documents.position"):
        first, *rest = array.split(".")
        mine, theirs = getattr(run, first), getattr(plain, first)
        for name in rest:
            mine, theirs = getattr(mine, name), getattr(theirs, name)
        assert mine[:].tolist() == theirs[:].tolist()
    assert same_bits(run["embed"][:], plain["embed"][:])
    torch.testing.assert_close(run["blocks.0"][:], plain["blocks.0"][:])
    for batch in model.batches[2:]:
        assert len(batch) <= batch_size
        assert batch_tokens is None or len(batch) == 1 or padded(batch) <= batch_tokens


def test_buckets_need_less_padding() -> None:
    """Documents of nearly one length share a batch, the longest first."""
    texts = [" ".join(["x"] * n) for n in (1, 15, 2, 14, 1, 16, 3, 13)]
    plain, bucketed = WordModel(), WordModel()
    captured(texts=texts, model=plain, batch_size=32, batch_tokens=32)
    captured(texts=texts, model=bucketed, batch_size=32, batch_tokens=32, bucket=True)
    assert bucketed.batches[2:] == [[16, 15], [14, 13], [3, 2, 1, 1]]
    assert sum(map(padded, bucketed.batches[2:])) < sum(map(padded, plain.batches[2:])) / 1.5


@pytest.mark.parametrize("how", [{"bucket": True}, {"batch_tokens": 8}], ids=str)
def test_stopped_and_resumed_has_the_same_bytes(how: dict[str, Any]) -> None:
    """The same capture gives the same bits, in one go or in two."""

    def stop(progress: Progress) -> None:
        if progress.rows > 12:
            raise KeyboardInterrupt

    store = MemoryStore()
    with pytest.raises(KeyboardInterrupt):
        captured(store=store, rows_per_unit=5, batch_size=2, progress=stop, **how)
    run = captured(store=store, rows_per_unit=5, batch_size=2, **how)
    whole = captured(rows_per_unit=5, batch_size=2, **how)
    assert run.id == whole.id != captured(rows_per_unit=5, batch_size=2).id
    assert same_bits(run["blocks.0"][:], whole["blocks.0"][:])


# --- tokens


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        ("last", [[2], [0], [6], [1], [4], [3]]),
        ("0,-1", [[0, 2], [0], [0, 6], [0, 1], [0, 4], [0, 3]]),
        ("1:3", [[1, 2], [], [1, 2], [1], [1, 2], [1, 2]]),
        (slice(-2, None), [[1, 2], [0], [5, 6], [0, 1], [3, 4], [2, 3]]),
        (4, [[], [], [4], [], [4], []]),
        ([-5, 1], [[1], [], [1, 2], [1], [0, 1], [1]]),
        (Selection(tokens="::3"), [[0], [0], [0, 3, 6], [0], [0, 3], [0, 3]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("bucket", [False, True])
def test_selected_tokens(tokens: Any, positions: list[list[int]], bucket: bool) -> None:
    """A run has the rows of the tokens that are selected, and says which they are."""
    every = captured(["embed", "head"])
    run = captured(["embed", "head"], tokens=tokens, bucket=bucket, rows_per_unit=3, batch_size=2)
    expected = [(d, p) for d, chosen in enumerate(positions) for p in chosen]
    found = zip(run.documents.index[:].tolist(), run.documents.position[:].tolist(), strict=True)
    assert list(found) == expected
    rows = [every.documents.rows(d).start + p for d, p in expected]
    assert run.tokens[:].tolist() == every.tokens[rows].tolist()
    assert same_bits(run["embed"][:], every["embed"][rows])
    torch.testing.assert_close(run["head"][:], every["head"][rows])


def test_selected_tokens_of_a_split_document() -> None:
    """Positions count the document's tokens, over all the windows that it is run as."""
    run = captured(texts=["x " * 35, "a"], long_documents="split", tokens="0,17,-1")
    assert run.documents.position[:].tolist() == [0, 17, 34, 0]
    assert run.documents.rows(0) == slice(0, 3)


def test_documents_without_a_selected_token_are_not_run() -> None:
    """They need no forward."""
    model = WordModel()
    captured(model=model, tokens="4")
    assert model.batches[2:] == [[7, 5]]


@pytest.mark.parametrize(
    ("tokens", "error", "match"),
    [
        (100, NothingChosen, "chooses no token of any document"),
        ("first", BadArgument, "tokens='first' must be positions"),
        ("0,x", BadArgument, "'0,-1', '1:' or 'last'"),
        (Selection(rows=0), BadArgument, "of tokens and of nothing else"),
        (Selection(tokens=0, features=3), BadArgument, "of tokens and of nothing else"),
    ],
    ids=str,
)
def test_selections_that_make_no_sense(tokens: Any, error: type[Exception], match: str) -> None:
    """They are refused before anything is made."""
    store = MemoryStore()
    with pytest.raises(error, match=match):
        captured(store=store, tokens=tokens)
    assert store.runs() == []


# --- int8


@pytest.mark.parametrize("bucket", [False, True])
def test_int8(bucket: bool) -> None:
    """Rows read as floats again, off by half a step of their row's scale at most."""
    exact = captured(["blocks.0", "head"])
    run = captured(["blocks.0", "head"], dtype="int8", rows_per_unit=7, bucket=bucket)
    assert run.layers == ("blocks.0", "head")
    errors = run.metadata["int8"]
    for layer in run.layers:
        rows, real = run[layer][:], exact[layer][:]
        assert rows.dtype == run[layer].dtype == torch.float32
        scale = run[f"{layer}:scale"][:]
        assert scale.shape == (22, 1)
        assert ((rows - real).abs() <= scale * 0.5001).all()
        assert torch.equal(run[layer][[3, 0]], rows[[3, 0]])
        assert torch.equal(run[layer][4, :2], rows[4, :2])
        off = (rows.double() - real.double()).numpy()
        found = errors[layer]
        assert found["max_error"] == pytest.approx(np.abs(off).max(), rel=1e-4)
        relative = np.sqrt((off**2).sum() / (real.double().numpy() ** 2).sum())
        assert found["relative_rms_error"] == pytest.approx(relative, rel=1e-4)
        assert 0 < found["relative_rms_error"] < 0.01


def test_int8_of_rows_that_are_zero_or_not_finite() -> None:
    """Zeros stay zeros; a row with an infinity reads as NaN and is counted."""
    model = WordModel()
    with torch.no_grad():
        weight = model.module.state_dict()["embed.weight"]
        first, second = model.token_ids(["a", "b"])
        weight[first] = 0
        weight[second[0], 3] = torch.inf
    with pytest.warns(ValuesLost, match=r"layer 'embed': 1 rows hold an infinity, NaN or a"):
        run = captured("embed", ["a", "b", "c"], model=model, dtype="int8")
    assert (run["embed"][0] == 0).all()
    assert run["embed"][1].isnan().all()
    assert run["embed"][2].isfinite().all()
    assert run.metadata["int8"]["embed"]["rows_not_finite"] == 1
    assert run.metadata["int8"]["embed"]["max_error"] < 0.02


def test_int8_of_the_largest_and_smallest_floats() -> None:
    """What is finite stays finite, and of the smallest numbers none is lost for their scale."""
    model = WordModel()
    smallest = 2.0**-149
    with torch.no_grad():
        weight = model.module.state_dict()["embed.weight"]
        first, second, third = model.token_ids(["a", "b", "c"])
        weight[first] = torch.finfo(torch.float32).max
        weight[second] = 2 * smallest
        weight[third] = 178 * smallest
    run = captured("embed", ["a", "b", "c"], model=model, dtype="int8")
    rows = run["embed"][:]
    assert ((rows[0] / torch.finfo(torch.float32).max - 1).abs() < 1e-6).all()
    assert (rows[1] == 2 * smallest).all()
    assert (rows[2] == 178 * smallest).all()
    assert 0 < run.metadata["int8"]["embed"]["max_error"] < 1e33


def test_statistics_of_int8_are_those_of_the_floats() -> None:
    """They are computed before the rows lose anything, and tell of no error where none is kept."""
    run = captured(dtype="int8", reduce="mean")
    torch.testing.assert_close(
        run.reduced("blocks.0", "mean"), captured()["blocks.0"][:].double().mean(0)
    )
    assert run.layers == ()
    assert "int8" not in run.metadata
    both = captured(dtype="int8", reduce="mean", keep_rows=True)
    assert same_bits(both.reduced("blocks.0", "mean"), run.reduced("blocks.0", "mean"))
    assert both.layers == ("blocks.0",)


# --- attention patterns


class Attending(nn.Module):
    """Returns its input, and a pattern of two heads beside it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to every token up to one's own, padding included."""
        pattern = (x @ x.transpose(1, 2)).tril().abs()
        return x, torch.stack([pattern, 2 * pattern], 1)


class AttentiveModel(WordModel):
    """Has an attention layer in front of its blocks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        embed = self.module.get_submodule("embed")
        self.module.add_module("attention", Attending())
        attention = self.module.get_submodule("attention")
        embed.register_forward_hook(lambda _m, _i, output: attention(output)[0])


@pytest.mark.parametrize("padding", ["left", "right"])
def test_attention_patterns(padding: Any) -> None:
    """A row holds, for each head, what its token attends to, from the document's first token."""
    model = AttentiveModel(padding=padding)
    run = captured("attention:attention", model=model, batch_size=3, rows_per_unit=5)
    assert run.layers == ("attention:attention",)
    assert run["attention:attention"].shape == (22, 2 * 7)
    assert run.metadata["attention"] == {"attention:attention": {"heads": 2, "keys": 7}}
    for number, text in enumerate(TEXTS):
        ids = torch.tensor(model.token_ids([text]))
        vectors = model.module.state_dict()["embed.weight"][ids[0]]
        expected = (vectors @ vectors.T).tril().abs()
        count = len(text.split())
        rows = run["attention:attention"][run.documents.rows(number)].view(count, 2, 7)
        torch.testing.assert_close(rows[:, 0, :count], expected)
        torch.testing.assert_close(rows[:, 1, :count], 2 * expected)
        assert (rows[..., count:] == 0).all()


def test_a_layer_without_a_pattern() -> None:
    """It is refused, with how to have one."""
    with pytest.raises(NoPattern, match="attn_implementation='eager'"):
        captured("blocks.0:attention")


# --- reductions


def reduced(**how: Any) -> Run:
    """Capture two layers reduced in every way."""
    return captured(
        ["blocks.0", "head:input"], reduce="mean,var,cov,quantiles,topk", **{"top_k": 3, **how}
    )


@pytest.mark.parametrize("rows_per_unit", [3, 5, 1000])
@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("keep_rows", [False, True])
def test_reductions_are_those_of_the_rows(
    rows_per_unit: int, bucket: bool, keep_rows: bool
) -> None:
    """They are what numpy makes of the rows of the run."""
    how: dict[str, Any] = {"rows_per_unit": rows_per_unit, "batch_size": 2, "bucket": bucket}
    run, whole = reduced(keep_rows=keep_rows, **how), captured(["blocks.0", "head:input"], **how)
    assert run.layers == (whole.layers if keep_rows else ())
    assert run.tokens[:].tolist() == whole.tokens[:].tolist()
    for layer in whole.layers:
        rows = whole[layer].numpy().astype(np.float64)
        np.testing.assert_allclose(run.reduced(layer, "mean"), rows.mean(0), atol=1e-12)
        np.testing.assert_allclose(run.reduced(layer, "var"), rows.var(0), atol=1e-12)
        np.testing.assert_allclose(run.reduced(layer, "var", ddof=1), rows.var(0, ddof=1))
        cov = run.reduced(layer, "cov", ddof=1)
        np.testing.assert_allclose(cov, np.cov(rows.T), atol=1e-12)
        q = [0, 0.1, 0.5, 0.77, 1]
        exact = np.quantile(rows, q, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(run.reduced(layer, "quantiles", q=q), exact)
        assert run.quantile_error(layer) == 0
        top = run.reduced(layer, "topk")
        order = np.argsort(-rows, axis=0, kind="stable")[:3].T
        assert top.rows.tolist() == order.tolist()
        assert top.tokens.tolist() == run.tokens[:].numpy()[order].tolist()
        assert top.documents.tolist() == run.documents.index[:].numpy()[order].tolist()
        assert top.positions.tolist() == run.documents.position[:].numpy()[order].tolist()
        np.testing.assert_array_equal(top.scores, np.take_along_axis(rows, order.T, 0).T)


def test_a_run_that_was_stopped_has_the_same_statistics() -> None:
    """Resumed, they are equal to the bit to those of a run that was not."""

    def stop(progress: Progress) -> None:
        if progress.rows > 12:
            raise KeyboardInterrupt

    store = MemoryStore()
    with pytest.raises(KeyboardInterrupt):
        reduced(store=store, rows_per_unit=5, batch_size=2, progress=stop)
    (run_id,) = store.runs()
    part = captured("blocks.0", rows_per_unit=5, batch_size=2)["blocks.0"][:10].double()
    torch.testing.assert_close(store.run(run_id).reduced("layer_0", "mean"), part.mean(0))
    run, whole = (reduced(store=s, rows_per_unit=5, batch_size=2) for s in (store, MemoryStore()))
    for what in ("mean", "var", "cov", "quantiles"):
        assert same_bits(run.reduced("blocks.0", what), whole.reduced("blocks.0", what))
    assert run.reduced("blocks.0", "topk").rows.equal(whole.reduced("blocks.0", "topk").rows)


def test_statistics_that_are_not_there() -> None:
    """What was not asked for is refused, with what there is."""
    run = captured(reduce=["mean", "topk"])
    with pytest.raises(NotReduced, match=r"no 'cov'\. It has mean, topk"):
        run.reduced("blocks.0", "cov")
    with pytest.raises(NotCaptured, match="head"):
        run.reduced("head", "mean")
    with pytest.raises(NotReduced, match=r"captured without it \(reduce='mean'\)"):
        captured().reduced("blocks.0", "mean")
    with pytest.raises(NotReduced, match="no 'quantiles'"):
        run.quantile_error("blocks.0")
    with pytest.raises(NotCaptured):
        run["blocks.0"]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"reduce": "median"}, "reduce='median' must be one or more of mean, var"),
        ({"keep_rows": False}, "keep_rows=False must be True where nothing is reduced"),
        ({"reduce": "topk", "top_k": 0}, "top_k=0"),
    ],
)
def test_reductions_that_make_no_sense(how: dict[str, Any], match: str) -> None:
    """They are refused before anything is made."""
    store = MemoryStore()
    with pytest.raises(BadArgument, match=match):
        captured(store=store, **how)
    assert store.runs() == []
