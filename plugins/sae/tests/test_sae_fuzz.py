"""Folders of SAEs and checkpoints that somebody crafted: each is read right, or is `UnreadableSae`.

A sample, by default; `nox -s faults` does 3,000 folders and 1,500 checkpoints.
"""

import copy
import json
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from tenterhook_sae import (
    BatchTopKSae,
    JumpReLUSae,
    L1Sae,
    OtherCheckpoint,
    Sae,
    TopKSae,
    Trainer,
    TrainingSettings,
    UnreadableSae,
    load_sae,
    save_sae,
    train_sae,
)
from tenterhook_store import OtherLoader

FOLDERS = int(os.environ.get("TENTERHOOK_FUZZ", "1000")) * 3 // 10
"""How many folders are crafted."""

CONFIG, WEIGHTS, OURS = "cfg.json", "sae_weights.safetensors", "tenterhook.json"

KINDS: dict[str, Callable[[], Sae]] = {
    "standard": lambda: L1Sae(12, 5),
    "topk": lambda: TopKSae(12, 5, 3),
    "batchtopk": lambda: BatchTopKSae(12, 5, 2.5),
    "jumprelu": lambda: JumpReLUSae(12, 5),
}

OLD = {
    "architecture": "topk",
    "d_in": 5,
    "d_sae": 12,
    "dtype": "torch.float32",
    "hook_name": "blocks.0.hook_mlp_out",
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": 3},
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "finetuning_scaling_factor": False,
}
"""A config of SAELens 4 or 5."""

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 3, 12, 2**31, 2**40, 2**60, 2**63, 10**299, 10**400, -(2**63),
    0.5, -0.0, 3.0, 1e308, float("nan"), float("inf"), "", "x", "..", "/", "\x00", "\x1b[2J",
    "é" * 300, "0", "99", "float16", "float64", "int8", "complex64", "F32", "BF16", "U8", "NaN",
    "topk", "standard", "jumprelu", "batchtopk", "relu", "threshold", "W_enc", "\ud800", [], [[]],
    [0], [12, 5], [5, 12], ["x"], [None] * 5, {}, {"": {}}, {"k": 3}, {"x": [1, {"y": None}]},
]  # fmt: skip

RAW = [
    b"", b"\xff", b"[" * 10**5, b'{"a":' * 10**4, b"1e999", b"NaN", b"9" * 5000, b"null", b"[1]",
    b'"x"', b"{", b"\x00" * 64, b'{"d_in": 1e999}', b'{"k": ' + b"9" * 400 + b"}",
]  # fmt: skip


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return every part of JSON, as its holder and its key."""
    places: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        holder = level.pop()
        for key in list(holder.keys() if isinstance(holder, dict) else range(len(holder))):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                level.append(holder[key])
    return places


def mutated(value: Any, chance: random.Random) -> Any:
    """Return JSON of which a part or a few are others, are gone, or are new."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        places = places_in(value)
        if not places:
            break
        holder, key = chance.choice(places)
        way = chance.randrange(4)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[str(chance.choice(ODD))] = holder.pop(key)
        elif way == 2 and isinstance(holder, dict):
            known = ("k", "activation_fn", "activation_fn_str", "rescale_acts_by_decoder_norm")
            holder[chance.choice([*known, "bandwidth"])] = copy.deepcopy(chance.choice(ODD))
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD))
    return value


def spoilt_json(path: Path, chance: random.Random) -> None:
    """Have a file of JSON say something else."""
    if chance.random() < 0.2:
        path.write_bytes(chance.choice(RAW))
        return
    path.write_text(json.dumps(mutated(json.loads(path.read_text()), chance)), "utf-8")


def spoilt_weights(path: Path, chance: random.Random) -> None:
    """Have a safetensors file be cut, claim what is not there, or hold something else."""
    content = path.read_bytes()
    (count,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + count], content[8 + count :]
    way = chance.randrange(6)
    if way == 0:
        content = content[: chance.randrange(len(content))]
    elif way == 1:
        claimed = chance.choice([0, 1, count - 1, count + 1, 2**31, 2**60, 2**63, 2**64 - 1])
        content = struct.pack("<Q", claimed) + content[8:]
    elif way == 2:
        changed = mutated(json.loads(header), chance)
        new = json.dumps(changed).encode()
        content = struct.pack("<Q", len(new)) + new + data
    elif way == 3:
        flipped = bytearray(content)
        flipped[chance.randrange(8 + count)] ^= 1 << chance.randrange(8)
        content = bytes(flipped)
    elif way == 4:
        new = chance.choice(RAW)
        content = struct.pack("<Q", len(new)) + new + data
    else:
        tensors = load_file(path)
        name = chance.choice(sorted(tensors))
        tensor = tensors.pop(name)
        shapes = [(0,), (1,), (3, 4), (12, 5), (5, 12), (12,), ()]
        others = [
            tensor.to(chance.choice([torch.int64, torch.uint8, torch.bool, torch.float64])),
            torch.zeros(chance.choice(shapes)),
            tensor * torch.nan,
        ]
        tensors[chance.choice([name, name, "x", "threshold"])] = chance.choice(others)
        content = save(tensors)
    path.write_bytes(content)


def replaced(path: Path, chance: random.Random) -> None:
    """Have something else than a file stand in a file's place."""
    path.unlink(missing_ok=True)
    way = chance.randrange(8)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way == 2:
        path.symlink_to(path)
    elif way == 3:
        path.symlink_to("gone")
    elif way == 4:
        path.symlink_to("/dev/zero")
    elif way == 5:
        path.symlink_to("/proc/self/mem" if os.path.exists("/proc/self/mem") else "/")
    elif way == 6:
        with path.open("wb") as file:
            file.truncate(chance.choice([2**30, 2**40]))
    elif way == 7:
        shutil.copy(path.parent / chance.choice([CONFIG, WEIGHTS, OURS]), path) if (
            len(list(path.parent.glob("*.*"))) == 3
        ) else path.write_bytes(b"")


def crafted(folder: Path, chance: random.Random) -> None:
    """Write an SAE of a kind, and spoil one file of it, or some."""
    kind = chance.choice(sorted(KINDS))
    sae = KINDS[kind]()
    if isinstance(sae, BatchTopKSae) and chance.random() < 0.5:
        sae.threshold.fill_(0.5)
    sae.concepts.name(3, "third")
    sae.about = {"layer": "h.0", "steps": 3}
    save_sae(sae, folder)
    if chance.random() < 0.3:  # as SAELens writes it
        folder.joinpath(OURS).unlink()
        if kind == "topk" and chance.random() < 0.7:
            folder.joinpath(CONFIG).write_text(json.dumps(OLD))
    for name in chance.sample([CONFIG, WEIGHTS, OURS], chance.choice([1, 1, 1, 2])):
        path = folder / name
        if not path.is_file() or chance.random() < 0.15:
            replaced(path, chance)
        else:
            (spoilt_weights if name == WEIGHTS else spoilt_json)(path, chance)


def largest_memory() -> int:
    """Return how much memory this process has had at once, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_right(sae: Sae) -> None:
    """See that an SAE that was read is one that can be used, saved and read."""
    assert sae.encode(torch.zeros(2, sae.n_inputs)).shape == (2, sae.n_latents)
    assert {name: tensor.shape for name, tensor in sae.named_parameters()} == {
        name: tensor.shape for name, tensor in type(sae)(**sizes(sae)).named_parameters()
    }
    assert all(isinstance(name, str) for name in sae.concepts.names.values())
    json.dumps(sae.about, allow_nan=False).encode()
    repr(sae)


def sizes(sae: Sae) -> dict[str, Any]:
    """Return what one like it is made with."""
    return {"n_latents": sae.n_latents, "n_inputs": sae.n_inputs, **sae.settings()}


@pytest.mark.timeout(3600)
def test_crafted_folders(tmp_path: Path) -> None:
    """Whatever is in it: an SAE, or `UnreadableSae` in one line, and no memory to speak of."""
    load_sae(save_sae(KINDS["topk"](), tmp_path / "whole"))
    before, refused = largest_memory(), 0
    for number in range(FOLDERS):
        folder = tmp_path / str(number)
        crafted(folder, random.Random(number))
        try:
            is_right(load_sae(folder))
            said = ""
        except UnreadableSae as error:
            said = str(error)
            refused += 1
        except Exception as error:  # noqa: BLE001 - which folder it was is what matters
            pytest.fail(f"{number}: {error!r}")
        assert said.isprintable(), number
        assert len(said) < 2000, number
        shutil.rmtree(folder)
    assert 0.5 * FOLDERS < refused < FOLDERS
    assert largest_memory() - before < 300 * 2**20


# --- checkpoints


class Rows:
    """Batches of random rows, whose state is one number."""

    def __init__(self) -> None:
        self.width = 5
        self.about = {"layer": "h.0"}
        self.count = 0

    def __iter__(self) -> Any:
        while True:
            self.count += 1
            yield torch.randn(16, 5, generator=torch.Generator().manual_seed(self.count))

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many; a stranger's, who checks nothing."""
        self.count = int(state["count"])


def spoilt_facts(path: Path, chance: random.Random) -> None:
    """Have a checkpoint say something else of itself."""
    content = path.read_bytes()
    (count,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + count])
    facts = header["__metadata__"]["tenterhook_sae"]
    if chance.random() < 0.2:
        said = chance.choice(RAW).decode("latin-1")
    else:
        said = json.dumps(mutated(json.loads(facts), chance))
    header["__metadata__"]["tenterhook_sae"] = said
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + count :])


@pytest.mark.timeout(3600)
def test_crafted_checkpoints(tmp_path: Path) -> None:
    """Whatever it says: training goes on, or an error of ours, and the SAE is as it was."""
    settings = TrainingSettings(steps=4, checkpoint_every=2)
    torch.manual_seed(0)
    train_sae(BatchTopKSae(12, 5, 2.5), Rows(), settings, out=tmp_path / "whole")
    whole = (tmp_path / "whole" / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "checkpoint.safetensors"
    refused = 0
    for number in range(FOLDERS // 2):
        chance = random.Random(number)
        path.write_bytes(whole)
        if chance.random() < 0.1:
            replaced(path, chance)
            if not os.path.lexists(path):
                continue
        else:
            (spoilt_facts if chance.random() < 0.5 else spoilt_weights)(path, chance)
        torch.manual_seed(1)
        trainer = Trainer(BatchTopKSae(12, 5, 2.5), Rows(), settings)
        before = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
        try:
            trainer.load_checkpoint(tmp_path)
        except (UnreadableSae, OtherCheckpoint, OtherLoader):
            refused += 1
            assert trainer.step == 0
            for name, tensor in trainer.sae.state_dict().items():
                assert torch.equal(tensor, before[name]), number
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"{number}: {error!r}")
        else:
            trainer.run()
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert 0.5 * FOLDERS // 2 < refused < FOLDERS // 2
