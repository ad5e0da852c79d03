"""The training script: its text, its split, its baselines.  Training itself is not tried here."""

import hashlib
import importlib.util
import json
import math
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tenterhook_tiny import model_path, sample_path

SCRIPT = Path(__file__).parents[1] / "training" / "train.py"
needs_text = pytest.mark.skipif(
    shutil.which("bible") is None, reason="needs: apt-get install bible-kjv bible-kjv-text"
)


@pytest.fixture(scope="module")
def train() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("tiny_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_train"] = module
    spec.loader.exec_module(module)
    return module


def test_missing_text(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Debian's package the script says how to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install bible-kjv bible-kjv-text"):
        train.read_chapters()


def test_wrong_text(train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another program called `bible` is told from the right one."""
    printed = "\n".join(
        f"Book{'ABCDEFGHIJK'[i % 11]}{'abcdef'[i // 11]}1:1 Word" for i in range(66)
    )
    reader = tmp_path / "bible"
    reader.write_text(f"#!/bin/sh\ncat <<'THE_END'\n{printed}\nTHE_END\n")
    reader.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ValueError, match="66 verses in 66 chapters, not 31102 in 1189"):
        train.read_chapters()


@needs_text
def test_sample_is_the_test_split(train: Any) -> None:
    """The sample is the test split of the text, whole, and the text is the one trained on."""
    chapters = train.read_chapters()
    text = "\n".join(verse for chapter in chapters for verse in chapter.verses)
    evaluation = json.loads((model_path().parent / "evaluation.json").read_text())
    assert hashlib.sha256(text.encode()).hexdigest() == evaluation["text"]["sha256"]
    documents = train.passages(train.split(chapters).test)
    lines = [json.loads(line) for line in sample_path().read_text("utf-8").splitlines()]
    assert [(d.text, d.source) for d in documents] == [(d["text"], d["source"]) for d in lines]


def test_split_is_by_place(train: Any) -> None:
    """Every tenth chapter is for the test, and no chapter is in two parts."""
    chapters = [train.Chapter(f"Book {n}", (f"Verse {n}.",)) for n in range(1, 101)]
    parts = train.split(chapters)
    assert [c.name for c in parts.test] == [f"Book {n}" for n in range(10, 101, 10)]
    assert [c.name for c in parts.validation] == [f"Book {n}" for n in range(5, 101, 20)]
    together = [*parts.train, *parts.validation, *parts.test]
    assert sorted(c.name for c in together) == sorted(c.name for c in chapters)


def test_passages_are_whole_verses(train: Any) -> None:
    """Passages fall into the chapter's verses again, none is too long, and sources count them."""
    rng = random.Random(0)
    verses = tuple("x" * rng.randint(20, 300) for _ in range(40))
    found = list(train.passages([train.Chapter("Book 1", verses)]))
    assert [verse for document in found for verse in document.text.split("\n")] == list(verses)
    assert max(len(document.text) for document in found) <= train.PASSAGE
    assert found[0].source.startswith("Book 1:1-")
    assert found[-1].source.endswith("40")


def test_long_verse_is_alone(train: Any) -> None:
    """A verse longer than a passage may be is a passage by itself."""
    verses = ("a" * 10, "b" * 2000, "c" * 10)
    found = list(train.passages([train.Chapter("Book 1", verses)]))
    assert [document.source for document in found] == ["Book 1:1", "Book 1:2", "Book 1:3"]


def test_rows_hold_every_verse_once(train: Any) -> None:
    """An epoch of rows has each verse whole, fits the context, and begins rows with the end."""
    chapters = [[[10 * c + v] * 30 for v in range(5)] for c in range(10, 30)]
    rows = train.training_rows(chapters, 0, 1, random.Random(0))
    seen: set[int] = set()
    for _ in range(30):
        row = next(rows)
        assert row[0] == 0
        assert len(row) <= train.CONTEXT
        inside = [token for token in row if token > 1]
        assert all(inside.count(token) % 30 == 0 for token in inside)
        seen.update(inside)
    assert len(seen) == 100


def test_baselines_are_distributions(train: Any) -> None:
    """After any token, seen or not, the baselines' probabilities add up to one."""
    rng = random.Random(0)
    documents = [[0, *(rng.randrange(2, 40) for _ in range(50))] for _ in range(20)]
    counts = train.Counts.of(documents)
    for before in (0, 7, 2000):
        nexts = [[before, token] for token in range(train.VOCABULARY)]
        bigram = train.bigram_losses(counts, nexts, 0.6)
        assert sum(math.exp(-loss) for loss in bigram) == pytest.approx(1)
    unigram = train.unigram_losses(counts, nexts)
    assert sum(math.exp(-loss) for loss in unigram) == pytest.approx(1)
