"""Tokens as text."""

from typing import Any

import pytest

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
from tenterhook.plugins import PluginManager, using
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


loaded: list[tuple[str, str | None]] = []


def load(name: str, *, dtype: object, device: object, revision: str | None) -> WordModel:
    """Load a model, with a tokenizer unless its name is `mute`."""
    loaded.append((name, revision))
    return WordModel() if name == "mute" else Talks()


class Loads:
    """A plugin whose loader is `load`, under the scheme `words`."""

    @hookimpl
    def tenterhook_loaders(self) -> list[Extension]:
        """Declare it."""
        return [Extension("words", f"{__name__}:load", "Models of words.")]


def test_tokenizer_of_the_model() -> None:
    """It is loaded once, by the run's name; a model that has another, or none, is not used."""
    manager = PluginManager(autoload=False)
    manager.register(Loads(), "loads")
    made_by = {"name": "words:a", "revision": "main", "tokenizer": "words"}
    run = a_run(model=made_by)
    loaded.clear()
    with using(manager):
        assert (run.text(0, 2), run.decode(3)) == ("0 7", "21")
        assert loaded == [("a", "main")]
        with pytest.raises(NoTokenizer, match="the tokenizer of 'words:a' is another than it was"):
            a_run(model={**made_by, "tokenizer": "others"}).text(0, 1)
        with pytest.raises(NoTokenizer, match="its model 'words:mute' is loaded without one"):
            a_run(model={**made_by, "name": "words:mute"}).text(0, 1)
