"""Make everything that `tenterhook_tiny` ships: the tokenizer, the model, the sample, the numbers.

    apt-get install bible-kjv bible-kjv-text
    python plugins/tiny/training/train.py

The text is the King James Bible, as Debian's package `bible-kjv-text` holds it.
Chapters are numbered 1 to 1189 in the order of the canon.  Every tenth is the test split, and
becomes the sample; every twentieth starting at the fifth is for validation; the rest is for
training, and neither the tokenizer nor the model nor the baselines ever see more than that rest.

Takes 20 to 25 minutes on one CPU core.  It is seeded and runs on one thread; on another machine or
with another version of torch the last digits may differ.
"""

import argparse
import hashlib
import itertools
import json
import logging
import math
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import tokenizers
import torch
import transformers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from torch.nn import functional

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "tenterhook_tiny"
END, PAD = "<|endoftext|>", "<|pad|>"
CONTEXT = 256
VOCABULARY = 2048
PASSAGE = 560
"""A document of the sample holds whole verses, up to this many characters of them."""
PART = 48
"""`evaluation.json` has the numbers for this many documents of the sample too: a quick check."""
VERSES, CHAPTERS = 31_102, 1_189
BOOKS = (
    *("Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy", "Joshua", "Judges", "Ruth"),
    *("1 Samuel", "2 Samuel", "1 Kings", "2 Kings", "1 Chronicles", "2 Chronicles", "Ezra"),
    *("Nehemiah", "Esther", "Job", "Psalms", "Proverbs", "Ecclesiastes", "Song of Solomon"),
    *("Isaiah", "Jeremiah", "Lamentations", "Ezekiel", "Daniel", "Hosea", "Joel", "Amos"),
    *("Obadiah", "Jonah", "Micah", "Nahum", "Habakkuk", "Zephaniah", "Haggai", "Zechariah"),
    *("Malachi", "Matthew", "Mark", "Luke", "John", "Acts", "Romans", "1 Corinthians"),
    *("2 Corinthians", "Galatians", "Ephesians", "Philippians", "Colossians"),
    *("1 Thessalonians", "2 Thessalonians", "1 Timothy", "2 Timothy", "Titus", "Philemon"),
    *("Hebrews", "James", "1 Peter", "2 Peter", "1 John", "2 John", "3 John", "Jude"),
    "Revelation",
)

log = logging.getLogger("train")


@attrs.frozen
class Chapter:
    """One chapter: `name` as in "1 Samuel 3", `verses` from verse 1 on."""

    name: str
    verses: tuple[str, ...]


@attrs.frozen
class Split:
    """The chapters by use; no chapter is in two of them."""

    train: tuple[Chapter, ...]
    validation: tuple[Chapter, ...]
    test: tuple[Chapter, ...]


@attrs.frozen
class Document:
    """Consecutive verses of one chapter, one verse a line."""

    text: str
    source: str


# The text.


def read_chapters() -> list[Chapter]:
    """Read the whole text with Debian's reader of `bible-kjv-text`, which keeps it compressed.

    Raises `FileNotFoundError` where the reader is not installed, `ValueError` where the text is
    not the one that this script was written for.
    """
    reader = shutil.which("bible")
    if reader is None:
        raise FileNotFoundError(
            "The program `bible`, which reads the text, is not installed. "
            "Get it with: apt-get install bible-kjv bible-kjv-text"
        )
    # -f turns the pretty-printing off: a line is then "1Sm3:1 And the child Samuel ministered ...".
    printed = subprocess.run(
        [reader, "-f", "Gen1:1-Rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    verses: dict[tuple[str, str], list[str]] = {}
    for line in printed.splitlines():
        reference, _, text = line.partition(" ")
        place, _, _ = reference.partition(":")
        book = place.rstrip("0123456789")
        verses.setdefault((book, place.removeprefix(book)), []).append(" ".join(text.split()))
    books = dict(zip(dict.fromkeys(book for book, _ in verses), BOOKS, strict=True))
    chapters = [Chapter(f"{books[b]} {n}", tuple(text)) for (b, n), text in verses.items()]
    count = sum(len(chapter.verses) for chapter in chapters)
    if (count, len(chapters)) != (VERSES, CHAPTERS):
        raise ValueError(
            f"`bible` printed {count} verses in {len(chapters)} chapters, "
            f"not {VERSES} in {CHAPTERS}. Is it the reader of Debian's package bible-kjv?"
        )
    return chapters


def split(chapters: Sequence[Chapter]) -> Split:
    """Split by the place of the chapter in the canon, as the top of this file says."""
    test: list[Chapter] = []
    validation: list[Chapter] = []
    train: list[Chapter] = []
    for place, chapter in enumerate(chapters, start=1):
        uses = test if place % 10 == 0 else validation if place % 20 == 5 else train
        uses.append(chapter)
    return Split(tuple(train), tuple(validation), tuple(test))


def passages(chapters: Sequence[Chapter]) -> Iterator[Document]:
    """Cut chapters into documents of whole verses, each of at most `PASSAGE` characters.

    A verse that is longer by itself is a document by itself.
    """
    for chapter in chapters:
        first = 0
        for end in range(1, len(chapter.verses) + 1):
            full = end == len(chapter.verses) or (
                len("\n".join(chapter.verses[first : end + 1])) > PASSAGE
            )
            if full:
                name = f"{chapter.name}:{first + 1}" + (f"-{end}" if end - first > 1 else "")
                yield Document("\n".join(chapter.verses[first:end]), name)
                first = end


# The tokenizer.


def train_tokenizer(chapters: Sequence[Chapter]) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE that begins every text with `<|endoftext|>`, and never splits it."""
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n".join(c.verses) for c in chapters), trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, end)]
    )
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(
    tokenizer: transformers.PreTrainedTokenizerFast, documents: Sequence[Document]
) -> list[list[int]]:
    """Return the ids of each document, the `<|endoftext|>` before it included.

    Raises `ValueError` where a document is longer than the model's context.
    """
    ids: list[list[int]] = tokenizer([d.text for d in documents])["input_ids"]
    longest = max(map(len, ids))
    if longest > CONTEXT:
        raise ValueError(f"A document has {longest} tokens, more than {CONTEXT}: lower PASSAGE.")
    return ids


# The model.


@attrs.frozen
class Settings:
    """How to train."""

    steps: int = 4000
    batch_size: int = 8
    learning_rate: float = 6e-3
    warm_up: int = 200
    seed: int = 0


def model_config(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.GPT2Config:
    """Return the architecture: GPT-2's, with 1.09 million parameters."""
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=4,
        n_head=4,
        initializer_range=0.05,  # GPT-2's 0.02 is for wider models: here it learns more slowly
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def training_rows(
    chapters: Sequence[Sequence[Sequence[int]]], end: int, newline: int, rng: random.Random
) -> Iterator[list[int]]:
    """Yield rows of at most `CONTEXT` ids for ever, each epoch with the chapters in a new order.

    `chapters` holds the ids of each verse.  A row is `<|endoftext|>`, then whole verses, with a
    newline between two of one chapter and `<|endoftext|>` between two of different chapters.
    """
    row = [end]
    while True:
        order = list(range(len(chapters)))
        rng.shuffle(order)
        rows = []
        for chapter in order:
            for number, verse in enumerate(chapters[chapter]):
                if len(row) + 1 + len(verse) > CONTEXT:
                    rows.append(row)
                    row = [end]
                if len(row) > 1:
                    row.append(newline if number else end)
                row.extend(verse)
        rng.shuffle(rows)
        yield from rows


def token_losses(model: torch.nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the loss of every id but the first of each row, in nats: float32, flat, in order."""
    batch = torch.full((len(rows), max(map(len, rows))), -1)
    for place, row in enumerate(rows):
        batch[place, : len(row)] = torch.tensor(row)
    # The padding is on the right and no token sees what comes after it: no mask is needed.
    logits = model(input_ids=batch.clamp(min=0), use_cache=False).logits[:, :-1]
    real = batch[:, 1:] >= 0
    return functional.cross_entropy(logits[real], batch[:, 1:][real], reduction="none")


@torch.inference_mode()
def model_losses(model: torch.nn.Module, documents: Sequence[Sequence[int]]) -> list[float]:
    """Return the mean loss of each document, in nats per token of its text."""
    model.eval()
    return [token_losses(model, [ids]).mean().item() for ids in documents]


def train_model(
    rows: Iterator[list[int]],
    config: transformers.GPT2Config,
    settings: Settings,
    validation: Sequence[Sequence[int]],
) -> transformers.GPT2LMHeadModel:
    """Train with AdamW: the rate warms up, then falls to nothing along a cosine."""
    torch.manual_seed(settings.seed)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )

    def rate(step: int) -> float:
        if step < settings.warm_up:
            return (step + 1) / settings.warm_up
        done = (step - settings.warm_up) / (settings.steps - settings.warm_up)
        return 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started = time.monotonic()
    for step in range(1, settings.steps + 1):
        model.train()
        loss = token_losses(model, list(itertools.islice(rows, settings.batch_size))).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            log.info("step %d: %.3f, %.0f s", step, loss.item(), time.monotonic() - started)
        if step % 500 == 0 or step == settings.steps:
            scores = model_losses(model, validation)
            log.info("step %d: validation %.3f", step, per_token(scores, validation))
    return model


# The baselines.


@attrs.frozen
class Counts:
    """What the baselines know: tokens and pairs of tokens of the training documents."""

    tokens: Counter[int]
    pairs: Counter[tuple[int, int]]

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]]) -> "Counts":
        """Count in documents that each begin with `<|endoftext|>`."""
        tokens: Counter[int] = Counter()
        pairs: Counter[tuple[int, int]] = Counter()
        for ids in documents:
            tokens.update(ids[1:])
            pairs.update(itertools.pairwise(ids))
        return cls(tokens, pairs)


def unigram_losses(counts: Counts, documents: Sequence[Sequence[int]]) -> list[float]:
    """Return the mean loss of each document under add-one smoothed frequencies."""
    total = counts.tokens.total() + VOCABULARY
    return [
        statistics.fmean(-math.log((counts.tokens[token] + 1) / total) for token in ids[1:])
        for ids in documents
    ]


def bigram_losses(
    counts: Counts, documents: Sequence[Sequence[int]], discount: float
) -> list[float]:
    """Return the mean loss of each document under an interpolated Kneser-Ney bigram model.

    Kneser and Ney, "Improved backing-off for M-gram language modeling" (1995), interpolated as in
    Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999),
    with one discount; the lower order is smoothed by adding one.
    """
    seen_before = Counter(before for before, _ in counts.pairs.elements())
    followers = Counter(before for before, _ in counts.pairs)
    predecessors = Counter(token for _, token in counts.pairs)
    kinds = len(counts.pairs) + VOCABULARY

    def loss(before: int, token: int) -> float:
        lower = (predecessors[token] + 1) / kinds
        if not seen_before[before]:
            return -math.log(lower)
        kept = max(counts.pairs[before, token] - discount, 0.0)
        return -math.log((kept + discount * followers[before] * lower) / seen_before[before])

    return [statistics.fmean(itertools.starmap(loss, itertools.pairwise(d))) for d in documents]


# The numbers.


def per_token(means: Sequence[float], documents: Sequence[Sequence[int]]) -> float:
    """Return the mean over all tokens, given the mean of each document."""
    weights = [len(ids) - 1 for ids in documents]
    return sum(m * w for m, w in zip(means, weights, strict=True)) / sum(weights)


def shared_with_training(test: Sequence[Chapter], train: Sequence[Chapter], words: int) -> float:
    """Return the share of the test's runs of so many words that the training text has too.

    The books of the Bible quote each other: Isaiah 37 is 2 Kings 19 almost word for word.
    """

    def runs(chapter: Chapter) -> Iterator[tuple[str, ...]]:
        text = " ".join(chapter.verses).split()
        return (tuple(text[i : i + words]) for i in range(len(text) - words + 1))

    known = {run for chapter in train for run in runs(chapter)}
    return statistics.fmean(run in known for chapter in test for run in runs(chapter))


def evaluate(
    model: transformers.GPT2LMHeadModel,
    counts: Counts,
    validation: Sequence[Sequence[int]],
    test: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """Compare the model with the baselines on the test documents, in nats per token."""
    discount = min(
        (step / 20 for step in range(1, 20)),
        key=lambda d: per_token(bigram_losses(counts, validation, d), validation),
    )
    scores = {
        "model": model_losses(model, test),
        "bigram": bigram_losses(counts, test, discount),
        "unigram": unigram_losses(counts, test),
    }

    def summary(documents: int) -> dict[str, Any]:
        part = test[:documents]
        means = {name: per_token(means[:documents], part) for name, means in scores.items()}
        return {
            "documents": len(part),
            "tokens": sum(len(ids) - 1 for ids in part),
            "nats_per_token": {name: round(mean, 3) for name, mean in means.items()},
        }

    return {
        "held_out": summary(len(test)),
        "first_documents": summary(PART),
        "bigram_discount": discount,
    }


def main() -> None:
    """Read, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=PACKAGE, help="the folder to write to")
    parser.add_argument("--steps", type=int, default=Settings().steps)
    options = parser.parse_args()
    settings = Settings(steps=options.steps)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)

    chapters = read_chapters()
    parts = split(chapters)
    tokenizer = train_tokenizer(parts.train)
    sample = list(passages(parts.test))
    train, validation, test = (
        encode(tokenizer, list(passages(part)))
        for part in (parts.train, parts.validation, parts.test)
    )
    verses = [
        tokenizer(list(chapter.verses), add_special_tokens=False)["input_ids"]
        for chapter in parts.train
    ]
    (newline,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    rows = training_rows(verses, tokenizer.bos_token_id, newline, random.Random(settings.seed))
    model = train_model(rows, model_config(tokenizer), settings, validation)

    options.output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    (options.output / "model" / "model.safetensors").chmod(0o644)  # it is written as 0600
    lines = (json.dumps(attrs.asdict(document), ensure_ascii=False) for document in sample)
    (options.output / "sample.jsonl").write_text("".join(f"{line}\n" for line in lines))
    text = "\n".join(verse for chapter in chapters for verse in chapter.verses)
    report = {
        **evaluate(model, Counts.of(train), validation, test),
        "shared_with_training": {
            "words": 13,
            "share": round(shared_with_training(parts.test, parts.train, 13), 4),
        },
        "text": {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "chapters": {
                "train": len(parts.train),
                "validation": len(parts.validation),
                "test": len(parts.test),
            },
            "training_tokens": sum(len(ids) - 1 for ids in train),
        },
        "model": {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)},
        "settings": attrs.asdict(settings),
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (options.output / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("%s", json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
