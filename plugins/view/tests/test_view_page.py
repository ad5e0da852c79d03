"""A page holds everything, fetches nothing, and says of a run what its rows say."""

import base64
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tenterhook
import tenterhook_view as view
from tenterhook_store import LayerArray, MemoryStore, RowBlock, Run, RunPlan
from tenterhook_view.run_tokens import blocks, run_tokens
from tenterhook_view.surprise import surprise_of

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(3)>",
    '" onmouseover="alert(4)',
    "' autofocus onfocus='alert(5)",
    "&lt;b&gt; &#60;i&#62;",
    "\u202egnirts\u202c",
    "\u2066\u2069\u200b\ufeff",
    "\ud800 \udfff",
    "\x00\x1b[31m\x07",
    "a" * 1_000_000,
    "]]>",
    "javascript:alert(6)",
    "\u2028\u2029",
]


class Reader(HTMLParser):
    """Reads a page: its elements with their attributes, and the text that is shown."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of an element."""
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Take note of an end."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Take note of a text."""
        if self._open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self._open[-1:] != ["style"]:
            self.shown.append(data)

    @property
    def text(self) -> str:
        """All text that is shown."""
        return "".join(self.shown)


def data_of(part: view.Part) -> Any:
    """Return what the script of a page reads of a part, as it stands in the page."""
    (script,) = Reader(part.section(1)).scripts
    return json.loads(script)


def unpacked(series: dict[str, Any]) -> list[float]:
    """Return the numbers of a series, as the script works them out."""
    packed = base64.b64decode(series["values"])
    steps = struct.unpack(f"<{len(packed) // 2}H", packed)
    return [series["least"] + series["room"] * each / 65534 for each in steps]


def test_a_page_has_the_tokens_of_a_run_and_their_norms(run: Run, words: Any) -> None:
    """Of each layer, close to a 16-bit step, in the run's order."""
    page = view.page(run, tokenizer=words)

    tokens, *others = page.parts
    for series, layer in zip(data_of(tokens)["series"], run.layers, strict=True):
        norms = run[layer][:].norm(dim=1)
        room = float(norms.max() - norms.min())
        assert (series["name"], series["layer"]) == ("norm", layer)
        torch.testing.assert_close(
            torch.tensor(unpacked(series)), norms, atol=room / 65534, rtol=1e-6
        )
    reader = Reader(str(page))
    assert "In the beginning God created↵" in reader.text
    assert [each.kind for each in others] == ["plain", "cells", "plain"]
    assert "Document 2" in reader.text


def test_a_page_fetches_nothing(run: Run, words: Any) -> None:
    """It has no address in it, no link and no file, and its policy lets none be loaded."""
    text = str(view.page(run, tokenizer=words))
    reader = Reader(text)

    assert not re.search(r"https?:|//\w+\.|url\(|@import|\bfetch\(|XMLHttp|import\(", text)
    attributes = {name for _, given in reader.elements for name in given}
    assert not attributes & {"src", "href", "srcset", "action", "background", "data", "poster"}
    assert not [name for name in attributes if name.startswith("on")]
    (policy,) = [
        each["content"]
        for tag, each in reader.elements
        if tag == "meta" and each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_inert(text: str) -> None:
    """Wherever a text comes from: no element and no attribute is made of it, nothing is hidden."""
    texts = [text, "plain"]
    numbers = torch.tensor([1.0, -2.0])
    pattern = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    best = [[[text, text], [text, text]]]
    chances = torch.full((1, 2, 2), 0.5)
    hostile = view.page(
        view.tokens(texts, {text: numbers}, title=text),
        view.examples([(texts, numbers)], name=text, title=text),
        view.grid(numbers[None], [text], texts, name=text, title=text),
        view.lens(
            input_tokens=texts, layers=[text], tokens=best, probabilities=chances, title=text
        ),
        view.attention(texts, pattern, heads=[text], title=text),
        view.diff(texts, [text], names=(text, text), title=text),
        view.diff(text, "plain"),
        title=text,
    )
    tame = view.page(
        view.tokens(["plain", "plain"], {"a": numbers}),
        view.examples([(["plain", "plain"], numbers)], name="a"),
        view.grid(numbers[None], ["a"], ["plain", "plain"], name="a"),
        view.lens(input_tokens=["plain"] * 2, layers=["a"], tokens=best, probabilities=chances),
        view.attention(["plain"] * 2, pattern, heads=["a"]),
        view.diff(["plain", "plain"], ["plain"]),
        view.diff("plain", "plain"),
    )

    made = str(hostile)
    reader, expected = Reader(made), Reader(str(tame))
    assert len(made) < 300_000
    ours = {"del", "ins", "span", "strong"}  # how often these stand follows from the texts
    shape = [(tag, sorted(each)) for tag, each in reader.elements if tag not in ours]
    assert shape == [(tag, sorted(each)) for tag, each in expected.elements if tag not in ours]
    assert len(reader.scripts) == len(expected.scripts)
    assert reader.scripts[-1] == expected.scripts[-1]
    made.encode()  # no half of a letter is left
    assert re.search(r"[\u202a-\u202e\u2066-\u2069\u200b\ufeff\x00\x1b\u2028]", made) is None


def test_what_is_hidden_in_a_text_is_written_out() -> None:
    """As Python writes it, so that a reader sees what the model read."""
    part = view.tokens(["\u202eab", "\ud800", "\x07", "\n", "a" * 100], [1, 2, 3, 4, 5])

    text = Reader(part.markup).text
    assert "\\u202eab" in text
    assert "\\ud800" in text
    assert "\\x07" in text
    assert "↵" in text
    assert f"{'a' * 80}…(+20)" in text


def test_the_page_of_a_large_run_is_bounded(words: Any) -> None:
    """10,000 tokens by 8 layers are less than 2 MB; of 13 GB, what is shown is read, in blocks."""
    read: list[int] = []
    large = large_run(read)
    page = view.page(large, tokenizer=words)

    assert len(str(page).encode()) < 2_000_000
    assert len(data_of(page.parts[0])["series"]) == 8
    assert len(unpacked(data_of(page.parts[0])["series"][7])) == 10_000
    assert max(read) <= 2**24
    assert sum(read) == 8 * 10_000 * 512 * 4
    assert "790,000 tokens more are not shown." in page.parts[0].markup


class NothingKept:
    """The small tensors of units: there are none."""

    def names(self, number: int) -> list[str]:
        """Return no name."""
        return []

    def load(self, number: int, name: str) -> torch.Tensor:
        """Find nothing."""
        raise LookupError(name)


def large_run(read: list[int]) -> Run:
    """Return a run of 13 GB that is made up as it is read; note the bytes of each reading."""
    from tenterhook_store import LayerArray, RunPlan

    layers = [LayerArray(f"blocks.{at}", 512, "float32") for at in range(8)]
    plan = RunPlan(rows=800_000, rows_per_unit=800_000, documents=8000, layers=layers)

    def read_layer(layer: str, start: int, stop: int) -> torch.Tensor:
        read.append((stop - start) * 512 * 4)
        return torch.rand(stop - start, 512)

    def read_number(name: str, start: int, stop: int) -> torch.Tensor:
        numbers = torch.arange(start, stop)
        return {
            "token": (numbers % 6).int(),
            "document": numbers // 100,
            "position": (numbers % 100).int(),
        }[name]

    return Run(
        "large",
        plan,
        [0],
        read_layer=read_layer,
        read_number=read_number,
        load_records=lambda: {"sessions": [], "units": []},
        load_attributes=dict,
        kept=NothingKept(),
    )


def test_a_page_is_written_whole_or_not_at_all(run: Run, words: Any, tmp_path: Path) -> None:
    """What was there stays where writing fails, and nothing is left beside it."""
    path = tmp_path / "page.html"
    path.write_text("old")

    class Failing:
        def _repr_html_(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        view.page(run, Failing(), tokenizer=words, out=path)
    assert path.read_text() == "old"
    made = view.page(run, tokenizer=words, out=path)
    assert path.read_text() == str(made)
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_documents_are_chosen(run: Run, words: Any) -> None:
    """In the order in which they are named."""
    part = view.tokens(run, documents=[2, 0], tokenizer=words)

    assert re.findall(r"<h3>(.+?)</h3>", part.markup) == ["Document 2", "Document 0"]
    first = unpacked(data_of(part)["series"][0])
    assert first[0] == pytest.approx(float(run["blocks.0"][20].norm()), abs=1e-3)


def test_rows_that_are_missing_are_left_out(make_run: Any, words: Any) -> None:
    """Of a run that lacks units, what is there is shown."""
    part = view.tokens(make_run(units=3, committed=2), tokenizer=words)

    assert re.findall(r"<h3>(.+?)</h3>", part.markup) == ["Document 0", "Document 1"]


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (
            {"by": "length"},
            view.UnknownQuantity,
            r"by='length' is not among: norm, feature:N, s",
        ),
        ({"by": "feature:4"}, view.WrongShape, r"feature 4 has the shape \(5,\), not of the feat"),
        (
            {"direction": [1.0, 2.0]},
            view.WrongShape,
            r"direction .* \(blocks\.0: 4, blocks\.1: 4\)",
        ),
        ({"documents": [7]}, view.NoSuchDocument, r"no rows of document 7 .* its 3 documents"),
        ({"layer": "blocks.9"}, KeyError, r"blocks\.9"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_shown(
    run: Run, words: Any, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Says what was asked for and what there is."""
    with pytest.raises(error, match=match):
        view.tokens(run, tokenizer=words, **settings)


def test_a_run_without_rows(make_run: Any) -> None:
    """Has nothing to show."""
    with pytest.raises(view.NothingToShow, match=r"'first' has nothing to show: no rows are comm"):
        view.page(make_run(units=3, committed=0))


def test_what_a_page_does_not_know() -> None:
    """Is refused by its type; what a notebook shows, a page shows."""
    with pytest.raises(view.NotShown, match=r"A dict is nothing that a page shows\. Give a run"):
        view.page({})

    class Shown:
        def _repr_html_(self) -> str:
            return "<p>of a notebook</p>"

    assert "<p>of a notebook</p>" in str(view.page(Shown()))


def test_a_direction_is_a_dot_product(run: Run, words: Any) -> None:
    """Coloured from blue to orange, with 0 in the middle."""
    vector = torch.tensor([1.0, -2.0, 0.5, 0.0])
    part = view.tokens(run, direction=vector, layer="blocks.1", tokenizer=words)

    series, norms = data_of(part)["series"]
    expected = run["blocks.1"][:] @ vector
    assert (series["name"], series["signed"], norms["name"]) == ("direction", True, "norm")
    assert series["low"] == -series["high"]
    torch.testing.assert_close(torch.tensor(unpacked(series)), expected, atol=1e-3, rtol=1e-3)
    colours = re.findall(r"<span class=(d\d)>", part.markup)
    assert all(
        (colour < "d4") <= (value < 0) for colour, value in zip(colours, expected, strict=True)
    )
    assert len(colours) == 30


def test_surprise_is_what_the_model_says(tmp_path: Path) -> None:
    """In bits, from its own probabilities; the first token of a document has none."""
    import tenterhook_tiny
    from tenterhook_store import LocalStore

    lm = tenterhook_tiny.load()
    texts = ["In the beginning God created", "And God said"]
    store = LocalStore(tmp_path)
    lm.activations.save("layer_0", texts, run_name="two", store=store)
    part = view.tokens(store.run("two"), by="surprise")

    series = data_of(part)["series"][0]
    ids = lm.token_ids([texts[1]])[0]
    with torch.no_grad():
        chances = lm.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    bits = -chances[range(len(ids) - 1), ids[1:]] / torch.tensor(2.0).log()
    assert (series["name"], series["layer"]) == ("surprise", "")
    torch.testing.assert_close(
        torch.tensor(unpacked(series))[-len(ids) + 1 :], bits, atol=1e-2, rtol=1e-3
    )
    assert re.findall(r"<span class=(\w+)>", part.markup).count("sx") == 2


def test_surprise_needs_the_model_and_all_tokens(run: Run, words: Any) -> None:
    """Else it says what is missing."""
    from tenterhook_store import NoTokenizer

    with pytest.raises(NoTokenizer, match="does not say which model made it"):
        view.tokens(run, by="surprise")
    chosen = run_tokens(run, tokenizer=words)
    later = attrs.evolve(chosen, positions=[at + 1 for at in chosen.positions])
    with pytest.raises(view.NothingToShow, match="of document 0 some tokens are no rows"):
        surprise_of(Embeds(), later)
    with pytest.raises(view.NothingToShow, match="its model returns no logits"):
        surprise_of(Embeds(), chosen)


class Embeds:
    """A model that gives four numbers for each token, and no logits."""

    def __init__(self) -> None:
        self.module = torch.nn.Embedding(10, 4)
        self.context = tenterhook.attach(self.module).context

    def run_token_ids(self, documents: list[list[int]]) -> None:
        """Run the model."""
        self.module(torch.tensor(documents))


def test_latents_of_an_sae(run: Run, words: Any) -> None:
    """Those asked for, else the most active."""
    from tenterhook_sae import TopKSae

    torch.manual_seed(0)
    sae = TopKSae(16, 4, 2)
    latents = sae.encode(run["blocks.0"][:]).detach()

    (series, *_) = data_of(view.tokens(run, sae=sae, latents=[3], tokenizer=words))["series"]
    assert series["name"] == "latent 3"
    torch.testing.assert_close(torch.tensor(unpacked(series)), latents[:, 3], atol=1e-3, rtol=1e-3)
    named = [each["name"] for each in data_of(view.tokens(run, sae=sae, tokenizer=words))["series"]]
    assert named[0] == f"latent {int(latents.amax(0).argmax())}"
    assert named[8:] == ["norm", "norm"]
    with pytest.raises(
        view.UnknownQuantity, match=r"latent:16.* is not among: latent:0 to latent:15"
    ):
        view.tokens(run, sae=sae, latents=[16], tokenizer=words)


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_a_direction_from_a_file(suffix: str, tmp_path: Path, run: Run, words: Any) -> None:
    """Named after the file."""
    vector = torch.tensor([1.0, 2.0, 3.0, 4.0])
    path = tmp_path / f"kind{suffix}"
    if suffix == ".npy":
        np.save(path, vector.numpy())
    else:
        save_file({"direction": vector}, path)

    part = view.tokens(run, direction=view.read_direction(path), tokenizer=words)
    series = data_of(part)["series"][0]
    assert series["name"] == "direction kind"
    assert unpacked(series)[0] == pytest.approx(float(run["blocks.0"][0] @ vector), abs=1e-2)


def test_a_probe_from_a_file(tmp_path: Path, run: Run, words: Any) -> None:
    """Its weight and its bias."""
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    save_file({"weight": weight, "bias": torch.tensor([0.5])}, tmp_path / "p.safetensors")

    part = view.tokens(run, direction=view.read_probe(tmp_path / "p.safetensors"), tokenizer=words)
    first = unpacked(data_of(part)["series"][0])[0]
    assert first == pytest.approx(float(run["blocks.0"][0] @ weight[0]) + 0.5, abs=1e-2)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"p\.safetensors is no file"),
        (b"junk", r"cannot be read"),
        ({}, r"holds no tensor"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, r"holds (2|no) tensor"),
        ({"weight": torch.ones(2, 3)}, r"holds no vector, but numbers of \(2, 3\)"),
    ],
    ids=["none", "junk", "empty", "several", "matrix"],
)
@pytest.mark.parametrize("read", [view.read_direction, view.read_probe])
def test_files_that_hold_no_vector(content: Any, match: str, read: Any, tmp_path: Path) -> None:
    """Say what they hold, and what is expected."""
    path = tmp_path / "p.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(view.UnreadableVector, match=match):
        read(path)


def test_a_probe_of_several_classes(tmp_path: Path) -> None:
    """Has a bias for each, which are not one number."""
    save_file({"weight": torch.ones(4), "bias": torch.ones(3)}, tmp_path / "p.safetensors")
    with pytest.raises(view.UnreadableVector, match="holds a bias of 3 numbers, and not of 1"):
        view.read_probe(tmp_path / "p.safetensors")


def test_numbers_that_are_not_finite(make_run: Any, words: Any) -> None:
    """Have a mark of their own and spoil no scale."""
    rows = torch.ones(30, 4)
    rows[3], rows[4] = float("nan"), float("inf")
    part = view.tokens(make_run(changed=rows), layer="blocks.0", tokenizer=words)

    assert re.findall(r"<span class=(\w+)>", part.markup)[3:5] == ["sx", "sx"]
    (series,) = data_of(part)["series"]
    assert series["high"] == 2.0


def test_tokens_are_texts_with_numbers() -> None:
    """A number for each, or several named ones."""
    part = view.tokens(["a", "b"], {"loss": [0.5, 1.0], "change": [-1.0, 1.0]})

    assert [each["signed"] for each in data_of(part)["series"]] == [False, True]
    with pytest.raises(view.WrongShape, match=r"value has the shape \(1,\), not \(2,\), a number"):
        view.tokens(["a", "b"], [1.0])


def test_letters_that_are_cut_into_tokens() -> None:
    """The first token of a letter has it, the others say that they are of it."""
    part = view.page(run_of_bytes(), tokenizer=Bytes()).parts[0]

    assert "><span class=s0>a</span><span class=s0>é</span><span class=s0>‥</span>" in part.markup


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of bytes."""
        return bytes(ids).decode(errors="replace")


def run_of_bytes() -> Run:
    """Return a run of the text `aé`, all rows alike."""
    ids = torch.tensor(list("aé".encode()), dtype=torch.int32)
    plan = RunPlan(rows=3, rows_per_unit=3, documents=1, layers=[LayerArray("a", 1, "float32")])
    store = MemoryStore()
    writer = store.write_run("bytes", plan)
    with writer.open_unit(plan.unit(0)) as unit:
        unit.append(
            RowBlock(
                tokens=ids,
                documents=torch.zeros(3, dtype=torch.int64),
                positions=torch.arange(3, dtype=torch.int32),
                layers={"a": torch.ones(3, 1)},
            )
        )
        unit.commit({})
    return store.run("bytes")


def test_a_notebook_is_shown_no_script(run: Run, words: Any) -> None:
    """And 64 kB at most, the beginning of what is longer."""
    page = view.page(run, tokenizer=words)
    long = view.tokens(["word"] * 20_000, torch.rand(20_000))

    every: list[view.Page | view.Part] = [page, *page.parts, long, view.page(long, long, long)]
    for each in every:
        markup = each._repr_html_()
        assert len(markup.encode()) <= 64_000
        assert "<script" not in markup
        assert repr(each).startswith(("Page(", "Part("))
    assert "The first 800 of 20,000 tokens." in long._repr_html_()


def test_rows_are_read_as_they_are(run: Run, words: Any) -> None:
    """In float32, all of those that are shown."""
    chosen = run_tokens(run, most=25, tokenizer=words)

    assert len(chosen) == 25
    assert torch.equal(torch.cat([*blocks(chosen, "blocks.0")]), run["blocks.0"][:25])


def test_errors_are_of_tenterhook() -> None:
    """And keep their facts."""
    error = view.WrongShape("patterns", (1, 2), "(1,)")

    assert attrs.asdict(error) == {"what": "patterns", "shape": (1, 2), "expected": "(1,)"}
    assert isinstance(error, ValueError)
