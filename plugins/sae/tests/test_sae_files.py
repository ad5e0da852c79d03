"""Saved and read again, everything is as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tenterhook_sae import (
    BatchTopKSae,
    L1Sae,
    Sae,
    SaeExists,
    UnreadableSae,
    load_sae,
    save_sae,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("center", [True, False], ids=["centered", "not centered"])
def test_round_trip(
    make: Callable[..., Sae], tmp_path: Path, dtype: torch.dtype, center: bool
) -> None:
    """Kind, sizes, settings, names, what it was made of, and every bit of the weights."""
    sae = make(40, 12, center=center, dtype=dtype)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(torch.rand(parameter.shape).to(dtype))
    sae.concepts.name(3, "third")
    sae.about = {"layer": "transformer.h.1", "run": "first"}

    assert save_sae(sae, tmp_path / "a" / "sae") == tmp_path / "a" / "sae"
    other = load_sae(tmp_path / "a" / "sae")

    assert type(other) is type(sae)
    assert other.settings() == sae.settings()
    assert (other.center, other.dtype) == (center, dtype)
    assert other.about == sae.about
    assert other.concepts.names == {3: "third"}
    for name, tensor in sae.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_a_batch_topk_that_learned_nothing(tmp_path: Path) -> None:
    """It has no threshold yet, and none afterwards."""
    save_sae(BatchTopKSae(40, 12, 3.5), tmp_path / "sae")
    other = load_sae(tmp_path / "sae")

    assert isinstance(other, BatchTopKSae)
    assert other.k == 3.5
    assert float(other.threshold) == -1


def test_a_batch_topk_whose_threshold_is_zero(tmp_path: Path) -> None:
    """Everything positive is active, which is not the same as having no threshold."""
    sae = BatchTopKSae(40, 12, 40)
    sae.threshold.zero_()
    save_sae(sae, tmp_path / "sae")
    other = load_sae(tmp_path / "sae")

    assert isinstance(other, BatchTopKSae)
    assert float(other.threshold) == 0


def test_what_is_there_is_not_overwritten(sae: Sae, tmp_path: Path) -> None:
    """Unless it is asked for."""
    save_sae(sae, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        sae.W_enc.add_(1)

    with pytest.raises(SaeExists, match=r"holds an SAE already; give overwrite=True.*Nothing"):
        save_sae(sae, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_sae(sae, tmp_path, overwrite=True)
    assert torch.equal(load_sae(tmp_path).W_enc, sae.W_enc)


def test_a_folder_without_an_sae(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(UnreadableSae, match=r"there is no cfg\.json in it"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sae_weights.safetensors", None, "there is no sae_weights.safetensors in it"),
        ("sae_weights.safetensors", b"no weights", "sae_weights.safetensors: "),
        ("cfg.json", b"{", "cfg.json: "),
        ("cfg.json", b"[1]", "cfg.json holds no object"),
    ],
)
def test_damaged_files(
    sae: Sae, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """The file and the cause."""
    save_sae(sae, tmp_path)
    if content is None:
        tmp_path.joinpath(name).unlink()
    else:
        tmp_path.joinpath(name).write_bytes(content)

    with pytest.raises(UnreadableSae, match=message):
        load_sae(tmp_path)


def test_weights_of_other_sizes(make: Callable[..., Sae], tmp_path: Path) -> None:
    """Both are named."""
    save_sae(make(40, 12), tmp_path / "a")
    save_sae(make(30, 12), tmp_path / "b")
    weights = "sae_weights.safetensors"
    tmp_path.joinpath("a", weights).write_bytes(tmp_path.joinpath("b", weights).read_bytes())

    with pytest.raises(UnreadableSae, match=r"W_dec \[30, 12\].*of these sizes.*W_dec \[40, 12\]"):
        load_sae(tmp_path / "a")


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
def test_an_activation_that_is_none_of_ours(tmp_path: Path, key: str) -> None:
    """Older configs of SAELens may name another, of which ReLU would make other latents."""
    save_sae(L1Sae(8, 4), tmp_path)
    config = tmp_path / "cfg.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: "tanh-relu"}))

    with pytest.raises(UnreadableSae, match=f"{key}='tanh-relu', which is not done here"):
        load_sae(tmp_path)
