"""Selections: what they are as values, and which tokens, rows and features they pick."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError, NeverFired
from tenterhook.hooks import Controller, Detector, HookWarning
from tenterhook.scopes import Scope
from tenterhook_selections import Seen, Selection, generating

WIDTH = 3


class _Flat(nn.Module):
    """Works on all tokens at once, `(batch * seq, features)`, as some models' MLPs do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x.reshape(-1, WIDTH))
        return made.reshape(x.shape)


class _Texts(nn.Module):
    """Takes ids and mask as language models do; each token is worked on alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.line = nn.Linear(WIDTH, WIDTH)
        self.flat = _Flat()

    def forward(
        self,
        input_ids: Tensor | dict[str, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        if isinstance(input_ids, dict):
            input_ids = input_ids["input_ids"]
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        out: Tensor = self.flat(self.line(x))
        return out


class _Past:
    """A cache that holds so many tokens."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def made() -> HookedModel:
    """Return a model of texts, seeded."""
    torch.manual_seed(0)
    return tenterhook.attach(_Texts())


@pytest.fixture
def model() -> HookedModel:
    """A model of texts."""
    return made()


def padded(lengths: Sequence[int], side: str) -> Tensor:
    """Return the mask of rows of so many real tokens, with one place of padding at least."""
    seq = max([*lengths, 0]) + 1
    mask = torch.zeros(len(lengths), seq, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, seq - length if side == "left" else 0 :][:length] = 1
    return mask


def ids_of(mask: Tensor) -> Tensor:
    """Return ids of the mask's shape, padding included."""
    return torch.arange(mask.numel()).reshape(mask.shape) % 50


def picked(where: Any, count: int) -> list[int]:
    """Return which of `count` things in a row `where` means, as lists of Python have it."""
    everything = list(range(count))
    if where is None:
        return everything
    if isinstance(where, slice):
        return everything[where]
    indices = [where] if isinstance(where, int) else where
    return [i % count for i in indices if -count <= i < count]


def chosen(mask: Tensor, tokens: Any, rows: Any) -> list[tuple[int, int, int]]:
    """Return the (row, place in the tensor, position in the row) of what is selected, in order."""
    found = []
    for row in sorted(set(picked(rows, len(mask)))):
        real = [place for place, is_real in enumerate(mask[row].tolist()) if is_real]
        found += [(row, real[p], p) for p in sorted(set(picked(tokens, len(real))))]
    return found


LENGTHS = [4, 1, 3]
TOKENS: dict[str, tuple[Any, Any]] = {
    "first": (0, 0),
    "last": ("last", -1),
    "minus_two": (-2, -2),
    "several": ([0, 2, -1], [0, 2, -1]),
    "slice": (slice(1, 3), slice(1, 3)),
    "text": ("-2:", slice(-2, None)),
    "step": ("::2", slice(None, None, 2)),
    "step_from_the_end": ("-3::2", slice(-3, None, 2)),
    "until_the_end": (":-1", slice(None, -1)),
    "all": (":", slice(None)),
}


class TestValue:
    """A selection is a value."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"tokens": 3}, {"tokens": [3]}),
            ({"tokens": "last"}, {"tokens": -1}),
            ({"tokens": slice(2, 5)}, {"tokens": "2:5"}),
            ({"tokens": slice(None)}, {"tokens": ":"}),
            ({"tokens": slice(None, None, 2)}, {"tokens": "::2"}),
            ({"rows": range(2)}, {"rows": (0, 1)}),
            ({"features": slice(-3, None)}, {"features": "-3:"}),
            ({}, {"every": 1}),
        ],
    )
    def test_spellings_are_equal(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        """Spellings of one selection are equal, with one hash and one text."""
        assert Selection(**one) == Selection(**other)
        assert hash(Selection(**one)) == hash(Selection(**other))
        assert repr(Selection(**one)) == repr(Selection(**other))

    def test_json(self) -> None:
        """A selection goes through JSON as plain values and comes back equal."""
        selection = Selection(
            tokens=slice(-3, None), phase="generated", rows=[0, 2], features="1:", every=4
        )
        text = json.dumps(attrs.asdict(selection))
        assert Selection(**json.loads(text)) == selection

    def test_frozen(self) -> None:
        """It does not change once made."""
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            Selection().tokens = (1,)  # type: ignore[misc]

    @pytest.mark.parametrize("name", ["tokens", "rows", "features"])
    @pytest.mark.parametrize(
        ("where", "said"),
        [
            (True, "True is not a (selection of )?position"),
            ([], "are not positions: give ints"),
            ([1, True], "are not positions: give ints"),
            ([0.5], "are not positions: give ints"),
            ("first", "'first' is not a selection of (positions|tokens).*'last'"),
            ("3", "'3' is not a selection of positions"),
            ("1:2:3:4", "is not a selection of positions"),
            ("a:b", "is not a selection of positions"),
            ("::-1", "a slice with a positive step"),
            ("::0", "a slice with a positive step"),
            (slice(0, 4, 0), "a slice with a positive step"),
            (slice(0.5, 4), "is not a selection of positions"),
        ],
    )
    def test_no_positions(self, name: str, where: Any, said: str) -> None:
        """What is no position is refused when the selection is made, whatever it is of."""
        with pytest.raises(ValueError, match=said):
            Selection(**{name: where})

    @pytest.mark.parametrize("every", [0, -1, True, 1.5, "2"])
    def test_every(self, every: Any) -> None:
        """`every` is a whole number of at least 1."""
        with pytest.raises(ValueError, match=r"every=.* is not a whole number of at least 1"):
            Selection(every=every)

    def test_phase(self) -> None:
        """`phase` is one of two."""
        with pytest.raises(ValueError, match=r"phase.*'prompt'.*'generated'"):
            Selection(phase="answer")  # type: ignore[arg-type]

    def test_whole_or_parts(self, model: HookedModel) -> None:
        """A scope takes a selection or its parts, not both."""
        with pytest.raises(ValueError, match=r"either selection=.* or its parts, not both"):
            model.capture("line", selection=Selection(tokens=1), rows=0)

    def test_unknown(self, model: HookedModel) -> None:
        """A word that is none is an error that names the nearest."""
        with pytest.raises(TypeError, match=r"no argument 'token'\. Did you mean 'tokens'\?"):
            model.steer("line", torch.neg, token=0)  # type: ignore[call-arg]


class TestTokens:
    """Positions count real tokens, whichever side the padding is on."""

    @pytest.mark.parametrize("layer", ["line", "flat.inner", "embed"])
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("name", TOKENS)
    def test_captured(self, model: HookedModel, layer: str, side: str, name: str) -> None:
        """The captured rows, and where they stood, are those counted by hand."""
        given, plain = TOKENS[name]
        mask = padded(LENGTHS, side)
        with model.capture(layer, tokens=given) as captured, model.capture(layer) as whole:
            model(ids_of(mask), mask)

        expected = chosen(mask, plain, None)
        full = whole.last(layer).reshape(*mask.shape, WIDTH)
        assert torch.equal(
            captured.last(layer), torch.stack([full[r, place] for r, place, _ in expected])
        )
        assert captured.where(layer)[0].tolist() == [[r, p] for r, _, p in expected]

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("how", ["position", "keyword", "mapping"])
    def test_ways_to_pass_a_mask(self, model: HookedModel, side: str, how: str) -> None:
        """The mask is seen by position, by keyword and in a mapping."""
        mask = padded(LENGTHS, side)
        both = {"input_ids": ids_of(mask), "attention_mask": mask}
        with model.capture("line", tokens="last") as captured:
            if how == "position":
                model(*both.values())
            elif how == "keyword":
                model(**both)
            else:
                model(both)
        assert captured.where("line")[0].tolist() == [[0, 3], [1, 0], [2, 2]]

    def test_embeddings(self, model: HookedModel) -> None:
        """A model that is given vectors for ids has tokens all the same."""
        mask = padded([2, 1], "left")
        with model.capture("line", tokens=0) as captured, model.capture("line") as whole:
            model(inputs_embeds=torch.randn(2, 3, WIDTH), attention_mask=mask)
        full = whole.last("line")
        assert torch.equal(captured.last("line"), torch.stack([full[0, 1], full[1, 2]]))

    def test_no_mask(self, model: HookedModel) -> None:
        """Without a mask every token is real."""
        with model.capture("line", "flat.inner", tokens="last") as captured:
            model(torch.arange(8).reshape(2, 4))
        for layer in captured:
            assert captured.where(layer)[0].tolist() == [[0, 3], [1, 3]]

    @pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.float32])
    def test_kinds_of_mask(self, model: HookedModel, kind: torch.dtype) -> None:
        """A mask is of any dtype."""
        mask = padded([2, 1], "right")
        with model.capture("line", tokens="last") as captured:
            model(ids_of(mask), mask.to(kind))
        assert captured.where("line")[0].tolist() == [[0, 1], [1, 0]]

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("how", ["bool", "added", "one row for all", "by kind", "longer"])
    def test_prepared_masks(self, model: HookedModel, side: str, how: str) -> None:
        """Of a mask `(batch, heads, seq, keys)`, what no token sees is padding."""
        lengths = [2, 2] if how == "one row for all" else [2, 3]
        mask = padded(lengths, side)
        causal = torch.ones(mask.shape[1], mask.shape[1]).tril().bool()
        given: Any = mask.bool()[:, None, None] & causal
        if how == "one row for all":
            given = given[:1]
        if how == "added":
            given = torch.zeros(given.shape).masked_fill(~given, torch.finfo(torch.float32).min)
        if how == "longer":  # as a cache has room
            given = torch.nn.functional.pad(given, (0, 4))
        if how == "by kind":
            given = {"sliding_attention": given[..., :1], "full_attention": given}
        with model.capture("line", tokens=":") as captured:
            model(ids_of(mask), attention_mask=given)
        with model.capture("line", tokens=":") as expected:
            model(ids_of(mask), mask)
        assert torch.equal(captured.last("line"), expected.last("line"))

    @pytest.mark.parametrize("given", [torch.ones(2, 3, 3), {"sliding_attention": 1}, object()])
    def test_other_masks(self, model: HookedModel, given: Any) -> None:
        """Where a mask does not say what padding is, tokens cannot be selected; rows can."""
        ids = torch.arange(6).reshape(2, 3)
        with model.capture("line", rows=1) as captured:
            model(ids, attention_mask=given)
        assert captured.last("line").shape == (1, 3, WIDTH)
        with (
            pytest.raises(ValueError, match="does not say which are real"),
            model.capture("line", tokens="last"),
        ):
            model(ids, attention_mask=given)

    def test_holes(self, model: HookedModel) -> None:
        """A mask with holes counts what is real around them."""
        mask = torch.tensor([[0, 1, 0, 1, 1]])
        with model.capture("line", tokens=[0, 1]) as captured, model.capture("line") as whole:
            model(ids_of(mask), mask)
        assert torch.equal(captured.last("line"), whole.last("line")[0, [1, 3]])

    def test_module_without_ids(self) -> None:
        """Where the model is given no ids, the axes of the activation say what the tokens are."""
        model = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        x = torch.randn(2, 3, 2)
        with model.capture(0, tokens=-1) as captured:
            out = model(x)
        assert torch.equal(captured.last(0), out[:, -1])

    def test_inputs(self, model: HookedModel) -> None:
        """A capture of inputs, and a change before a layer, select alike."""
        mask = padded([3, 2], "left")
        with (
            model.steer("line", lambda t: t * 0, hook_type="pre_forward", tokens="last"),
            model.capture("line", inputs=True, tokens="last") as captured,
            model.capture("line", inputs=True) as whole,
        ):
            model(ids_of(mask), mask)
        full, before = whole.last("line"), model.module.get_submodule("embed")(ids_of(mask))
        assert not captured.last("line").any()
        assert torch.equal(captured.last("line"), full[:, -1])
        assert torch.equal(full[:, :-1], before[:, :-1])

    @pytest.mark.parametrize("given", ["capture", "steer"])
    def test_no_tokens_there(self, given: str) -> None:
        """Tokens of an activation that has no axis of them are an error that names the layer."""
        model = tenterhook.attach(nn.Sequential(nn.Linear(2, 2)))
        scope: Scope = model.capture(0, tokens=0)
        if given == "steer":
            scope = model.steer(0, torch.neg, tokens=0)
        with pytest.raises((ValueError, HookError), match=r"'0'.*Tokens are selected"), scope:
            model(torch.ones(2, 2))
        tenterhook.assert_clean(model)


class TestByRow:
    def test_rows_in_token_order(self, model: HookedModel) -> None:
        """`by_row` gives the real tokens of each row, whatever the padding."""
        for side in ("left", "right"):
            mask = padded(LENGTHS, side)
            with model.capture("line", tokens=":") as captured, model.capture("line") as whole:
                model(ids_of(mask), mask)
            rows = captured.by_row("line")
            full = whole.last("line")
            assert [len(row) for row in rows] == LENGTHS
            for row, real, values in zip(full, mask.bool(), rows, strict=True):
                assert torch.equal(values, row[real])

    def test_steps_join(self, model: HookedModel) -> None:
        """Calls that go on where others stopped join to one row each; a place seen twice counts
        as seen last.
        """
        ids = torch.arange(10).reshape(2, 5)
        with model.capture("line", tokens=":") as captured:
            model(ids[:, :3])
            model(ids[:, 3:4], past_key_values=_Past(3))
            model(ids[:, 4:], past_key_values=_Past(4))
            with model.steer("embed", torch.neg):
                model(ids)
        rows = captured.by_row("line")
        inner = model.module.get_submodule
        expected = inner("line")(-inner("embed")(ids))
        assert [where.tolist() for where in captured.where("line")[1:3]] == [
            [[0, 3], [1, 3]],
            [[0, 4], [1, 4]],
        ]
        assert torch.allclose(torch.stack(rows), expected)

    def test_cache_that_grows_on_the_way(self, model: HookedModel) -> None:
        """The past is what the cache held as the forward began, not what layers add to it."""
        past = _Past(3)

        def grow(t: Tensor) -> None:
            past.length += t.shape[1]

        with model.steer("embed", grow), model.capture("line", tokens=":") as captured:
            model(torch.arange(4).reshape(2, 2), past_key_values=past)
        assert captured.where("line")[0].tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]

    def test_needs_tokens(self, model: HookedModel) -> None:
        """Where nothing says which token it was, there is no order to give."""
        with model.capture("line", rows=0) as captured:
            model(torch.arange(4)[None])
        with pytest.raises(LookupError, match="Only a capture of selected tokens says"):
            captured.by_row("line")
        with pytest.raises(LookupError, match="Only a capture of selected tokens says"):
            captured.where("line")


class TestPhase:
    """Which tokens were given, and which the model made."""

    def test_one_forward_is_prompt(self, model: HookedModel) -> None:
        """Outside a generation, tokens without a past are the prompt's."""
        with model.capture("line", phase="prompt") as captured:
            model(torch.arange(6).reshape(2, 3))
        assert len(captured.last("line")) == 6

    def test_after_a_past(self, model: HookedModel) -> None:
        """What follows a past counts as generated; the mask says how long the past is, too."""
        with (
            model.capture("line", phase="generated") as captured,
            model.capture("line", phase="prompt") as prompt,
        ):
            model(torch.arange(6).reshape(2, 3))
            model(torch.ones(2, 1, dtype=torch.long), past_key_values=_Past(3))
            model(torch.ones(2, 1, dtype=torch.long), torch.tensor([[0, 1, 1, 1, 1]] * 2))
        assert [len(call) for call in captured["line"]] == [0, 2, 2]
        assert [len(call) for call in prompt["line"]] == [6, 0, 0]
        assert captured.where("line")[2].tolist() == [[0, 3], [1, 3]]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_in_a_generation(self, model: HookedModel, side: str) -> None:
        """In a generation the lengths of the prompts say it, without a cache too."""
        mask = padded([4, 3], side)
        with generating([2, 3]), model.capture("line", phase="generated") as captured:
            model(ids_of(mask), mask)
        assert captured.where("line")[0].tolist() == [[0, 2], [0, 3]]

    def test_positions_within(self, model: HookedModel) -> None:
        """Positions and phase go together: both must hold."""
        mask = padded([4, 3], "left")
        with generating([2, 2]), model.capture("line", phase="prompt", tokens="1:") as captured:
            model(ids_of(mask), mask)
        assert captured.where("line")[0].tolist() == [[0, 1], [1, 1]]

    def test_copies_of_a_row(self, model: HookedModel) -> None:
        """Beams or samples of a row are selected with it, and share its prompt."""
        ids = torch.arange(12).reshape(4, 3)
        with (
            generating([2, 3]),
            model.capture("line", rows=0, phase="generated") as captured,
            model.capture("line", rows=-1, tokens=0) as last,
        ):
            model(ids)
        assert captured.where("line")[0].tolist() == [[0, 2], [1, 2]]
        assert last.where("line")[0].tolist() == [[2, 0], [3, 0]]


class TestRowsFeaturesCalls:
    @pytest.mark.parametrize("rows", [0, -1, [2, 0], "1:"])
    def test_rows(self, model: HookedModel, rows: Any) -> None:
        """Rows of the batch, in the batch's order."""
        plain = slice(1, None) if rows == "1:" else rows
        x = torch.arange(12).reshape(3, 4)
        with model.capture("line", rows=rows) as captured, model.capture("line") as whole:
            model(x)
        at = sorted(picked(plain, 3))
        assert torch.equal(captured.last("line"), whole.last("line")[at])

    def test_rows_of_flat_activations(self, model: HookedModel) -> None:
        """A row of a layer that works on all tokens at once is the row's tokens."""
        with model.capture("flat.inner", rows=1) as captured, model.capture("flat.inner") as all_:
            model(torch.arange(12).reshape(3, 4))
        assert torch.equal(captured.last("flat.inner"), all_.last("flat.inner")[4:8])

    @pytest.mark.parametrize("features", [1, [2, 0], "1:", "::2"])
    def test_features(self, model: HookedModel, features: Any) -> None:
        """Features come in the order that they were asked for."""
        index: Any = {"1:": slice(1, None), "::2": slice(None, None, 2), 1: [1]}
        at = features if isinstance(features, list) else index[features]
        with model.capture("line", features=features) as captured, model.capture("line") as whole:
            model(torch.arange(4)[None])
        assert torch.equal(captured.last("line"), whole.last("line")[..., at])

    def test_features_of_tokens(self, model: HookedModel) -> None:
        """Features of selected tokens of selected rows."""
        with (
            model.capture("line", tokens=[1], rows=[0], features=[2, 1]) as captured,
            model.capture("line") as whole,
        ):
            model(torch.arange(6).reshape(2, 3))
        assert torch.equal(captured.last("line"), whole.last("line")[0, [1]][:, [2, 1]])

    @pytest.mark.parametrize("every", [1, 2, 3])
    def test_every(self, model: HookedModel, every: int) -> None:
        """The first call, and each `every`-th after it, counted for each layer of each scope."""
        xs = [torch.full((1, 2), number) for number in range(7)]
        with (
            model.capture("line", every=every) as captured,
            model.capture("line") as all_,
            model.steer("flat", lambda t: t * 0, every=every),
            model.capture("flat") as steered,
        ):
            for x in xs:
                model(x)
        kept = list(range(0, 7, every))
        assert torch.equal(captured.cat("line"), torch.cat([all_["line"][n] for n in kept]))
        assert [n for n, t in enumerate(steered["flat"]) if not t.any()] == kept

    @pytest.mark.parametrize(
        ("part", "said"),
        [
            ({"rows": 3}, "There is no row 3; there are 3"),
            ({"rows": -4}, "There is no row -4; there are 3"),
            ({"features": [0, 3]}, "There is no feature 3; there are 3"),
        ],
    )
    def test_not_there(self, model: HookedModel, part: dict[str, Any], said: str) -> None:
        """A row or feature that is not there is an error that names the layer and the count."""
        x = torch.arange(12).reshape(3, 4)
        with (
            pytest.raises(IndexError, match=f"Layer 'line': {said}"),
            model.capture("line", **part),
        ):
            model(x)
        with (
            pytest.raises(HookError, match=said) as caught,
            model.steer("line", torch.neg, **part),
        ):
            model(x)
        assert isinstance(caught.value.original_error, IndexError)
        assert caught.value.layer_signature == "line"
        tenterhook.assert_clean(model)


WHERE = st.one_of(
    st.none(),
    st.integers(-5, 4),
    st.lists(st.integers(-5, 4), min_size=1, max_size=3),
    st.builds(
        slice,
        st.none() | st.integers(-6, 6),
        st.none() | st.integers(-6, 6),
        st.none() | st.integers(1, 3),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    tokens=WHERE,
    rows=st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=2),
    features=st.none() | st.lists(st.integers(-WIDTH, WIDTH - 1), min_size=1, max_size=2),
    layer=st.sampled_from(["embed", "line", "flat.inner"]),
)
def test_steering_equals_where(
    lengths: list[int], side: str, tokens: Any, rows: Any, features: Any, layer: str
) -> None:
    """A selected change is `torch.where` of the whole change and the plain activation."""
    model, mask = made(), padded(lengths, side)
    ids = ids_of(mask)
    rows = None if rows is None else [row % len(lengths) for row in rows]
    with model.capture(layer) as whole:
        model(ids, mask)
    plain = whole.last(layer)
    counts = torch.zeros(*mask.shape, WIDTH, dtype=torch.bool)
    if tokens is None:
        counts[torch.tensor(rows if rows is not None else range(len(lengths)))] = True
    else:
        for row, place, _ in chosen(mask, tokens, rows):
            counts[row, place] = True
    if features is not None:
        keep = torch.zeros(WIDTH, dtype=torch.bool)
        keep[torch.tensor(features)] = True
        counts &= keep
    expected = torch.where(counts.reshape(plain.shape), plain * 3 + 1, plain)

    parts = {"tokens": tokens, "rows": rows, "features": features, "missing": "ignore"}
    with model.steer(layer, lambda t: t * 3 + 1, **parts), model.capture(layer) as steered:
        model(ids, mask)
    assert torch.equal(steered.last(layer), expected)


class TestSteering:
    def test_different_rows(self, model: HookedModel) -> None:
        """One batch carries a different change in each row; a row without one is left alone."""
        x = torch.arange(12).reshape(3, 4)
        plain = model(x)
        with (
            model.steer("flat", lambda t: t + 1, rows=0),
            model.steer("flat", lambda t: t * 10, rows=2, tokens="last"),
        ):
            out = model(x)
        assert torch.equal(out[0], plain[0] + 1)
        assert torch.equal(out[1], plain[1])
        assert torch.equal(out[2, :3], plain[2, :3])
        assert torch.equal(out[2, 3], plain[2, 3] * 10)

    def test_each_row_as_alone(self, model: HookedModel) -> None:
        """A row that is steered in a batch is what it is steered alone."""
        mask = padded([3, 4], "left")
        ids, changes = ids_of(mask), (lambda t: t + 1, lambda t: t * -2)
        with model.steer("line", changes[0], rows=0), model.steer("line", changes[1], rows=1):
            together = model(ids, mask)
        for row, change in enumerate(changes):
            with model.steer("line", change):
                alone = model(ids[row : row + 1], mask[row : row + 1])
            assert torch.allclose(together[row : row + 1], alone)

    def test_gradients(self, model: HookedModel) -> None:
        """What is not selected keeps its gradient; what is has that of the change."""
        x = torch.randn(1, 3, WIDTH)
        grads = []
        for factor in (None, 5.0):
            embeds = x.clone().requires_grad_()
            if factor is None:
                model(inputs_embeds=embeds).sum().backward()
            else:
                with model.steer("line", lambda t: t * 5.0, tokens=1):
                    model(inputs_embeds=embeds).sum().backward()
            assert embeds.grad is not None
            grads.append(embeds.grad)
        plain, steered = grads
        assert torch.equal(plain[0, [0, 2]], steered[0, [0, 2]])
        assert torch.allclose(plain[0, 1] * 5, steered[0, 1])

    def test_half(self) -> None:
        """The activation keeps its dtype, whatever the change returns."""
        model = tenterhook.attach(made().module.to(torch.bfloat16))
        with model.steer("line", lambda t: t.float() * 2, tokens=0):
            assert model(torch.arange(3)[None]).dtype is torch.bfloat16

    def test_shape_stays(self, model: HookedModel) -> None:
        """A change of a part cannot change the shape."""
        with (
            pytest.raises(
                HookError, match=r"keeps the activation's shape \(1, 3, 3\).*\(1, 1, 3\)"
            ),
            model.steer("line", lambda t: t[:, :1], tokens=0),
        ):
            model(torch.arange(3)[None])

    def test_change_of_a_tuple(self) -> None:
        """The other fields of a tuple are what they were."""

        class Pair(nn.Module):
            def forward(self, input_ids: Tensor) -> Any:
                return input_ids[..., None].float(), "rest"

        model = tenterhook.attach(nn.Sequential(Pair()))
        with model.steer(0, lambda t: t + 1, tokens=-1):
            out, rest = model(torch.zeros(1, 2, dtype=torch.long))
        assert out.flatten().tolist() == [0, 1]
        assert rest == "rest"


class _Counts(Detector, Controller):
    calls = 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls += 1

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> None:
        return None


def test_calls_while_controllers_are_off(model: HookedModel) -> None:
    """A hook of both kinds goes on detecting every Nth call, and what it selected is selected."""
    hook, x = _Counts(), torch.arange(4)[None]
    with model.steer("line", hook, every=3, missing="raise"):
        model(x)
        with model.without_controllers():
            for _ in range(6):
                model(x)
        model(x)
    assert hook.calls == 3
    hook = _Counts()
    with (
        model.steer("line", hook, tokens="last", missing="raise"),
        model.without_controllers(),
    ):
        model(x)
    assert hook.calls == 1


class TestUnmatched:
    """A selection that selected nothing is named once, however many calls there were."""

    def test_warned_once(self, model: HookedModel) -> None:
        """One warning for a scope, with the selection and every layer that it missed."""
        for scope in (
            model.capture("line", "flat", tokens=9),
            model.steer(["line", "flat"], torch.neg, tokens=9),  # type: ignore[arg-type]
        ):
            with pytest.warns(HookWarning) as said, scope:  # noqa: PT031 - once for several calls
                for _ in range(3):
                    model(torch.arange(4)[None])
            assert [str(w.message) for w in said] == [
                f"{Selection(tokens=9)} matched no token at 'line', 'flat'. The longest row had 4 "
                "tokens and the model got no attention mask, so padding counts."
            ]

    @pytest.mark.parametrize("part", [{"tokens": 9}, {"phase": "generated"}])
    def test_as_an_error(self, model: HookedModel, part: dict[str, Any]) -> None:
        """On request it is an error."""
        with (
            pytest.raises(NeverFired, match="matched no token at 'line'"),
            model.capture("line", missing="raise", **part),
        ):
            model(torch.arange(4)[None])
        with (
            pytest.raises(NeverFired, match="matched no token at 'line'"),
            model.steer("line", torch.neg, missing="raise", **part),
        ):
            model(torch.arange(4)[None])
        tenterhook.assert_clean(model)

    def test_matched_once_is_enough(self, model: HookedModel) -> None:
        """A selection that matched in one of many calls is not named."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with model.steer("line", torch.neg, tokens=3), model.capture("line", tokens=3):
                model(torch.arange(4)[None])
                model(torch.arange(2)[None])

    def test_never_called(self, model: HookedModel) -> None:
        """A layer that never ran is named as such, not as unmatched."""
        with (
            pytest.warns(HookWarning, match="A hook never ran at 'line'") as said,
            model.steer("line", torch.neg, tokens=0),
        ):
            pass
        assert len(said) == 1


def test_a_notebook_shows_what_is_selected() -> None:
    """The fields that are set, escaped; of none, that it is everything."""
    shown = Selection(tokens="2:5", rows=[0, 2])._repr_html_()

    assert "<td>tokens</td><td>2:5</td>" in shown
    assert "<td>rows</td><td>(0, 2)</td>" in shown
    assert "phase" not in shown
    assert "everything" in Selection()._repr_html_()


@pytest.mark.parametrize("field", ["tokens", "rows", "features", "heads", "step"])
def test_a_position_beyond_any_text(field: str) -> None:
    """It is refused where it is written, and not in the middle of a forward."""
    parts: dict[str, Any] = {field: [0, 10**30]}
    with pytest.raises(ValueError, match="is beyond any text"):
        Selection(**parts)


def test_slices_that_end_beyond_any_text() -> None:
    """Are those to the end, as Python's are."""
    mask = torch.ones(1, 4)
    seen = Seen.read(mask, 4)
    for text, count in ((f"1:{10**30}", 3), (f"-{10**30}:2", 2), (f"::{10**30}", 1)):
        found = Selection(tokens=text).token_mask(torch.Size((1, 4, 1)), mask.device, seen)
        assert int(found.sum()) == count
        assert Selection(features=text).feature_index(4, mask.device) is not None
