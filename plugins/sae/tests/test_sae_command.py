"""`tenterhook sae`, as people type it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import tenterhook_tiny
from tenterhook.plugins import PluginManager
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_sae import (
    BadSetting,
    Crosscoder,
    MatryoshkaBatchTopKSae,
    TopKSae,
    TopText,
    TrainingsFailed,
    Transcoder,
    load_sae,
    save_sae,
    write_page,
)
from tenterhook_sae._cli import sae as command
from tenterhook_sae.examples import Example
from tenterhook_store import LocalStore, UnknownRun

LAYER = "transformer.h.1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, loaded: Any) -> str:
    """A store with a run of the small model over some of its text."""
    folder = tmp_path_factory.mktemp("store") / "activations"
    documents = read_documents("tiny:sample").first(30)
    save_activations(loaded, [LAYER], documents, LocalStore(folder), run_name="first")
    return str(folder)


SHORT = ("--latents", "256", "--k", "8", "--steps", "30", "--batch-size", "256")


def run(*args: str) -> Result:
    """What a command prints; what it raises surfaces."""
    return CliRunner().invoke(command, args, catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an SAE that the command trained."""
    out = str(tmp_path_factory.mktemp("sae") / "sae")
    done = run("train", store, "first", "layer_1", "--out", out, *SHORT)
    assert done.exit_code == 0, done.output
    assert "TopKSae of 256 latents in" in done.stdout
    assert "explained variance" in done.stdout
    assert "step 30 of 30" in done.stderr
    return out


def test_what_it_trained_can_be_loaded(trained: str) -> None:
    """With what it was made of."""
    sae = load_sae(trained)

    assert isinstance(sae, TopKSae)
    assert (sae.n_latents, sae.n_inputs, sae.k) == (256, 128, 8)
    assert (sae.about["layer"], sae.about["run"]) == (LAYER, "first")
    assert (sae.about["model"], sae.about["data"]) == ("tiny:", "tiny:sample")


def test_the_same_command_again_does_nothing(trained: str, store: str) -> None:
    """It prints the same figures."""
    before = Path(trained, "sae_weights.safetensors").read_bytes()
    args = ("train", store, "first", "layer_1", "--out", trained, *SHORT, "--json")
    first, second = run(*args), run(*args)

    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["rows"] > 0
    assert Path(trained, "sae_weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", ["batchtopk", "jumprelu", "l1", "gated", "matryoshka"])
def test_other_kinds(store: str, tmp_path: Path, kind: str) -> None:
    """By name."""
    out = str(tmp_path / "sae")
    short = ("--latents", "64", "--k", "4.5", "--steps", "3", "--batch-size", "64")
    run("train", store, "first", LAYER, "--out", out, "--kind", kind, *short)

    found = load_sae(out).architecture
    assert found == {"l1": "standard", "matryoshka": "matryoshka_batchtopk"}.get(kind, kind)


MLP = "transformer.h.1.mlp"


@pytest.fixture(scope="module")
def mlp_store(tmp_path_factory: pytest.TempPathFactory, loaded: Any) -> str:
    """A store with a run of what an MLP of the small model takes and gives."""
    folder = tmp_path_factory.mktemp("store") / "mlp"
    documents = read_documents("tiny:sample").first(20)
    layers = ["transformer.h.1.ln_2", f"{MLP}:input", MLP]
    save_activations(loaded, layers, documents, LocalStore(folder), run_name="mlp")
    return str(folder)


@pytest.mark.parametrize("words", [(), ("--reads", "transformer.h.1.ln_2", "--k", "8")], ids=len)
@pytest.mark.parametrize("kind", ["transcoder", "skip-transcoder"])
def test_transcoders(mlp_store: str, tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    """From the input of the MLP, or from what another layer gives."""
    out = str(tmp_path / "out")
    short = ("--latents", "64", "--steps", "3", "--batch-size", "64", *words, "--json")
    done = run("train", mlp_store, "mlp", MLP, "--out", out, "--kind", kind, *short)

    found = load_sae(out)
    assert isinstance(found, Transcoder)
    assert found.architecture == kind.replace("-", "_")
    assert (found.reads, found.k) == (("transformer.h.1.ln_2", 8) if words else (None, None))
    assert found.about["layer"] == MLP
    assert json.loads(done.stdout)["rows"] > 0
    done = run("eval", "tiny:", out, "--sample-limit", "4", "--json")
    assert json.loads(done.stdout)["cross_entropy_recovered"] is not None


def test_a_crosscoder(mlp_store: str, tmp_path: Path) -> None:
    """Of two layers of the run, and evaluated on both."""
    out = str(tmp_path / "out")
    words = ("--kind", "crosscoder", "--reads", "transformer.h.1.ln_2", "--latents", "64")
    short = ("--steps", "3", "--batch-size", "64", "--k", "4", "--json")
    done = run("train", mlp_store, "mlp", MLP, "--out", out, *words, *short)

    found = load_sae(out)
    assert isinstance(found, Crosscoder)
    assert found.layers == ("transformer.h.1.ln_2", MLP)
    assert json.loads(done.stdout)["rows"] > 0
    done = run("eval", "tiny:", out, "--sample-limit", "4", "--json")
    assert json.loads(done.stdout)["layer"] == MLP


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "crosscoder"), "A crosscoder reads several layers"),
        (("--kind", "topk", "--reads", "layer_0"), "--kind topk reads its own layer alone"),
        (("--kind", "transcoder", "--reads", "a", "--reads", "b"), "A transcoder reads one layer"),
    ],
)
def test_layers_that_are_not_read(store: str, words: tuple[str, ...], message: str) -> None:
    """A line that says what is."""
    found = CliRunner().invoke(command, ("train", store, "first", LAYER, "--out", "x", *words))

    assert found.exit_code == 2
    assert message in found.stderr


@pytest.mark.parametrize(
    "option", ["--k", "--learning-rate", "--sparsity", "--hold-out"], ids=lambda each: each[2:]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300"])
def test_numbers_that_cannot_be(store: str, tmp_path: Path, option: str, value: str) -> None:
    """A line that names the option or the setting, before anything is written."""
    out = tmp_path / "sae"
    words = ("--kind", "batchtopk", option, value, "--out", str(out))
    found = CliRunner().invoke(command, ("train", store, "first", "layer_1", *words))

    said = found.stderr if isinstance(found.exception, SystemExit) else str(found.exception)
    assert isinstance(found.exception, SystemExit | BadSetting)
    name = option[2:].replace("-", "[-_]")
    assert re.search(f"{name}.*(is no finite number|is not in the range|must be)", said)
    assert not out.exists()


def test_a_dry_run_writes_nothing(store: str, tmp_path: Path) -> None:
    """It says what would be done."""
    out = tmp_path / "sae"
    done = run("train", store, "first", "layer_1", "--out", str(out), "--dry-run", *SHORT)

    assert "Would train a TopKSae of 256 latents on" in done.stdout
    assert not out.exists()


@pytest.mark.parametrize("words", [("{}",), ("{}", "first"), ("{}/runs/first",)], ids=" ".join)
def test_ways_to_name_the_run(store: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    """As in the other commands: in two words, as one path, or as the only run of its store."""
    named = [word.format(store) for word in words]
    done = run("train", *named, "layer_1", "--out", str(tmp_path / "sae"), "--dry-run", *SHORT)

    assert done.stdout.startswith("Would train a TopKSae of 256 latents on")


def test_a_run_that_is_not_there(store: str, tmp_path: Path) -> None:
    """The error names those that are."""
    with pytest.raises(UnknownRun, match=r"'second'.*first"):
        run("train", store, "second", "layer_1", "--out", str(tmp_path / "sae"), *SHORT)


def test_no_layer(store: str, tmp_path: Path) -> None:
    """A usage error, for one word is the store alone."""
    done = run("train", store, "--out", str(tmp_path / "sae"))

    assert done.exit_code == 2
    assert "Missing argument 'LAYER'" in done.stderr


def test_an_unfinished_run(loaded: Any, tmp_path: Path) -> None:
    """What is there up to the first missing unit is used, and the command says so."""
    documents = read_documents("tiny:sample").first(30)
    folder = tmp_path / "activations"
    store = LocalStore(folder)
    save_activations(loaded, [LAYER], documents, store, run_name="first", rows_per_unit=1024)
    (record,) = folder.rglob("commits/000001.json")
    record.unlink()
    out = str(tmp_path / "sae")
    done = run("train", str(folder), "first", "layer_1", "--out", out, "--dry-run", *SHORT)

    assert "lacks 1 of its" in done.stderr
    assert "its first 1,024 rows are used" in done.stderr


def test_eval(trained: str) -> None:
    """What reconstructions cost the model, on the data it was trained on unless told."""
    done = run("eval", "tiny:", trained, "--sample-limit", "5", "--json")
    found = json.loads(done.stdout)

    assert found["layer"] == LAYER
    assert found["cross_entropy"] < found["cross_entropy_ablated"]
    assert 0 < found["cross_entropy_recovered"] < 1
    assert found["explained_variance"] > 0.3
    table = run("eval", "tiny:", trained, "--sample-limit", "5").stdout
    assert "cross entropy recovered" in table


def test_top(trained: str, tmp_path: Path) -> None:
    """The texts on stdout, the page in a file, both of the same latent."""
    sae = load_sae(trained)
    page = tmp_path / "page.html"
    args = ("--sample-limit", "20", "--top-k", "3")
    found: dict[str, Any] = {}
    for latent in range(sae.n_latents):
        done = run("top", "tiny:", trained, str(latent), *args, "--html", str(page), "--json")
        found = json.loads(done.stdout)
        if len(found["texts"]) == 3:
            break
    first = found["texts"][0]
    assert first["scores"][first["position"]] == pytest.approx(first["score"], rel=1e-3)
    assert max(first["scores"]) == pytest.approx(first["score"], rel=1e-3)
    assert len(first["tokens"]) == len(first["scores"])
    html = page.read_text()
    assert f"Latent {found['latent']}" in html
    assert html.count("<p>") == 3
    assert "rgba(255,140,0,1.00)" in html
    lines = run("top", "tiny:", trained, str(found["latent"]), *args).stdout.splitlines()
    assert len(lines) == 3
    assert f"{first['score']:.3f}" in lines[0]


def test_top_by_name(trained: str, tmp_path: Path) -> None:
    """A name that was saved with the SAE."""
    sae = load_sae(trained)
    sae.concepts.name(5, "five")
    save_sae(sae, tmp_path / "named")
    args = ("--sample-limit", "5", "--json")
    found = json.loads(run("top", "tiny:", str(tmp_path / "named"), "five", *args).stdout)

    assert (found["latent"], found["name"]) == (5, "five")
    with pytest.raises(IndexError, match="Closest name: 'five'"):
        run("top", "tiny:", str(tmp_path / "named"), "fife", *args)


def test_a_latent_that_is_not_there(trained: str) -> None:
    """The range is named."""
    with pytest.raises(IndexError, match="There is no latent 256: the latents are 0 to 255"):
        run("top", "tiny:", trained, "256")


def test_a_device_that_is_not_there(trained: str, store: str, tmp_path: Path) -> None:
    """Each command that takes one names it, and nothing is written."""
    out = str(tmp_path / "sae")
    for words in (
        ("train", store, "first", "layer_1", "--out", out, *SHORT),
        ("eval", "tiny:", trained),
        ("top", "tiny:", trained, "3"),
    ):
        message = r"device='nowhere' must be one that is there \(.+\); leave it out"
        with pytest.raises(BadSetting, match=message):
            run(*words, "--device", "nowhere")
    assert not list(tmp_path.iterdir())


def test_without_data_that_can_be_read_again(tmp_path: Path) -> None:
    """A usage error that names the option."""
    sae = TopKSae(64, 128, 4)
    sae.about = {"layer": LAYER}
    save_sae(sae, tmp_path)
    done = run("top", "tiny:", str(tmp_path), "3")

    assert done.exit_code == 2
    assert "give --data" in done.stderr


def test_without_a_layer(tmp_path: Path) -> None:
    """It is asked for."""
    save_sae(TopKSae(64, 128, 4), tmp_path)

    with pytest.raises(ValueError, match="give the layer"):
        run("eval", "tiny:", str(tmp_path), "--data", "tiny:sample")


def test_a_page_escapes_what_texts_hold() -> None:
    """They are data, not HTML."""
    top = TopText(score=1.0, text="<b>", token="<b>", token_id=1, position=0, token_ids=(1,))
    page = write_page([Example(top=top, tokens=("<b>",), scores=(1.0,))], title="<x>")

    assert "<x>" not in page
    assert "&lt;b&gt;" in page
    assert "No text activated it." in write_page([], title="Latent 3")


def test_it_is_a_command_of_tenterhook() -> None:
    """Through the door of every plugin."""
    assert PluginManager().load("commands", "sae") is command


def test_examples_leave_the_model_alone(loaded: Any, trained: str) -> None:
    """No hook is left, and the output is what it was."""
    from tenterhook_sae import find_examples

    plain, _ = loaded.inference.execute_inference(["In the beginning"])
    texts = tenterhook_tiny.read("sample").texts[:5]
    find_examples(load_sae(trained), loaded, 3, texts)
    again, _ = loaded.inference.execute_inference(["In the beginning"])

    assert torch.equal(plain.logits, again.logits)
    assert not len(loaded.layers)
    assert not loaded.module._forward_pre_hooks


SHORTER = ("--steps", "3", "--batch-size", "64")


def test_lists_of_settings(store: str, tmp_path: Path) -> None:
    """Every combination, each in a folder of its own, equal to the bit to what it is alone."""
    grid = tmp_path / "grid"
    words = ("--kind", "topk,l1", "--latents", "64", "--k", "4,8", "--lr", "1e-3,0.01")
    done = run("train", store, "first", LAYER, "--out", str(grid), *words, *SHORTER)

    names = ["topk_k4_lr0.001", "topk_k4_lr0.01", "topk_k8_lr0.001", "topk_k8_lr0.01"]
    names += ["l1_lr0.001", "l1_lr0.01"]
    assert sorted(each.name for each in grid.iterdir()) == sorted(names)
    assert "topk_k4_lr0.001: step 3 of 3" in done.stderr
    assert f"TopKSae of 64 latents in {grid / 'topk_k8_lr0.01'}." in done.stdout
    table = [line.split() for line in done.stdout.splitlines()[-6:]]
    assert [line[0] for line in table] == names
    alone = tmp_path / "alone"
    words = ("--kind", "topk", "--latents", "64", "--k", "8", "--learning-rate", "0.01")
    run("train", store, "first", LAYER, "--out", str(alone), *words, *SHORTER)
    for file in ("sae_weights.safetensors", "cfg.json", "tenterhook.json", "training.json"):
        assert alone.joinpath(file).read_bytes() == (grid / names[3] / file).read_bytes(), file


def test_one_of_a_list_that_fails(store: str, tmp_path: Path) -> None:
    """The others are trained and listed, and then the error names it."""
    words = ("--latents", "64", "--k", "4", "--lr", "1e-3,1e9", "--kind", "jumprelu")
    with pytest.raises(TrainingsFailed, match=r"done are lr0\.001\. lr1e\+09: Diverged"):
        run("train", store, "first", LAYER, "--out", str(tmp_path), *words, *SHORTER)
    assert load_sae(tmp_path / "lr0.001").n_latents == 64
    assert not tmp_path.joinpath("lr1e+09", "cfg.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--k", "4,x"), "'x' is not a valid float"),
        (("--k", "4,nan"), "nan is no finite number"),
        (("--k", "4,,8"), "'4,,8' lacks a value: give them with commas between"),
        (("--k", "4,8,4"), r"'4,8,4' has 4\.0 twice"),
        (("--kind", "topk,nope"), "'nope' is not one of"),
        (("--latents", "64,0"), "0 is not in the range"),
        (("--k", "4,65"), "k=65 must be a number of latents, of which there are 64"),
        (("--kind", "l1", "--k", "4,8"), "--k is a list, and --kind l1 takes no k"),
        (("--sparsity", "1,2"), "--kind topk takes no sparsity"),
        (("--kind", "topk,transcoder"), "one pass is over the same layers for all"),
        (("--widths", "8,64"), "--widths is of --kind matryoshka alone"),
        (("--kind", "matryoshka", "--widths", "32,16"), r"widths=\[32, 16\] must be whole"),
        (("--kind", "matryoshka", "--widths", "8,32"), r"that rise to n_latents=64"),
    ],
)
def test_lists_that_cannot_be(
    store: str, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    """The value is named, and nothing is written."""
    out = tmp_path / "out"
    args = ("train", store, "first", LAYER, "--out", str(out), "--latents", "64", *words)
    found = CliRunner().invoke(command, args)

    assert found.exit_code
    assert re.search(message, found.stderr or str(found.exception))
    assert not out.exists()


def test_widths_of_a_matryoshka(store: str, tmp_path: Path) -> None:
    """The last of them is how many latents there are; a dry run of a list says each folder."""
    words = ("--kind", "matryoshka", "--widths", "8,16,32", "--k", "4")
    run("train", store, "first", LAYER, "--out", str(tmp_path / "one"), *words, *SHORTER)
    sae = load_sae(tmp_path / "one")
    assert isinstance(sae, MatryoshkaBatchTopKSae)
    assert sae.widths == (8, 16, 32)

    out = tmp_path / "several"
    done = run(
        "train", store, "first", LAYER, "--out", str(out), "--latents", "64,128", "--dry-run"
    )
    assert re.findall(r"into .*/(.*)\.", done.stdout) == ["latents64", "latents128"]
    assert not out.exists()
