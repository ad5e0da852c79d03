"""Tokens as text."""

from typing import Any

import pytest

from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, NoTokenizer, Run
from tenterhook_store.testing import a_plan, write


class Shows:
    """Shows ids as they are."""

    def decode(self, ids: list[int]) -> str:
        """Return the numbers."""
        return " ".join(map(str, ids))


def a_run(**about: Any) -> Run:
    """Return a run whose row `r` has the token `7 * r`."""
    plan = a_plan(about=about)
    store = MemoryStore()
    write(store.write_run("one", plan), plan.units())
    return store.run("one")


def test_text_with_a_tokenizer() -> None:
    """Any rows are decoded by a tokenizer that is passed."""
    run = a_run()
    assert run.text(2, 5, tokenizer=Shows()) == "14 21 28"
    assert run.decode([3, 0, -1], Shows()) == "21 0 133"
    assert run.decode(4, Shows()) == "28"
    assert run.decode(run.documents.rows(1), Shows()) == "28 35 42 49"
    assert len(run.text(tokenizer=Shows()).split()) == 20


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({}, "it does not say which model made it. Pass one: run.decode"),
        ({"model": {"name": "nowhere:x"}}, "its model 'nowhere:x' cannot be loaded: No installed"),
    ],
    ids=["no name", "no loader"],
)
def test_no_tokenizer(about: Any, match: str) -> None:
    """Where none can be loaded the error says why, and what to do."""
    with pytest.raises(NoTokenizer, match=match) as caught:
        a_run(**about).text(0, 3)
    assert isinstance(caught.value, LookupError)


class Talks(WordModel):
    """A model with a tokenizer, as language models have."""

    tokenizer = Shows()


def test_tokenizer_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded once, by the run's name; a model that has another, or none, is not used."""
    loaded: list[tuple[str, str | None]] = []

    def load(name: str, *, revision: str | None) -> Any:
        loaded.append((name, revision))
        return WordModel() if name == "mute:" else Talks()

    monkeypatch.setattr("tenterhook_capture.loading.load_model", load)
    made_by = {"name": "words:", "revision": "main", "tokenizer": "words"}
    run = a_run(model=made_by)
    assert (run.text(0, 2), run.decode(3)) == ("0 7", "21")
    assert loaded == [("words:", "main")]
    with pytest.raises(NoTokenizer, match="the tokenizer of 'words:' is another than it was"):
        a_run(model={**made_by, "tokenizer": "others"}).text(0, 1)
    with pytest.raises(NoTokenizer, match="its model 'mute:' is loaded without one"):
        a_run(model={**made_by, "name": "mute:"}).text(0, 1)
