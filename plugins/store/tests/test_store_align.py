"""Two runs as one: rows of the same characters are paired, whatever cut the texts into tokens."""

import contextlib
import json
import random
from typing import Any

import pytest
import torch
from aligned_runs import Cut, cut, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

import tenterhook_store.aligning.pairing
import tenterhook_store.aligning.pairs
from tenterhook_store import (
    BadName,
    BadSetting,
    CannotAlign,
    DamagedStore,
    MemoryStore,
    NoSpans,
    NotCaptured,
    OtherAlignment,
    OtherLoader,
    ReplacedRun,
    Run,
    list_alignments,
    open_alignment,
)

TEXTS = st.lists(
    st.text(st.sampled_from("ab é😀\u0301ß"), max_size=12), min_size=1, max_size=6
).filter(any)


def wanted(a: list[Cut], b: list[Cut], rows_a: set[int], rows_b: set[int]) -> list[list[int]]:
    """Pair spans of each document one by one: equal ones from the last."""
    found: list[tuple[int, int]] = []
    at_a = at_b = 0
    for one, other in zip(a, b, strict=True):
        numbered = [
            [(at + first, span) for at, span in enumerate(cuts) if at + first in there]
            for first, cuts, there in ((at_a, one, rows_a), (at_b, other, rows_b))
        ]
        for span in {each for _, each in numbered[0]} - {(-1, -1)}:
            same = [[row for row, each in side if each == span] for side in numbered]
            found += zip(reversed(same[0]), reversed(same[1]), strict=False)
        at_a, at_b = at_a + len(one), at_b + len(other)
    return [list(each) for each in sorted(found)]


@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, seed=st.integers(0, 10**6), block=st.sampled_from([2, 32_768]))
def test_every_equal_span_is_paired_and_none_other(texts: list[str], seed: int, block: int) -> None:
    """Two random byte-level tokenizers, which cut inside of characters; units may be missing."""
    rng = random.Random(seed)
    cuts = [[cut(text, rng, special=rng.random() < 0.3) for text in texts] for _ in range(2)]
    runs, there = [], []
    for one in cuts:
        rows = sum(map(len, one))
        units = [n for n in range(-(-rows // 4)) if rng.random() < 0.9]
        runs.append(run_of(one, units=units))
        there.append({row for row in range(rows) if row // 4 in units})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenterhook_store.aligning.pairing, "BLOCK", block)
        patch.setattr(tenterhook_store.aligning.pairs, "PIECE", 5)
        found = runs[0].align(runs[1])
        assert found.pairs[:].tolist() == wanted(cuts[0], cuts[1], *there)


def test_documents_that_are_other_texts_are_named() -> None:
    """Those and the ones that a run has more are left out; documents without rows go by."""
    texts = ["ab", "", "abc", "a", "abcd"]
    rng = random.Random(0)
    others = ["ab", "", "abx", "a"]
    one = run_of([cut(each, rng) for each in texts], texts=texts)
    other = run_of([cut(each, rng) for each in others], texts=others)
    found = one.align(other)
    assert found.different_documents == (2,)
    assert found.facts.different_count == 1
    kept = [int(one.documents.index[row]) for row in found.pairs[:, 0].tolist()]
    assert {*kept} <= {0, 3}
    assert "left out, other texts in A and B: documents 2" in str(found)


def short(text: str = "abc", **how: Any) -> Run:
    """Return a run of one document, a token for each character."""
    return run_of([[(at, at + 1) for at in range(len(text))]], **how)


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        (lambda: short(texts=["xyz"]), CannotAlign, "other data sets: no document of one is"),
        (
            lambda: short(spec={"documents_fingerprint": "1"}),
            CannotAlign,
            "'run' does not|, and 'r",
        ),
        (lambda: short(about={}), NoSpans, "Run 'run' has no spans"),
        (lambda: short(layers=()), CannotAlign, "keeps statistics of its layers, and no rows"),
        (
            lambda: short(texts=["abc"], about={"spans": True, "template": "x"}),
            CannotAlign,
            "one is of conversations, and the other of texts",
        ),
    ],
    ids=["other texts", "not known which", "no spans", "reduced", "conversations"],
)
def test_runs_that_do_not_align(other: Any, error: type[Exception], match: str) -> None:
    """The error says which run, and why."""
    with pytest.raises(error, match=match):
        short(texts=["abc"]).align(other())


def test_conversations_align_where_they_became_the_same_tokens() -> None:
    """Else characters are of other texts: of what each template made."""
    about = {"spans": True, "template": "x"}
    one, same, other = (
        short(about=about, spec={"template_fingerprint": each}) for each in ("1", "1", "2")
    )
    assert len(one.align(same)) == 3
    with pytest.raises(CannotAlign, match="of which chat templates or tokenizers made other"):
        one.align(other)


def test_runs_that_do_not_say_of_which_texts() -> None:
    """Two that others wrote align where they have as many documents."""
    with pytest.raises(CannotAlign, match="1 and 2 documents, and do not say of which texts"):
        short().align(run_of([[(0, 1)], [(0, 1)]]))


# --- kept


@pytest.fixture
def pair() -> tuple[Run, Run]:
    """Return two runs of one store, of 40 tokens and of some of the same characters."""
    store = MemoryStore()
    every = [[(at, at + 1) for at in range(10)] for _ in range(4)]
    some = [[(at, at + 1) for at in range(0, 10, 3)] + [(2, 5)] for _ in range(4)]
    texts = ["abcdefghij"] * 4
    return (
        run_of(every, texts=texts, name="a", store=store),
        run_of(some, texts=texts, name="b", store=store, width=2, unit=3),
    )


def test_it_is_kept_and_opened_again(pair: tuple[Run, Run], monkeypatch: Any) -> None:
    """By its name, with its runs; `verify` pairs them again."""
    monkeypatch.setattr(tenterhook_store.aligning.pairs, "PIECE", 5)
    monkeypatch.setattr(tenterhook_store.aligning.keeping, "PIECE", 5)
    one, other = pair
    kept = one.align(other).save()
    store: Any = one.store
    assert (kept.name, list_alignments(store)) == ("a--b", ["a--b"])
    again = open_alignment(store, "a--b")
    assert torch.equal(again.pairs[:], kept.pairs[:])
    assert again.pairs[[15, 0]].tolist() == [kept.pairs[15].tolist(), kept.pairs[0].tolist()]
    assert (again.documents, again.run_b.id, again.verify()) == (4, "b", [])
    assert one.align(other).save().name == "a--b"  # the same stays


def test_what_is_kept_is_of_its_runs(pair: tuple[Run, Run]) -> None:
    """A run that was made anew under a name is not the one that was aligned."""
    store: Any = pair[0].store
    pair[0].align(pair[1]).save()
    store.delete_run("b")
    run_of([[(0, 1)]] * 4, texts=["abcdefghij"] * 4, name="b", store=store)
    with pytest.raises(ReplacedRun, match="its plan is not the one that was aligned"):
        open_alignment(store, "a--b")
    with pytest.raises(OtherAlignment, match="is of other runs, or of what they were then"):
        store.run("a").align(store.run("b")).save()
    assert len(store.run("a").align(store.run("b")).save(overwrite=True)) == 4


def test_spans_that_changed_are_found(pair: tuple[Run, Run]) -> None:
    """A run with the same plan and other spans does not verify."""
    store: Any = pair[0].store
    kept = pair[0].align(pair[1]).save()
    store.delete_run("b")
    moved = [[(at, at + 1) for at in range(1, 9, 2)] + [(2, 5)] for _ in range(4)]
    other = run_of(moved, texts=["abcdefghij"] * 4, name="b", store=store, width=2, unit=3)
    problems = open_alignment(store, "a--b", (pair[0], other)).verify()
    assert "alignment a--b: piece 0 has other pairs than the runs" in str(problems[0])
    assert kept.name == "a--b"


def test_units_that_came_later_change_nothing() -> None:
    """An alignment of a run that lacked units is of those that were there."""
    store = MemoryStore()
    run_of([[(at, at + 1) for at in range(10)]], name="a", store=store, units=[0, 2])
    one, other = store.run("a"), short("abcdefghij", name="b", store=store)
    one.align(other).save()
    run_of([[(at, at + 1) for at in range(10)]], name="a", store=store, units=[1])
    kept = open_alignment(store, "a--b")
    assert [len(kept), kept.verify(), len(kept.run_a.committed)] == [6, [], 2]


def facts_of(store: Any) -> dict[str, Any]:
    """Return what the alignment `a--b` says of itself."""
    found: dict[str, Any] = json.loads(bytes(store.load_tensor(FACTS).tolist()))
    return found


def tensor_of(content: bytes) -> torch.Tensor:
    """Return bytes as a store keeps them."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


FACTS = "alignments/a--b/facts"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"units": [[0, 1, 2]]}, DamagedStore, r"facts cannot be read .*units"),
        ({"units": [[0, 10**15]]}, ReplacedRun, "it has fewer units than were aligned"),
        ({"units": [[3, 0]]}, DamagedStore, "not those of an alignment that is known here"),
        ({"units": [[0, 0], [0, 0], [-1, 0]]}, DamagedStore, "facts cannot be read"),
        ({"plan": 3}, DamagedStore, "facts cannot be read"),
    ],
    ids=["three ends", "very many units", "falling", "negative", "no plan"],
)
def test_facts_that_cannot_be(
    pair: tuple[Run, Run], change: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Each is said, at once, whatever numbers are in them."""
    store: Any = pair[0].store
    pair[0].align(pair[1]).save()
    facts = facts_of(store)
    facts["runs"][0] |= change
    store.save_tensor(FACTS, tensor_of(json.dumps(facts).encode()))
    with pytest.raises(error, match=match):
        open_alignment(store, "a--b")


@pytest.mark.parametrize(
    "facts",
    [
        torch.tensor([1.5]),
        torch.tensor([300]),
        torch.tensor([-1]),
        tensor_of(b"{"),
        torch.empty(0).byte(),
    ],
    ids=["floats", "too large", "negative", "half", "none"],
)
def test_damaged_facts_are_written_over_when_asked(pair: tuple[Run, Run], facts: Any) -> None:
    """Reading them names the alignment and the way out; nothing is lost without `overwrite`."""
    store: Any = pair[0].store
    aligned = pair[0].align(pair[1])
    aligned.save()
    store.save_tensor(FACTS, facts)
    damaged = r"alignment a--b: its facts .*\(--overwrite\)"
    with pytest.raises(DamagedStore, match=damaged):
        open_alignment(store, "a--b")
    with pytest.raises(DamagedStore, match=damaged):
        aligned.save()
    assert aligned.save(overwrite=True).verify() == []


def test_pieces_that_are_damaged(pair: tuple[Run, Run]) -> None:
    """They are found when read, and aligning again mends them."""
    store: Any = pair[0].store
    aligned = pair[0].align(pair[1])
    aligned.save()
    name = "alignments/a--b/pairs/000000"
    store.save_tensor(name, store.load_tensor(name).flip(0))
    with pytest.raises(DamagedStore, match="piece 0 of its pairs is not what was written"):
        open_alignment(store, "a--b").pairs[:]
    store.delete_tensor(name)
    with pytest.raises(DamagedStore, match="piece 0 of its pairs is gone"):
        open_alignment(store, "a--b").verify()
    assert aligned.save().verify() == []


class Killed(Exception):
    """Ends a process in the middle, as far as a store can tell."""


@pytest.mark.parametrize("step", range(8))
def test_killed_in_the_middle_it_is_whole_or_not_there(
    pair: tuple[Run, Run], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was under the name before; the same call again makes it, and leaves nothing over."""
    monkeypatch.setattr(tenterhook_store.aligning.pairs, "PIECE", 4)
    monkeypatch.setattr(tenterhook_store.aligning.keeping, "PIECE", 4)
    store: Any = pair[0].store
    pair[0].align(pair[0]).save(name="x")  # a longer one
    aligned = pair[0].align(pair[1])
    left = [step]

    def counted(method: Any) -> Any:
        def call(*args: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            method(*args)

        return call

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for name in ("save_tensor", "delete_tensor"):
            patch.setattr(store, name, counted(getattr(store, name)))
        aligned.save(name="x", overwrite=True)
    if "x" in list_alignments(store):
        assert open_alignment(store, "x").pairs[:].shape[1] == 2
    assert aligned.save(name="x", overwrite=True).verify() == []
    assert len([each for each in store.list_tensors() if "pairs" in each]) == 4


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("x" * 180, "cannot name an alignment: it has 180 bytes, and 176 are the most; give ano"),
        ("x" * 400, r"cannot name an alignment: .*give another by name= \(--name\)"),
        ("\x1b[31m", r"'\\x1b\[31m' cannot name an alignment: it has the control character"),
        ("a/b", "cannot name an alignment: it has a slash"),
        (3, "cannot name an alignment: it is a int"),
    ],
    ids=["long", "very long", "escapes", "slash", "number"],
)
def test_names_that_cannot_be(pair: tuple[Run, Run], name: Any, match: str) -> None:
    """They are refused before anything is written."""
    with pytest.raises(BadName, match=match):
        pair[0].align(pair[1]).save(name=name)
    store: Any = pair[0].store
    assert store.list_tensors() == []


def test_a_run_with_itself(pair: tuple[Run, Run]) -> None:
    """Every row of characters is its own partner."""
    found = pair[0].align(pair[0]).save()
    assert torch.equal(found.pairs[:, 0], found.pairs[:, 1])
    assert (len(found), found.verify()) == (40, [])


# --- loaded


@pytest.mark.parametrize("mixing", ["blocks", "exact", None])
def test_loader_gives_tuples_of_partners(pair: tuple[Run, Run], mixing: Any) -> None:
    """Each pair once, its rows side by side, in the order of the seed."""
    aligned = pair[0].align(pair[1])
    how: Any = {"shuffle": False} if mixing is None else {"mixing": mixing, "block_rows": 3}
    loader = aligned.loader("x", 5, seed=1, buffer_rows=7, **how)
    batches = [*loader]
    assert [len(each[0]) for each in batches] == [5, 5, 5, 1]
    found = torch.stack([torch.cat(side)[:, 0] for side in zip(*batches, strict=True)], 1).long()
    assert sorted(found.tolist()) == aligned.pairs[:].tolist()
    assert batches[0][1].shape == (5, 2)
    again = [*aligned.loader("x", 5, seed=1, buffer_rows=7, **how)]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))


def test_loader_goes_on_where_it_stood(pair: tuple[Run, Run]) -> None:
    """A state gives the batches left, bit for bit; of another alignment it is refused."""
    aligned = pair[0].align(pair[1])
    loader = aligned.loader("x", 3, seed=2, buffer_rows=6)
    stream = iter(loader)
    _ = next(stream), next(stream)
    state = loader.state_dict()
    rest = [*stream]
    again = aligned.loader("x", 3, seed=2, buffer_rows=6)
    again.load_state_dict(state)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, again, strict=True))
    with pytest.raises(OtherLoader, match="run is 'a--b' there and 'b--a' here"):
        pair[1].align(pair[0]).loader("x", 3, seed=2, buffer_rows=6).load_state_dict(state)


def test_ranks_share_the_pairs(pair: tuple[Run, Run]) -> None:
    """Together they give each once."""
    aligned = pair[0].align(pair[1])
    found = [
        row
        for rank in range(3)
        for batch in aligned.loader("x", 2, rank=rank, world_size=3)
        for row in batch[0][:, 0].tolist()
    ]
    assert sorted(found) == aligned.pairs[:, 0].tolist()


def test_what_is_beside_the_rows(pair: tuple[Run, Run]) -> None:
    """Each run gives what it is asked for, and a part of the pairs is taken by their places."""
    aligned = pair[0].align(pair[1])
    loader = aligned.loader(("x", ["x"]), 4, also=["rows", "spans"], rows=slice(8))
    one, other = next(iter(loader))
    assert torch.equal(one["spans"], other["spans"])
    assert torch.equal(other["rows"].float(), other["x"][:, 0])
    assert len(loader) == 2


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        (("x", "y"), NotCaptured, "Run 'b' has no layer 'y'"),
        (("x", "x", "x"), BadSetting, "a layer of both runs, or two: of the first, the second"),
    ],
    ids=["not captured", "three"],
)
def test_layers_that_are_a_mistake(
    pair: tuple[Run, Run], layers: Any, error: type[Exception], match: str
) -> None:
    """They are said when the loader is made."""
    with pytest.raises(error, match=match):
        pair[0].align(pair[1]).loader(layers, 2)


def test_memory_is_some_rows_of_each() -> None:
    """However many rows there are, a block and a document of each run are sorted at a time."""
    seen = []
    every = [[(at, at + 1) for at in range(7)] for _ in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenterhook_store.aligning.pairing, "BLOCK", 16)
        paired = tenterhook_store.aligning.pairing._paired

        def noting(a: Any, b: Any, is_same: Any) -> Any:
            seen.append(len(a) + len(b))
            return paired(a, b, is_same)

        patch.setattr(tenterhook_store.aligning.pairing, "_paired", noting)
        assert len(run_of(every, unit=64).align(run_of(every, unit=64))) == 280
    assert max(seen) <= 2 * (16 + 7)
