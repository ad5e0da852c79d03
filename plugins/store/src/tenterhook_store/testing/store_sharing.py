"""What is shared with all of a run, where a store can: see `SharesTensors`."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from tenterhook_store import BadName, CannotKeep, DeletedRun, SharesTensors, Store
from tenterhook_store.testing.small_runs import a_plan, same_bits, write

PIECES: list[Mapping[str, Tensor]] = [
    {"ids": torch.arange(5, dtype=torch.int32), "windows": torch.arange(6).reshape(2, 3)},
    {"ids": torch.arange(3, dtype=torch.int32), "none": torch.empty(0, 2)},
]
FACTS = {"tokens": 8, "of": ["a", None]}


class SharingTests:
    """What is shared is there as a whole or not at all, and of one run."""

    def test_what_is_shared_comes_back(self, store: Store) -> None:
        """Piece by piece, bit for bit, with its facts; what is there stays."""
        writer = store.write_run("one", a_plan())
        if not isinstance(writer, SharesTensors):
            pytest.skip("this store shares nothing")
        assert store.run("one").shared("tokens") is None
        writer.share("tokens", iter(PIECES), FACTS)
        writer.share("tokens", [{"other": torch.ones(1)}], {})
        found = store.run("one").shared("tokens")
        assert found is not None
        assert (found.facts, len(found)) == (FACTS, len(PIECES))
        for number, piece in enumerate(PIECES):
            loaded = found.load(number)
            assert loaded.keys() == piece.keys()
            assert all(same_bits(loaded[name], piece[name]) for name in piece)
            loaded["ids"].fill_(77)
            assert same_bits(found.load(number)["ids"], piece["ids"])
        assert store.run("one").shared("others") is None
        assert store.verify_run("one") == []
        write(writer, a_plan().units())
        writer.finish()
        assert store.run("one").is_complete

    def test_what_is_cut_short_is_shared_by_nobody(self, store: Store) -> None:
        """Where a piece fails nothing is seen, and the next who shares begins anew."""
        writer = store.write_run("one", a_plan())
        if not isinstance(writer, SharesTensors):
            pytest.skip("this store shares nothing")

        def failing() -> Iterator[Mapping[str, Tensor]]:
            yield PIECES[0]
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            writer.share("tokens", failing(), FACTS)
        assert store.run("one").shared("tokens") is None
        assert store.verify_run("one") == []
        writer.share("tokens", PIECES, FACTS)
        assert store.run("one").shared("tokens") is not None

    def test_what_cannot_be_shared(self, store: Store) -> None:
        """A name that is no plain word, what is no tensor, and a run that was deleted."""
        writer = store.write_run("one", a_plan())
        if not isinstance(writer, SharesTensors):
            pytest.skip("this store shares nothing")
        for name in ("", "A", "../a", "a/b", "a.b", "\u00e4"):
            with pytest.raises(BadName, match="cannot name a shared tensor: it must be small"):
                writer.share(name, PIECES, {})
        with pytest.raises(CannotKeep, match="list objects, only tensors"):
            writer.share("tokens", [{"ids": [1]}], {})  # type: ignore[dict-item]
        store.delete_run("one")
        with pytest.raises(DeletedRun, match="'one'"):
            writer.share("tokens", PIECES, FACTS)
        assert store.runs() == []
