"""Saved and read again, everything is as it was."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenterhook_sae import (
    BadSetting,
    BatchTopKSae,
    JumpReLUSae,
    L1Sae,
    NoSuchLatent,
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


SAE_FILES = ["cfg.json", "sae_weights.safetensors", "tenterhook.json"]


@pytest.mark.parametrize("name", SAE_FILES)
def test_what_stands_in_the_place_of_a_file(sae: Sae, tmp_path: Path, name: str) -> None:
    """A folder, a pipe, a device and links to nowhere are no files; a link to a file is."""
    save_sae(sae, tmp_path)
    path, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert torch.equal(load_sae(tmp_path).W_enc, sae.W_enc)

    path.unlink()
    path.mkdir()
    with pytest.raises(UnreadableSae, match=f"{name} is no regular file"):
        load_sae(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UnreadableSae, match=f"{name} is no regular file"):
        load_sae(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UnreadableSae, match=f"{name} is no regular file"):
        load_sae(tmp_path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UnreadableSae, match=f"{name}: OSError: .* symbolic links"):
        load_sae(tmp_path)
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(UnreadableSae, match=f"there is no {name} in it"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cfg.json", b"[" * 10**5, "cfg.json: it is nested too deeply"),
        ("cfg.json", b'{"a": ' * 200 + b"1" + b"}" * 200, "cfg.json: it is nested too deeply"),
        ("cfg.json", b'{"d_in": NaN}', "NaN is no number"),
        ("cfg.json", b'{"d_in": 1e999}', "1e999 is no number that a float can hold"),
        ("cfg.json", b'{"d_in": ' + b"9" * 400 + b"}", "a number has 400 digits"),
        ("cfg.json", b'{"d_in": 12.0}', "no whole number 'd_in', 1 or more and .* at most"),
        ("cfg.json", b'{"d_in": "\\ud800"}', "surrogates not allowed"),
        ("cfg.json", b'{"architecture": "vae"}', "architecture 'vae'; those that can be read"),
        ("tenterhook.json", b'{"format": 2}', "is of format 2; 1 is what is read here"),
        ("tenterhook.json", b'{"names": {"x": "y"}}', "names: 'x' is no number of a latent"),
        ("tenterhook.json", b'{"names": {"999": "y"}}', "no latent 999: the latents are 0 to 255"),
        ("tenterhook.json", b'{"names": {"1": ""}}', "name='' must be a text"),
        ("tenterhook.json", b'{"names": {"1": "a", "2": "a"}}', "the name of latent 1"),
        ("tenterhook.json", b'{"names": {"1": 2}}', "expected str @"),
        ("tenterhook.json", b'{"about": []}', "tenterhook.json: "),
        ("tenterhook.json", b'{"settings": 3}', "tenterhook.json: "),
        ("tenterhook.json", b'{"architecture": "vae"}', "architecture 'vae'"),
    ],
)
def test_json_that_nobody_would_write(
    sae: Sae, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """What is wrong, in a line."""
    save_sae(sae, tmp_path)
    tmp_path.joinpath(name).write_bytes(content)

    with pytest.raises(UnreadableSae, match=message):
        load_sae(tmp_path)


def test_json_of_a_gigabyte(sae: Sae, tmp_path: Path) -> None:
    """It is not read."""
    save_sae(sae, tmp_path)
    with tmp_path.joinpath("cfg.json").open("r+b") as file:
        file.truncate(2**30)

    with pytest.raises(UnreadableSae, match=r"cfg\.json has 1,073,741,824 bytes"):
        load_sae(tmp_path)


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a safetensors file of which the header says something else."""
    (count,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + count])
    change(header)
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + content[8 + count :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["W_enc"].update(shape=[2**40, 2**40]), "'W_enc' has shape=.* bytes in F32"),
        (lambda h: h["W_enc"].update(dtype="F64"), "'W_enc' has shape=.* bytes in F64"),
        (lambda h: h["W_enc"].update(dtype="U8"), "'W_enc' has dtype='U8', which is none"),
        (lambda h: h["W_enc"].update(dtype=None), "'W_enc' has dtype=None, which is none"),
        (lambda h: h["W_enc"].update(shape=[-1]), r"'W_enc' has shape=\[-1\], which is none"),
        (lambda h: h["W_enc"].update(shape="xx"), "'W_enc' has shape='xx', which is none"),
        (lambda h: h["W_enc"].update(data_offsets=[0, 2**60]), "has data_offsets=.* there are"),
        (lambda h: h["W_enc"].update(data_offsets=[8, 0]), "has data_offsets=.* there are"),
        (lambda h: h.update(W_enc=[]), "'W_enc' has no dtype, shape and place"),
        (lambda h: h.pop("W_enc"), "sae_weights.safetensors"),
        (lambda h: h.update(__metadata__=[]), "its metadata is not texts by name"),
        (lambda h: h["b_enc"].update(dtype="I64", shape=[128]), "holds W_dec"),
    ],
)
def test_headers_that_lie(
    sae: Sae, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """They are compared with the file, and with the config, before anything is read."""
    path = save_sae(sae, tmp_path) / "sae_weights.safetensors"
    path.write_bytes(with_header(path.read_bytes(), change))

    with pytest.raises(UnreadableSae, match=message):
        load_sae(tmp_path)


def test_weights_that_are_whole_numbers(sae: Sae, tmp_path: Path) -> None:
    """They are no weights, though the shapes are right."""
    path = save_sae(sae, tmp_path) / "sae_weights.safetensors"
    save_file({name: tensor.long() for name, tensor in load_file(path).items()}, path)

    with pytest.raises(UnreadableSae, match=r"is in torch\.int64, which is no floating dtype"):
        load_sae(tmp_path)


@pytest.mark.parametrize("claimed", [2**60, 2**63, 2**64 - 1, 10**8])
def test_headers_of_a_length_that_is_not_there(sae: Sae, tmp_path: Path, claimed: int) -> None:
    """Nothing of that size is allocated."""
    path = save_sae(sae, tmp_path) / "sae_weights.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])

    with pytest.raises(UnreadableSae, match="it is no whole safetensors file"):
        load_sae(tmp_path)


def test_a_batch_topk_whose_thresholds_somebody_changed(tmp_path: Path) -> None:
    """With a threshold for each latent it is the `jumprelu` that its config says it is."""
    sae = BatchTopKSae(40, 12, 3)
    sae.threshold.fill_(0.5)
    path = save_sae(sae, tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    weights["threshold"][3] = 0.75
    save_file(weights, path)

    other = load_sae(tmp_path)
    assert isinstance(other, JumpReLUSae)
    assert torch.equal(other.threshold, weights["threshold"])


def test_a_dtype_that_no_sae_is_in(sae: Sae, tmp_path: Path) -> None:
    """Asked for as it is read."""
    save_sae(sae, tmp_path)
    with pytest.raises(BadSetting, match=r"dtype=torch\.int8 must be a floating dtype"):
        load_sae(tmp_path, dtype=torch.int8)


def test_names_are_set_at_once(sae: Sae) -> None:
    """All are checked before any is set."""
    sae.concepts.names = {3: "three", 5: "five"}
    for names, message in (
        ({256: "x"}, "no latent 256"),
        ({1: " "}, "name=' ' must be a text"),
        ({1: "x", 2: "x"}, "name='x' must be free: it is the name of latent 1"),
    ):
        with pytest.raises((BadSetting, NoSuchLatent), match=message):
            sae.concepts.names = names
    assert sae.concepts.names == {3: "three", 5: "five"}
