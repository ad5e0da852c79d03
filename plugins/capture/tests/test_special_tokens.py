"""Which tokens are kept of a document that is too long, and what stands around its windows."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_capture import BadArgument, CaptureOptions, CaptureRecipe, save_activations
from tenterhook_capture.documents import Documents, UnreadableData
from tenterhook_capture.special_tokens import INSERTED, SpecialTokens, cut, window_ids, windows
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore

FEW = st.lists(st.integers(100, 102), max_size=2)


@settings(max_examples=200, deadline=None)
@given(before=FEW, after=FEW, inside=st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_windows_hold_the_text_once(before: list[int], after: list[int], inside: list[int]) -> None:
    """Each has special tokens around it and as many tokens as there is room for."""
    special = SpecialTokens(before=before, after=after)
    ids, limit = [*before, *inside, *after], len(before) + len(after) + 3
    places = windows(ids, limit, special)
    found = window_ids(ids, places, limit, special)
    parts = [found[at : at + limit] for at in range(0, len(found), limit)]
    own = [part[len(before) : len(part) - len(after)] for part in parts]
    assert [id for part in own for id in part] == inside
    assert all(part[: len(before)] == before for part in parts)
    assert all(part[len(part) - len(after) :] == after for part in parts)
    assert [ids[at] for at in places if at != INSERTED] == inside


@settings(max_examples=200, deadline=None)
@given(
    before=FEW, after=FEW, inside=st.lists(st.integers(0, 9), min_size=6), limit=st.integers(5, 6)
)
def test_a_cut_keeps_both_ends(
    before: list[int], after: list[int], inside: list[int], limit: int
) -> None:
    """And of the text what has room, from its start or from its end."""
    ids, room = [*before, *inside, *after], limit - len(before) - len(after)
    start = cut(ids, limit, SpecialTokens(before=before, after=after))
    assert [ids[at] for at in start] == [*before, *inside[:room], *after]
    end = cut(ids, limit, SpecialTokens(before=before, after=after, keeps="end"))
    assert [ids[at] for at in end] == [*before, *inside[-room:], *after]


def test_no_room() -> None:
    """A cut keeps the first tokens then; windows are refused."""
    special = SpecialTokens(before=[1, 2], after=[3])
    assert cut([1, 2, 9, 9, 3], 3, special) == [0, 1, 2]
    with pytest.raises(BadArgument, match="takes 3 tokens, of which 3 are special"):
        windows([1, 2, 9, 9, 3], 3, special)


def test_windows_go_with_split() -> None:
    """An option that does not apply is an error."""
    with pytest.raises(BadArgument, match="window_special_tokens=True must be False unless"):
        CaptureOptions(window_special_tokens=True)


def test_what_a_model_cannot_leave_out() -> None:
    """A model that adds none, or does not say how, says so."""
    with pytest.raises(BadArgument, match="token_ids of a WordModel takes no special_tokens"):
        save_activations(WordModel(), "head", ["a"], MemoryStore(), no_special_tokens=True)
    with pytest.raises(BadArgument, match="no_special_tokens=True must be False: token ids get"):
        save_activations(WordModel(), "head", [[1]], MemoryStore(), no_special_tokens=True)


def test_half_a_surrogate_pair() -> None:
    """A text that cannot be encoded is named, before a tokenizer meets it."""
    with pytest.raises(UnreadableData, match=r"document 1: character 2 is \\ud83d, half of a surr"):
        save_activations(WordModel(), "head", ["a", "b \ud83d"], MemoryStore())


def test_recipes_of_earlier_versions() -> None:
    """They cut to the first tokens, and are resumed so; new ones say what they do."""
    store = MemoryStore()
    run = store.run(save_activations(WordModel(), "head", ["a b"], store))
    assert CaptureRecipe.of_run(run).options.long_documents == "truncate"
    recipe = dict(run.plan.about["recipe"])
    recipe["options"] = {
        name: value for name, value in recipe["options"].items() if "special" not in name
    }
    old = attrs.evolve(run.plan, about={**run.plan.about, "recipe": recipe})
    store.write_run("old", old)
    assert CaptureRecipe.of_run(store.run("old")).options.long_documents == "head"


def test_ids_of_earlier_runs_are_as_they_were() -> None:
    """A field that is new is no part of the spec where it changes nothing."""
    store = MemoryStore()
    spec = store.run(save_activations(WordModel(), "head", ["a b"], store)).plan.spec
    assert not {"cut", "no_special_tokens", "window_special_tokens"} & spec.keys()
    assert Documents(["a"]).fingerprint == Documents.of(["a"]).fingerprint
