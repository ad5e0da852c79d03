"""Files go between SAELens and us: what it writes we read, what we write it reads, same numbers.

SAELens has heavy dependencies, so most of these run only where it is installed, as `nox -s saelens`
does; a folder written by hand in its layout stands in for it elsewhere.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenterhook_sae import (
    BatchTopKSae,
    GatedSae,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    Sae,
    TopKSae,
    UnknownArchitecture,
    UnreadableSae,
    load_sae,
    save_sae,
)

D_IN, D_SAE, K = 12, 40, 5


@pytest.fixture
def sae_lens() -> Any:
    """SAELens, where it is installed."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "TENTERHOOK_NEED_SAELENS" in os.environ:
            return importlib.import_module("sae_lens")
        return pytest.importorskip("sae_lens")


def randomized(sae: Sae) -> Sae:
    """Random weights everywhere, thresholds too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if isinstance(sae, JumpReLUSae):
            sae.threshold.abs_()
        if isinstance(sae, BatchTopKSae):
            sae.threshold.fill_(1.25)
    return sae


OURS: dict[str, Any] = {
    "standard": lambda center: L1Sae(D_SAE, D_IN, center=center),
    "topk": lambda center: TopKSae(D_SAE, D_IN, K, center=center),
    "batchtopk": lambda center: BatchTopKSae(D_SAE, D_IN, K, center=center),
    "jumprelu": lambda center: JumpReLUSae(D_SAE, D_IN, center=center),
    "gated": lambda center: GatedSae(D_SAE, D_IN, center=center),
    "matryoshka": lambda center: MatryoshkaBatchTopKSae(D_SAE, D_IN, K, center=center),
}


def close(found: Tensor, expected: Tensor) -> None:
    """Sums of tens of numbers of size 10, in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def rows() -> Tensor:
    """Some activations."""
    return 2 * torch.randn(2, 30, D_IN, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("center", [True, False], ids=["centered", "not centered"])
@pytest.mark.parametrize("kind", OURS)
def test_sae_lens_reads_what_we_write(
    sae_lens: Any, tmp_path: Path, kind: str, center: bool
) -> None:
    """The same latents and reconstructions, on random weights."""
    sae = randomized(OURS[kind](center))
    save_sae(sae, tmp_path)

    theirs = sae_lens.SAE.load_from_disk(tmp_path)

    x = rows()
    close(theirs.encode(x), sae.encode(x))
    close(theirs.decode(theirs.encode(x)), sae(x))


@pytest.mark.parametrize("center", [True, False], ids=["centered", "not centered"])
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("rescale", [False, True])
def test_we_read_what_sae_lens_writes(
    sae_lens: Any, tmp_path: Path, kind: str, center: bool, rescale: bool
) -> None:
    """The same latents and reconstructions, on random weights."""
    names = {"standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE"}
    names["gated"] = "GatedSAE"
    more = {"k": K, "rescale_acts_by_decoder_norm": rescale} if kind == "topk" else {}
    config = getattr(sae_lens, f"{names[kind]}Config")(
        d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=center, **more
    )
    theirs = getattr(sae_lens, names[kind])(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(torch.randn(parameter.shape))
            if name == "threshold":
                parameter.abs_()
    theirs.save_model(tmp_path)

    ours = load_sae(tmp_path)

    x = rows()
    assert ours.architecture == kind
    close(ours.encode(x), theirs.encode(x))
    close(ours(x), theirs.decode(theirs.encode(x)))


@pytest.mark.parametrize("kind", ["Transcoder", "SkipTranscoder"])
def test_transcoders_go_both_ways(sae_lens: Any, tmp_path: Path, kind: str) -> None:
    """Those without a k, which SAELens has not: the same latents and outputs."""
    config = getattr(sae_lens, f"{kind}Config")(
        d_in=D_IN, d_sae=D_SAE, d_out=7, apply_b_dec_to_input=False
    )
    theirs = getattr(sae_lens, kind)(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    theirs.save_model(tmp_path / "theirs")

    ours = load_sae(tmp_path / "theirs")
    x = rows()
    assert type(ours).__name__ == kind
    close(ours.encode(x), theirs.encode(x))
    close(ours(x), theirs(x))

    save_sae(ours, tmp_path / "ours")
    again = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert type(again).__name__ == kind
    close(again(x), ours(x))


def test_we_read_a_matryoshka_that_sae_lens_trains(sae_lens: Any, tmp_path: Path) -> None:
    """In training it has its widths and a threshold; used, it is the jumprelu that it is."""
    config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=D_SAE, k=K, matryoshka_widths=[8, 20, D_SAE]
    )
    theirs = sae_lens.MatryoshkaBatchTopKTrainingSAE(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        theirs.topk_threshold.fill_(1.5)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "use")

    training, use = load_sae(tmp_path / "training"), load_sae(tmp_path / "use")
    assert isinstance(training, MatryoshkaBatchTopKSae)
    assert training.widths == (8, 20, D_SAE)
    in_use = sae_lens.SAE.load_from_disk(tmp_path / "use")
    close(use.encode(rows()), in_use.encode(rows()))
    close(training(rows()), in_use(rows()))


def test_we_read_a_batch_topk_that_sae_lens_trains(sae_lens: Any, tmp_path: Path) -> None:
    """Its training form has a threshold of its own name; used, it is that of its jumprelu form."""
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K)
    theirs = sae_lens.BatchTopKTrainingSAE(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        theirs.topk_threshold.fill_(1.5)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "use")

    training, use = load_sae(tmp_path / "training"), load_sae(tmp_path / "use")

    assert isinstance(training, BatchTopKSae)
    assert isinstance(use, JumpReLUSae)
    x = rows()
    in_use = sae_lens.SAE.load_from_disk(tmp_path / "use")
    close(training.encode(x), in_use.encode(x))
    close(use.encode(x), in_use.encode(x))


# --- without SAELens: its layout, written by hand


def weights(seed: int = 0, **more: Tensor) -> dict[str, Tensor]:
    """What `sae_weights.safetensors` holds."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator),
        "W_dec": torch.randn(D_SAE, D_IN, generator=generator),
        "b_enc": torch.randn(D_SAE, generator=generator),
        "b_dec": torch.randn(D_IN, generator=generator),
        **more,
    }


def written(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A folder in the layout of SAELens."""
    folder.mkdir(exist_ok=True)
    folder.joinpath("cfg.json").write_text(json.dumps(config))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


NEW = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.5.1", "hook_name": "blocks.1.hook_resid_post"},
}


def test_standard(tmp_path: Path) -> None:
    """ReLU of `(x - b_dec) @ W_enc + b_enc`, and its product with `W_dec` plus `b_dec`."""
    w = weights()
    sae = load_sae(written(tmp_path, {**NEW, "architecture": "standard"}, w))

    x = rows()
    latents = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert isinstance(sae, L1Sae)
    assert sae.about["layer"] == "blocks.1.hook_resid_post"
    close(sae.encode(x), latents)
    close(sae(x), latents @ w["W_dec"] + w["b_dec"])


def test_jumprelu(tmp_path: Path) -> None:
    """What is above a latent's threshold is kept whole."""
    w = weights(threshold=torch.rand(D_SAE))
    config = {**NEW, "architecture": "jumprelu", "apply_b_dec_to_input": False}
    sae = load_sae(written(tmp_path, config, w))

    x = rows()
    pre = x @ w["W_enc"] + w["b_enc"]
    close(sae.encode(x), pre.relu() * (pre > w["threshold"]))


def test_topk_of_a_decoder_that_is_not_normalized(tmp_path: Path) -> None:
    """With `rescale_acts_by_decoder_norm` latents are weighed by the lengths of decoder rows."""
    w = weights()
    config = {**NEW, "architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    sae = load_sae(written(tmp_path, config, w))

    x = rows()
    length = w["W_dec"].norm(dim=1)
    pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * length
    values, indices = pre.topk(K)
    latents = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    close(sae.encode(x), latents)
    close(sae(x), (latents / length) @ w["W_dec"] + w["b_dec"])


def test_batchtopk(tmp_path: Path) -> None:
    """The threshold it learned decides, for each token by itself."""
    w = weights(topk_threshold=torch.tensor(1.5, dtype=torch.float64))
    sae = load_sae(written(tmp_path, {**NEW, "architecture": "batchtopk", "k": 4.5}, w))

    x = rows()
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    assert isinstance(sae, BatchTopKSae)
    assert sae.k == 4.5
    close(sae.encode(x), pre * (pre > 1.5))


def test_gated(tmp_path: Path) -> None:
    """What passes the gate is as strong as the other path says."""
    w = weights(b_mag=torch.randn(D_SAE), r_mag=torch.randn(D_SAE))
    w["b_gate"] = w.pop("b_enc")
    sae = load_sae(written(tmp_path, {**NEW, "architecture": "gated"}, w))

    x = rows()
    shared = (x - w["b_dec"]) @ w["W_enc"]
    strength = ((x - w["b_dec"]) @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    latents = (shared + w["b_gate"] > 0) * strength
    assert isinstance(sae, GatedSae)
    close(sae.encode(x), latents)
    close(sae(x), latents @ w["W_dec"] + w["b_dec"])

    save_sae(sae, tmp_path / "again")
    assert load_file(tmp_path / "again" / "sae_weights.safetensors").keys() == w.keys()


@pytest.mark.parametrize("given", [[8, 20, D_SAE], [8, 20]], ids=["whole", "the last left out"])
def test_matryoshka_in_training(tmp_path: Path, given: list[int]) -> None:
    """SAELens keeps it by its own name until it is used, and adds the last width itself."""
    w = weights(topk_threshold=torch.tensor(1.5, dtype=torch.float64))
    config = {**NEW, "architecture": "matryoshka_batchtopk", "k": 4.5, "matryoshka_widths": given}
    sae = load_sae(written(tmp_path, config, w))

    pre = (rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    assert isinstance(sae, MatryoshkaBatchTopKSae)
    assert sae.widths == (8, 20, D_SAE)
    close(sae.encode(rows()), pre * (pre > 1.5))


def test_matryoshka_of_bad_widths(tmp_path: Path) -> None:
    """The widths, and what they have to be."""
    w = weights(topk_threshold=torch.tensor(1.5, dtype=torch.float64))
    config = {**NEW, "architecture": "matryoshka_batchtopk", "k": 4, "matryoshka_widths": [20, 8]}
    folder = written(tmp_path, config, w)

    with pytest.raises(UnreadableSae, match=r"widths=\[20, 8, 40\] must be whole numbers that"):
        load_sae(folder)


def test_older_config(tmp_path: Path) -> None:
    """Before version 6 the config was flat, and a top-k was an activation function."""
    old = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "hook_point": "blocks.0.hook_mlp_out",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
        "finetuning_scaling_factor": False,
    }
    sae = load_sae(written(tmp_path, old, weights()))

    assert isinstance(sae, TopKSae)
    assert sae.k == 3
    assert sae.about["layer"] == "blocks.0.hook_mlp_out"


FLAT = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "device": "cuda",
    "model_name": "gpt2-small",
    "hook_name": "blocks.1.hook_resid_post",
    "hook_layer": 1,
    "hook_head_index": None,
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": K},
    "apply_b_dec_to_input": False,
    "finetuning_scaling_factor": False,
    "sae_lens_training_version": "5.10.7",
    "prepend_bos": True,
    "dataset_path": "monology/pile-uncopyrighted",
    "dataset_trust_remote_code": False,
    "context_size": 128,
    "normalize_activations": "none",
    "neuronpedia_id": None,
    "model_from_pretrained_kwargs": {},
    "seqpos_slice": [None],
}
"""What SAELens 4 and 5 write of an SAE, all on one level; the architecture comes to it."""


@pytest.mark.parametrize(
    "more",
    [
        {"architecture": "topk"},
        {"architecture": "topk", "sae_lens_training_version": "4.4.5"},
        {"architecture": "topk", "l1_coefficient": 0.0, "lp_norm": 1.0, "noise_scale": 0.0},
        {"architecture": "standard"},
        {"architecture": "topk", "activation_fn": "topk"},
        {},
    ],
    ids=["5", "4", "a checkpoint of training", "3", "both names", "2"],
)
def test_topk_of_saelens_4_and_5(tmp_path: Path, more: dict[str, Any]) -> None:
    """The activation function has `k` among its arguments."""
    w = weights()
    sae = load_sae(written(tmp_path, {**FLAT, **more}, w))

    assert isinstance(sae, TopKSae)
    assert (sae.k, sae.center) == (K, False)
    assert sae.about["layer"] == "blocks.1.hook_resid_post"
    x = rows()
    pre = x @ w["W_enc"] + w["b_enc"]
    values, indices = pre.topk(K)
    latents = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    close(sae.encode(x), latents)
    close(sae(x), latents @ w["W_dec"] + w["b_dec"])


STORED = sorted(Path(__file__).with_name("data").glob("saelens-*"))


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_topk_that_saelens_itself_wrote(folder: Path) -> None:
    """Versions 4.4.5 and 5.11.0: the latents and the output are what they computed."""
    sae, expected = load_sae(folder), load_file(folder / "expected.safetensors")

    assert isinstance(sae, TopKSae)
    assert sae.k == 3
    close(sae.encode(expected["x"]), expected["latents"])
    close(sae(expected["x"]), expected["output"])


def test_both_versions_are_there() -> None:
    """Their files lie in the repository."""
    assert [path.name for path in STORED] == ["saelens-4.4.5", "saelens-5.11.0"]


def test_jumprelu_of_saelens_5(tmp_path: Path) -> None:
    """Its activation function is ReLU, and what is below the threshold is 0."""
    w = weights(threshold=torch.rand(D_SAE))
    flat = {**FLAT, "architecture": "jumprelu", "activation_fn_str": "relu"}
    sae = load_sae(written(tmp_path, {**flat, "activation_fn_kwargs": {}}, w))

    pre = rows() @ w["W_enc"] + w["b_enc"]
    close(sae.encode(rows()), pre.relu() * (pre > w["threshold"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"architecture": "topk", "activation_fn_kwargs": {}}, "cfg.json has no 'k'"),
        ({"architecture": "topk", "activation_fn_kwargs": {"k": 41}}, "k=41 must be a number of"),
        ({"architecture": "topk", "activation_fn_kwargs": {"k": "5"}}, "k='5' must be a whole"),
        ({"architecture": "topk", "activation_fn_kwargs": [5]}, r"=\[5\], which is no object"),
        ({"architecture": "topk", "activation_fn_str": "relu"}, "'topk' with .* function 'relu'"),
        ({"architecture": "jumprelu"}, "'jumprelu' with the activation function 'topk'"),
        ({"architecture": "topk", "activation_fn": "relu"}, "two activation .*, relu and topk"),
        ({"architecture": ["topk"]}, r"architecture=\['topk'\], which is no text"),
        ({"architecture": "temporal"}, "architecture 'temporal'; those that can be read"),
    ],
)
def test_old_configs_that_are_not_one_function(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    """The error says which value it is."""
    folder = written(tmp_path, {**FLAT, **more}, weights())

    with pytest.raises(UnreadableSae, match=message):
        load_sae(folder)


@pytest.mark.parametrize("kind", OURS)
def test_what_we_write_is_in_the_layout(tmp_path: Path, kind: str) -> None:
    """The keys of the config and the names and shapes of the weights are SAELens's."""
    sae = randomized(OURS[kind](True))
    save_sae(sae, tmp_path)

    config = json.loads(tmp_path.joinpath("cfg.json").read_text())
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    used = "jumprelu" if kind in ("batchtopk", "matryoshka") else kind
    assert config["architecture"] == used
    assert {key: config[key] for key in NEW if key != "metadata"} == {
        key: NEW[key] for key in NEW if key != "metadata"
    }
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    shapes |= {"threshold": (D_SAE,)} if used == "jumprelu" else {}
    if kind == "gated":
        shapes["b_gate"] = shapes["b_mag"] = shapes["r_mag"] = shapes.pop("b_enc")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes


@pytest.mark.parametrize("architecture", ["temporal", "jumprelu_transcoder", "Topk"])
def test_an_unknown_architecture_is_an_error(tmp_path: Path, architecture: str) -> None:
    """The message names it, and those that can be read."""
    folder = written(tmp_path, {**NEW, "architecture": architecture}, weights())

    with pytest.raises(UnknownArchitecture, match=rf"'{architecture}'.*batchtopk.*standard, topk"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalize_activations", "layer_norm"),
        ("reshape_activations", "hook_z"),
        ("finetuning_scaling_factor", True),
        ("dtype", "int8"),
        ("d_in", None),
        ("apply_b_dec_to_input", None),
        ("apply_b_dec_to_input", "false"),
    ],
)
def test_what_is_not_done_here_is_an_error(tmp_path: Path, key: str, value: Any) -> None:
    """It would be wrong numbers otherwise."""
    folder = written(tmp_path, {**NEW, "architecture": "standard", key: value}, weights())

    with pytest.raises(UnreadableSae, match=key):
        load_sae(folder)


@pytest.mark.parametrize(
    ("key", "value", "way_out"),
    [
        (
            "normalize_activations",
            "expected_average_only_in",
            "fold_activation_norm_scaling_factor",
        ),
        ("normalize_activations", "layer_norm", "cannot be folded into weights"),
        ("normalize_activations", "constant_norm_rescale", "cannot be folded into weights"),
        ("reshape_activations", "hook_z", "heads side by side in one axis"),
    ],
)
def test_what_is_not_done_here_has_the_way_out_that_there_is(
    tmp_path: Path, key: str, value: str, way_out: str
) -> None:
    """SAELens folds one factor into weights; what each row decides is no factor."""
    folder = written(tmp_path, {**NEW, "architecture": "standard", key: value}, weights())

    with pytest.raises(UnreadableSae, match=f"{key}={value!r}.*{way_out}"):
        load_sae(folder)


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    """Those that would be folded too."""
    config = {**NEW, "architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    w = weights()
    del w["W_dec"]

    with pytest.raises(UnreadableSae, match=r"holds W_enc .* of these sizes has W_dec"):
        load_sae(written(tmp_path, config, w))


def test_saved_over_by_saelens_it_is_what_saelens_says(tmp_path: Path) -> None:
    """Our file beside it keeps the names, and says no more what the SAE does."""
    ours = TopKSae(D_SAE, D_IN, K)
    ours.concepts.name(3, "three")
    save_sae(ours, tmp_path)
    other_k = load_sae(written(tmp_path, {**NEW, "architecture": "topk", "k": K + 1}, weights()))
    assert isinstance(other_k, TopKSae)
    assert other_k.k == K + 1
    assert other_k.concepts.names == {3: "three"}

    other_kind = load_sae(written(tmp_path, {**NEW, "architecture": "standard"}, weights()))
    assert isinstance(other_kind, L1Sae)
