"""Saved SAEs: the folder that SAELens publishes, and one small file of ours beside it.

`cfg.json` and `sae_weights.safetensors` are laid out as SAELens 6 has them (its older `cfg.json`
is read too); `tenterhook.json` holds what that layout has no place for: the kind, the names of
latents, what the SAE was made of. No pickle.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenterhook_sae.errors import SaeExists, UnknownArchitecture, UnreadableSae
from tenterhook_sae.models import SAES, BatchTopKSae
from tenterhook_sae.sae import Sae

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
OURS = "tenterhook.json"
FORMAT = 1
SAELENS = "6.0.0"
"""The version of SAELens whose layout is written."""

FileName = str | PathLike[str]


def save_sae(sae: Sae, folder: FileName, *, overwrite: bool = False) -> Path:
    """Write an SAE into a folder, which is made; return the folder.

    SAELens reads what is written. A `BatchTopKSae` that has learned its threshold is written as
    the `jumprelu` that it is in use, as SAELens does with its own, and comes back as what it was.
    Each file appears whole or not at all.

    Raises `SaeExists` (a `FileExistsError`) where the folder holds an SAE, unless `overwrite`.
    """
    path = Path(folder)
    if not overwrite and any(path.joinpath(name).exists() for name in (CONFIG, WEIGHTS)):
        raise SaeExists(str(path), "holds an SAE already; give overwrite=True or another folder")
    path.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().contiguous() for name, tensor in sae.state_dict().items()}
    config = {
        "architecture": sae.architecture,
        "d_in": sae.n_inputs,
        "d_sae": sae.n_latents,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.center,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS,
            "sae_lens_training_version": None,
            **({"hook_name": sae.about["layer"]} if "layer" in sae.about else {}),
        },
    }
    config |= sae.settings()
    if sae.architecture == "topk":
        config["rescale_acts_by_decoder_norm"] = False
    if isinstance(sae, BatchTopKSae):
        threshold = weights.pop("threshold")
        if threshold >= 0:
            config["architecture"] = "jumprelu"
            weights["threshold"] = torch.full_like(weights["b_enc"], float(threshold))
        else:
            config["rescale_acts_by_decoder_norm"] = False
            weights["topk_threshold"] = torch.zeros_like(threshold)
    ours = {
        "format": FORMAT,
        "architecture": sae.architecture,
        "settings": sae.settings(),
        "names": {str(latent): name for latent, name in sae.concepts.names.items()},
        "about": sae.about,
    }
    with in_place(path / WEIGHTS) as part:
        save_file({name: tensor.cpu() for name, tensor in weights.items()}, part)
    write_json(path / OURS, ours)
    write_json(path / CONFIG, config)
    return path


def load_sae(
    folder: FileName, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Sae:
    """Read an SAE from a folder that `save_sae` or SAELens wrote.

    `dtype` is the saved one unless given. Raises `UnknownArchitecture` for a kind that is not
    among `standard`, `topk`, `batchtopk` and `jumprelu`, and `UnreadableSae` where something is
    missing, damaged, or asks for what we do not do (both a `ValueError`).
    """
    path = Path(folder)
    config = _modern(_read_json(path / CONFIG))
    ours = _read_json(path / OURS) if path.joinpath(OURS).exists() else {}
    architecture = ours.get("architecture", config["architecture"])
    for found in (architecture, config["architecture"]):
        if found not in SAES:
            raise UnknownArchitecture(str(path), found, sorted(SAES))
    _check(config, str(path))
    weights = _read_weights(path / WEIGHTS)
    settings: dict[str, Any] = dict(ours.get("settings", {}))
    # Somebody else may have written over what ours described.
    if config["architecture"] not in (architecture, _written_as(architecture)):
        architecture, settings = config["architecture"], {}
    settings = {key: config.get(key, value) for key, value in settings.items()}
    if not settings and architecture in ("topk", "batchtopk"):
        if "k" not in config:
            raise UnreadableSae(str(path), f"{CONFIG} has no 'k'")
        settings["k"] = config["k"]
    if config["architecture"] == "batchtopk" or architecture == "batchtopk":
        weights = _with_one_threshold(weights)
    if config.get("rescale_acts_by_decoder_norm"):
        weights = _with_unit_decoder(weights)
    wanted = dtype or _dtype(config.get("dtype", "float32"), str(path))
    sae = SAES[architecture](
        config["d_sae"], config["d_in"], **settings, center=config["apply_b_dec_to_input"]
    ).to(dtype=wanted)
    _load_weights(sae, weights, str(path))
    for latent, name in ours.get("names", {}).items():
        sae.concepts.name(int(latent), name)
    sae.about = dict(ours.get("about", {}))
    hook = config.get("metadata", {}).get("hook_name")
    if hook and "layer" not in sae.about:
        sae.about["layer"] = hook
    return sae.to(device)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, which is there whole or not at all."""
    with in_place(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """A block that writes a file beside another, which it replaces when all went well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise UnreadableSae(str(path.parent), f"there is no {path.name} in it") from None
    except (ValueError, OSError) as error:
        raise UnreadableSae(str(path.parent), f"{path.name}: {error}") from error
    if not isinstance(found, dict):
        raise UnreadableSae(str(path.parent), f"{path.name} holds no object")
    return found


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UnreadableSae(str(path.parent), f"there is no {path.name} in it") from None
    except (SafetensorError, OSError) as error:
        raise UnreadableSae(str(path.parent), f"{path.name}: {error}") from error


def _modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as SAELens 6 writes it; its older ones had the same facts elsewhere."""
    found = {"apply_b_dec_to_input": True, "architecture": "standard", **config}
    activation = found.get("activation_fn", found.get("activation_fn_str", "relu"))
    if activation == "topk" and found["architecture"] == "standard":
        found["architecture"] = "topk"
        found.setdefault("k", (found.get("activation_fn_kwargs") or {}).get("k"))
    if "hook_point" in found:
        found.setdefault("hook_name", found["hook_point"])
    if "hook_name" in found:
        found["metadata"] = {"hook_name": found["hook_name"], **(found.get("metadata") or {})}
    found["metadata"] = found.get("metadata") or {}
    return found


def _check(config: Mapping[str, Any], where: str) -> None:
    for key in ("d_in", "d_sae"):
        if not isinstance(config.get(key), int):
            raise UnreadableSae(where, f"{CONFIG} has no whole number {key!r}")
    center = config["apply_b_dec_to_input"]
    if not isinstance(center, bool):
        raise UnreadableSae(
            where, f"{CONFIG} says apply_b_dec_to_input={center!r}, which is neither true nor false"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key) not in (None, False, "none"):
            raise UnreadableSae(
                where,
                f"{CONFIG} says {key}={config[key]!r}, which is not done here. "
                f"{_way_out(config[key])}",
            )
    for key in ("activation_fn", "activation_fn_str"):
        if config.get(key) not in (None, "relu", "topk", "batchtopk", "jumprelu"):
            raise UnreadableSae(
                where,
                f"{CONFIG} says {key}={config[key]!r}, which is not done here; relu, topk, "
                "batchtopk and jumprelu are",
            )
    if config.get("finetuning_scaling_factor"):
        raise UnreadableSae(where, f"{CONFIG} says finetuning_scaling_factor, not done here")


def _way_out(value: Any) -> str:
    """Return what to do with an SAE whose activations SAELens changes before it encodes them."""
    if value == "expected_average_only_in":
        return (
            "It is one factor: fold it into the weights with fold_activation_norm_scaling_factor "
            "of SAELens, and save again."
        )
    if value == "hook_z":
        return (
            "For a layer that has its heads side by side in one axis, 'none' is the same: write "
            f"that into {CONFIG}."
        )
    return (
        "What each row's own numbers decide cannot be folded into weights: run this SAE with "
        "SAELens."
    )


def _written_as(architecture: str) -> str:
    """Return what a kind may be in `cfg.json`, beside itself."""
    return "jumprelu" if architecture == "batchtopk" else architecture


def _with_one_threshold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a BatchTopK's weights with its threshold as we have it: one number, -1 for none."""
    if "topk_threshold" in weights:  # of SAELens in training, where 0 says that it has none yet
        threshold = weights.pop("topk_threshold").double().reshape(-1)[0]
        threshold = threshold if threshold > 0 else torch.full_like(threshold, -1.0)
    else:
        threshold = weights["threshold"].double().reshape(-1)[0]
    weights["threshold"] = threshold
    return weights


def _with_unit_decoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that do with a decoder of unit rows what these do by its rows' lengths."""
    if not {"W_dec", "W_enc", "b_enc"} <= weights.keys():
        return weights  # loading them reports what is missing
    length = weights["W_dec"].norm(dim=1)
    folded = {
        "W_dec": weights["W_dec"] / length[:, None],
        "W_enc": weights["W_enc"] * length,
        "b_enc": weights["b_enc"] * length,
    }
    return {**weights, **folded}


def _dtype(name: Any, where: str) -> torch.dtype:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UnreadableSae(where, f"{CONFIG} says dtype={name!r}, which is no floating dtype")
    return found


def _load_weights(sae: Sae, weights: Mapping[str, Tensor], where: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if "scaling_factor" in found and "scaling_factor" not in expected:  # of older SAELens, unused
        del found["scaling_factor"]
    if found != expected:
        raise UnreadableSae(
            where,
            f"{WEIGHTS} holds {_described(found)}; {type(sae).__name__} of these sizes has "
            f"{_described(expected)}",
        )
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            tensor.copy_(weights[name])


def _described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
