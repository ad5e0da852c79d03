"""What every source of documents does: a contract to inherit.

class TestMySource(DatasetContract):
    name = "sample"

    def read(self, name, **settings):
        return my_package.read(name, **settings)
"""

import json
import pickle
from abc import abstractmethod
from typing import Any

import pytest

from tenterhook_capture.documents import Documents, read_documents

__all__ = ["DatasetContract"]


class DatasetContract:
    """Inherit and give `read` and the `name` of a data set of a few documents."""

    name: str = ""
    """The part of its name after the scheme; of a small data set that needs no network."""
    unknown_name: str = "there-is-no-such-data"
    unknown_field: str = "there-is-no-such-field"
    scheme: str = ""
    """The scheme that an installed plugin serves; what asks for it is skipped without one."""

    @abstractmethod
    def read(self, name: str, **settings: Any) -> Documents:
        """Call the source."""

    @pytest.fixture
    def documents(self) -> Documents:
        """Read the data set."""
        return self.read(self.name)

    def test_it_reads_documents(self, documents: Documents) -> None:
        """Texts that hold something; those that do not are left out and counted."""
        assert isinstance(documents, Documents)
        assert len(documents) > 0
        for text in documents:
            assert isinstance(text, str)
            assert text.strip()
        assert documents.source

    def test_it_takes_what_sources_take(self, documents: Documents) -> None:
        """`field`, `None` where nobody asks."""
        assert self.read(self.name, field=None).fingerprint == documents.fingerprint

    def test_it_reads_the_same_each_time(self, documents: Documents) -> None:
        """In the same order: a run is gone on with by reading the name again."""
        again = self.read(self.name)
        assert again.fingerprint == documents.fingerprint
        assert again.describe() == documents.describe()

    def test_it_can_be_gone_through_again(self, documents: Documents) -> None:
        """And by number, in any order; texts do not run out."""
        texts = list(documents)
        assert list(documents) == texts
        assert [documents[at] for at in reversed(range(len(texts)))] == texts[::-1]
        assert len(documents) == len(texts)

    def test_slices_are_those_of_a_list(self, documents: Documents) -> None:
        """Whatever their ends and step."""
        texts = list(documents)
        for key in (slice(1), slice(1, 3), slice(-2, None), slice(None, None, 2), slice(9, 3)):
            assert list(documents.texts[key]) == texts[key]

    @pytest.mark.parametrize("count", [1, 2, 10**9, None])
    def test_the_first_are_the_first(self, documents: Documents, count: int | None) -> None:
        """As many as are asked for, or all there are."""
        assert list(documents.first(count)) == list(documents)[:count]

    def test_they_go_to_another_process(self, documents: Documents) -> None:
        """Texts and all."""
        again = pickle.loads(pickle.dumps(documents))
        assert list(again) == list(documents)
        assert again.describe() == documents.describe()

    def test_the_description_is_plain(self, documents: Documents) -> None:
        """JSON values."""
        found = documents.describe()
        assert json.loads(json.dumps(found)) == found

    def test_an_unknown_name_is_a_users_mistake(self) -> None:
        """A `ValueError` or `LookupError` that shows the name."""
        with pytest.raises((ValueError, LookupError)) as error:
            self.read(self.unknown_name)
        assert self.unknown_name in str(error.value)

    def test_an_unknown_field_is_a_users_mistake(self) -> None:
        """A `ValueError` or `LookupError` that shows the field."""
        with pytest.raises((ValueError, LookupError)) as error:
            self.read(self.name, field=self.unknown_field)
        assert self.unknown_field in str(error.value)

    def test_its_name_is_read_elsewhere(self, documents: Documents) -> None:
        """Through the scheme of the installed plugin: what is read has a name that pickles."""
        if not self.scheme:
            pytest.skip("`scheme` is not given, so the plugin is not asked by name")
        found = read_documents(f"{self.scheme}:{self.name}")
        assert found.origin is not None
        again = pickle.loads(pickle.dumps(found.origin)).read()
        assert again.fingerprint == found.fingerprint == documents.fingerprint
