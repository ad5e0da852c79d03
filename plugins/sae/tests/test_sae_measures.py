"""Sparse probing, several SAEs side by side, and latents found by name and by text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import tenterhook_tiny
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_sae import (
    BadSetting,
    Crosscoder,
    JumpReLUSae,
    NoRows,
    NoSuchLatent,
    NotFinite,
    Sae,
    SkipTranscoder,
    TopKSae,
    UnreadableSae,
    compare_saes,
    evaluate_in_model,
    evaluate_rows,
    held_out_rows,
    load_sae,
    save_sae,
    search_latents,
    sparse_probing,
)
from tenterhook_sae._cli import sae as command
from tenterhook_store import LocalStore, Run

LAYER = "transformer.h.1"
LAYERS = (f"{LAYER}.mlp:input", f"{LAYER}.mlp", LAYER)


@pytest.fixture(scope="module")
def where(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of labelled documents: questions, and what is none."""
    folder = tmp_path_factory.mktemp("labelled")
    texts = tenterhook_tiny.read("sample").texts[:60]
    lines = [
        {"text": f"And he said unto them, {each[:60]}{'?' * (at % 2)}", "asks": bool(at % 2)}
        for at, each in enumerate(texts)
    ]
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in lines))
    documents = read_documents(str(data), keep_fields=["asks"])
    save_activations(loaded, [*LAYERS], documents, LocalStore(folder / "store"), run_name="r")
    return folder


@pytest.fixture(scope="module")
def run(where: Path) -> Run:
    """That run."""
    return LocalStore(where / "store").run("r")


@pytest.fixture(scope="module")
def sae() -> TopKSae:
    """One of random directions, each with a latent or two active at a token."""
    torch.manual_seed(0)
    made = TopKSae(256, 128, 8)
    made.about = {"layer": LAYER}
    return made


# --- sparse probing


def test_a_label_that_one_latent_has_is_read_off_it(run: Run, sae: TopKSae) -> None:
    """Of rows: found, and told right; the layer's own features do worse."""
    latents = sae.encode(run[LAYER][:]).detach()
    share = (latents > 0).float().mean(0)
    latent = int((share - 0.3).abs().argmin())
    found = sparse_probing(sae, run, latents[:, latent] > 0, k=(1, 3), layer=LAYER)

    assert found.latents[True][0] == latent
    assert found.classes == (True,)
    assert found.scores[1] > 0.9
    assert found.scores[1] > found.input_scores[1] + 0.1
    assert found.fitted + found.held_out == len(run)
    assert found.held_out / len(run) == pytest.approx(0.2, abs=0.1)


def test_a_label_of_nothing_is_told_by_chance(run: Run, sae: TopKSae) -> None:
    """However rare it is: both sides weigh the same."""
    label = torch.rand(len(run), generator=torch.Generator().manual_seed(0)) < 0.1
    found = sparse_probing(sae, run, label)

    assert [*found.scores] == [1, 2, 5]
    assert all(score == pytest.approx(0.5, abs=0.1) for score in found.scores.values())


def test_a_label_of_documents(run: Run, sae: TopKSae) -> None:
    """Documents have the mean of their tokens' latents; written out here for one `k`."""
    found = sparse_probing(sae, run, "asks", k=[1])

    latents = sae.encode(run[LAYER][:]).detach()
    index = run.documents.index[:].long()
    means = torch.stack([latents[index == at].mean(0) for at in range(len(run.documents))])
    asks = torch.tensor(run.documents["asks"])
    held = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:12]
    fitted = torch.ones(60, dtype=torch.bool)
    fitted[held] = False
    apart = (means[fitted & asks].mean(0) - means[fitted & ~asks].mean(0)).abs()
    assert found.latents[True] == (int(apart.argmax()),)
    assert (found.fitted, found.held_out, found.label) == (48, 12, "asks")
    assert found.scores[1] == pytest.approx(logistic(means[:, int(apart.argmax())], asks, fitted))


def logistic(x: Tensor, y: Tensor, fitted: Tensor) -> float:
    """The balanced accuracy of a logistic regression on one number, by descent in small steps."""
    x = (x - x[fitted].mean()) / x[fitted].std(correction=0)
    weights = torch.zeros(2, requires_grad=True)
    share = torch.where(y, 0.5 / y[fitted].float().mean(), 0.5 / (~y)[fitted].float().mean())
    steps = torch.optim.LBFGS([weights], max_iter=200)

    def closure() -> Tensor:
        steps.zero_grad()
        z = x[fitted] * weights[0] + weights[1]
        losses = torch.nn.functional.softplus(-torch.where(y[fitted], z, -z))
        loss = (share[fitted] * losses).sum() + weights[0].square() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    steps.step(closure)  # type: ignore[no-untyped-call]
    told = (x * weights[0] + weights[1])[~fitted] > 0
    truth = y[~fitted]
    return float((told[truth].float().mean() + (~told[~truth]).float().mean()) / 2)


def test_several_classes_each_against_the_others(run: Run, sae: TopKSae) -> None:
    """And values that are not known are left out."""
    label = [None if at % 4 == 3 else "abc"[at % 4] for at in range(60)]
    found = sparse_probing(sae, run, label, k=[2])

    assert found.classes == ("a", "b", "c")
    assert found.fitted + found.held_out == 45


@pytest.mark.parametrize("kind", ["transcoder", "crosscoder", "jumprelu"])
def test_other_kinds_are_probed(run: Run, kind: str) -> None:
    """A transcoder by what it encodes, a crosscoder by all layers."""
    torch.manual_seed(0)
    made: Sae = JumpReLUSae(64, 128)
    if kind == "transcoder":
        made = SkipTranscoder(64, 128, 128, 4)
    elif kind == "crosscoder":
        made = Crosscoder(64, 128, LAYERS[1:], 4)
    layer = f"{LAYER}.mlp" if kind == "transcoder" else LAYER
    found = sparse_probing(made, run, "asks", layer=layer, k=[1])

    assert 0 <= found.scores[1] <= 1


@pytest.mark.parametrize(
    ("label", "more", "message"),
    [
        (
            [1, 2, 3],
            {},
            "label='3 values' must be a value for each of 60 documents or ",
        ),
        ([1] * 60, {}, "must be one of 2 to 100 classes; 1 differ"),
        ([None] * 60, {}, "must be one of 2 to 100 classes; 0 differ"),
        ([*range(59), None], {}, "label=0 must be a class that some have and some do not, both"),
        ("asks", {"k": [0]}, "k=0 must be a whole number, 1 or more"),
        ("asks", {"k": [257]}, "k=257 must be .* 256 at most"),
        ("asks", {"k": []}, r"k=\[\] must be how many latents"),
        ("asks", {"k": "12"}, "k='12' must be how many latents"),
        ("asks", {"hold_out": 1.0}, "hold_out=1.0 must be a share"),
        ("asks", {"hold_out": float("nan")}, "hold_out=nan must be a share"),
        ("asks", {"most": 0}, "most=0 must be"),
    ],
)
def test_probes_that_cannot_be(
    run: Run, sae: TopKSae, label: Any, more: dict[str, Any], message: str
) -> None:
    """The value is named, and what it has to be."""
    with pytest.raises(BadSetting, match=message):
        sparse_probing(sae, run, label, **more)


# --- side by side


def test_saes_side_by_side(loaded: Any, run: Run, sae: TopKSae) -> None:
    """Each measure is what its own function gives; rows that were trained on are left out."""
    torch.manual_seed(1)
    other = SkipTranscoder(64, 128, 128, 4)
    other.about = {"layer": f"{LAYER}.mlp", "run": "r", "rows": [0, 500], "steps": 7}
    texts = tenterhook_tiny.read("sample").texts[:4]
    found = compare_saes(
        {"a": sae, "b": other}, run=run, model=loaded, documents=texts, labels=["asks"]
    )

    assert held_out_rows([sae, other], run) == slice(500, None)
    assert held_out_rows([sae], run) == slice(0, None)
    rows = evaluate_rows(sae, run[LAYER][500:])
    assert found.measures["a"]["explained_variance"] == pytest.approx(rows.explained_variance)
    assert found.measures["a"]["unused_share"] == rows.unused_share
    in_model = evaluate_in_model(other, loaded, f"{LAYER}.mlp", texts)
    recovered = found.measures["b"]["cross_entropy_recovered"]
    assert recovered == pytest.approx(in_model.cross_entropy_recovered)
    assert found.measures["b"]["asks_from_1"] is not None
    assert found.kinds == {"a": "TopKSae", "b": "SkipTranscoder"}
    assert (found.measures["a"]["k"], found.measures["b"]["steps"]) == (8, 7)
    cells = found.grid()
    assert cells.rows == ["a (TopKSae)", "b (SkipTranscoder)"]
    assert cells.values.shape == (2, len(found.columns))
    with pytest.raises(ValueError, match="are fields of a run's documents"):
        compare_saes({"a": sae}, labels=["asks"])
    with pytest.raises(ValueError, match="Give model and documents together"):
        compare_saes({"a": sae}, model=loaded)


def call(*args: str) -> Result:
    """What a command prints; what it raises surfaces."""
    return CliRunner().invoke(command, args, catch_exceptions=False)


@pytest.fixture
def folders(sae: TopKSae, tmp_path: Path) -> Path:
    """A grid of two."""
    save_sae(sae, tmp_path / "grid" / "k8")
    other = JumpReLUSae(64, 128)
    other.about = {"layer": LAYER}
    save_sae(other, tmp_path / "grid" / "jump")
    return tmp_path / "grid"


def test_compare(where: Path, folders: Path, tmp_path: Path) -> None:
    """A grid's folder stands for those in it; a table, JSON, and a page."""
    page = tmp_path / "page.html"
    words = ("--run", f"{where}/store/runs/r", "--label", "asks", "--html", str(page))
    more = ("--model", "tiny:", "--data", "tiny:sample", "--sample-limit", "2")
    found = json.loads(call("compare", str(folders), *words, *more, "--json").stdout)["saes"]

    assert [each["sae"] for each in found] == [str(folders / n) for n in ("jump", "k8")]
    names = {"l0", "explained_variance", "unused_share", "cross_entropy_recovered", "asks_from_1"}
    assert names <= found[0].keys()
    text = page.read_text()
    assert "JumpReLUSae" in text
    assert "cross entropy recovered" in text
    table = call("compare", str(folders / "k8"), str(folders / "jump")).stdout.splitlines()
    assert re.split(r"\s{2,}", table[0].strip()) == ["latents", "k"]
    assert re.split(r"\s{2,}", table[2])[1:] == ["64", "-"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument 'SAE...'"),
        (("{}", "--label", "asks"), "--label is a field of a run's documents: give --run"),
        (("{}", "--data", "x"), "are for --model: give it"),
    ],
)
def test_compare_what_cannot_be(folders: Path, words: tuple[str, ...], message: str) -> None:
    """A usage error that says what is missing."""
    found = CliRunner().invoke(command, ["compare", *(each.format(folders) for each in words)])

    assert found.exit_code == 2
    assert message in found.stderr


def test_compare_what_is_no_sae(folders: Path, where: Path, tmp_path: Path) -> None:
    """The folder is named, and no page is written; nor where rows do not fit, or hold NaN."""
    page = tmp_path / "page.html"
    with pytest.raises(UnreadableSae, match="nowhere cannot be read"):
        call("compare", str(folders), str(tmp_path / "nowhere"), "--html", str(page))
    save_sae(TopKSae(8, 5, 1), tmp_path / "narrow")
    words = ("--run", f"{where}/store/runs/r", "--layer", LAYER, "--html", str(page))
    with pytest.raises(ValueError, match="takes 5 inputs"):
        call("compare", str(tmp_path / "narrow"), *words)
    assert not page.exists()


def test_a_crosscoder_is_measured_at_its_own_layers(run: Run) -> None:
    """Another that is asked for is an error, and not passed over."""
    made = Crosscoder(16, 128, LAYERS[1:], 4)
    made.about = {"layer": LAYER}
    assert compare_saes({"x": made}, run=run, layer=LAYER).measures["x"]["k"] == 4
    with pytest.raises(BadSetting, match=rf"must be one of its own, {LAYER}.mlp and {LAYER}: this"):
        compare_saes({"x": made}, run=run, layer=LAYERS[0])


# --- names, and texts


def test_names_are_given_found_and_shared(folders: Path, sae: TopKSae, tmp_path: Path) -> None:
    """Weights stay as they are, to the byte."""
    one, other = folders / "k8", folders / "jump"
    before = one.joinpath("sae_weights.safetensors").read_bytes()
    call("names", str(one), "--set", "17=a question", "--set", "3=the end")
    shared = tmp_path / "names.json"
    found = call("names", str(one), "--search", "QUEST", "--write", str(shared))

    assert found.stdout.split() == ["17", "a", "question"]
    assert json.loads(shared.read_text()) == {"17": "a question"}
    assert load_sae(one).concepts.names == {3: "the end", 17: "a question"}
    assert one.joinpath("sae_weights.safetensors").read_bytes() == before
    call("names", str(other), "--read", str(shared))
    assert load_sae(other).concepts.names == {17: "a question"}
    call("names", str(other), "--set", "a question=")
    assert json.loads(call("names", str(other), "--json").stdout) == {}
    assert "No latent has a name" in call("names", str(other)).stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"x": "a"}', "'x' is no number of a latent"),
        ('{"3": 4}', "4 of latent 3 is no text"),
        ("[1]", "holds no object"),
        ('{"999": "far"}', "There is no latent 999"),
        ('{"3": "same", "4": "same"}', "it is the name of latent 3"),
        ('{"3": ""}', "name='' must be a text"),
    ],
)
def test_names_that_cannot_be(folders: Path, tmp_path: Path, content: str, message: str) -> None:
    """Of a file: it is said, and the SAE has those that it had."""
    source = tmp_path / "names.json"
    source.write_text(content)
    with pytest.raises((UnreadableSae, NoSuchLatent, BadSetting), match=message):
        call("names", str(folders / "k8"), "--set", "3=three", "--read", str(source))
    assert not load_sae(folders / "k8").concepts.names


def test_names_on_the_command_line_that_cannot_be(folders: Path, tmp_path: Path) -> None:
    """And a file that is there is not written over."""
    there = tmp_path / "there"
    there.write_text("mine")
    for words, message in (
        (("--set", "three"), "'three' is not LATENT=NAME"),
        (("--write", str(there)), "there is there already; give another name"),
    ):
        found = CliRunner().invoke(command, ["names", str(folders / "k8"), *words])
        assert found.exit_code == 2
        assert message in found.stderr
    assert there.read_text() == "mine"


def test_latents_of_a_text(loaded: Any, sae: TopKSae, folders: Path) -> None:
    """Those most active at any token, with where that is; against the SAE by itself."""
    text = "And the king answered and said unto him, What is this?"
    sae.concepts.names = {}
    found = search_latents(sae, loaded, text, top_k=5)

    ids = loaded.token_ids([text])[0]
    with loaded.capture(LAYER) as captured:
        loaded.run_token_ids([ids])
    latents = sae.encode(captured.last(LAYER)[0]).detach()
    highest, places = latents.max(0)
    best = highest.topk(5)
    assert [each.latent for each in found] == best.indices.tolist()
    assert [each.score for each in found] == pytest.approx(best.values.tolist(), rel=1e-4)
    first = found[0]
    assert first.position == int(places[first.latent])
    assert first.token == loaded.context.tokenizer.decode([ids[first.position]])
    assert first.tokens == int((latents[:, first.latent] > 0).sum())
    assert not len(loaded.layers)

    folder = str(folders / "k8")
    call("names", folder, "--set", f"{first.latent}=the first")
    shown = call("search", "tiny:", folder, text, "--top-k", "3").stdout.splitlines()
    assert len(shown) == 3
    assert shown[0].split()[0] == str(first.latent)
    assert shown[0].endswith("the first")
    listed = json.loads(call("search", "tiny:", folder, text, "--json").stdout)["latents"]
    assert listed[0]["name"] == "the first"
    with pytest.raises(NoRows, match=r"The text '' holds no rows\. Give a text that has tokens"):
        search_latents(sae, loaded, "")


def test_rows_of_nan_are_not_probed(run: Run) -> None:
    """They are counted."""
    made = TopKSae(16, 128, 2)

    class Spoiled(type(run)):  # type: ignore[misc]
        """A run whose rows hold NaN."""

        def __getitem__(self, layer: Any) -> Any:
            found = torch.zeros(len(run), 128)
            found[3, 4] = torch.nan
            return found

    spoiled = object.__new__(Spoiled)
    spoiled.__dict__.update(run.__dict__)
    with pytest.raises(NotFinite, match="The rows to probe: 1 of"):
        sparse_probing(made, spoiled, "asks", layer=LAYER)
