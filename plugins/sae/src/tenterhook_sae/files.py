"""Saved SAEs: the folder that SAELens publishes, and one small file of ours beside it.

`cfg.json` and `sae_weights.safetensors` are laid out as SAELens 6 has them (`sae_lens_config` reads
older ones too); `tenterhook.json` holds what that layout has no place for: the kind, the names of
latents, what the SAE was made of. No pickle.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import validators
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tenterhook.one_line import error_line, printable, shown
from tenterhook_sae.errors import (
    BadSetting,
    NoSuchLatent,
    SaeExists,
    UnknownArchitecture,
    UnreadableSae,
)
from tenterhook_sae.kinds import SAES
from tenterhook_sae.limits import WIDEST, check_dtype
from tenterhook_sae.models import BatchTopKSae
from tenterhook_sae.reading import WeightFile, read_object
from tenterhook_sae.sae import Sae
from tenterhook_sae.sae_lens_config import CONFIG as CONFIG
from tenterhook_sae.sae_lens_config import TOP_K, TRANSCODERS, SaeConfig
from tenterhook_sae.transcoder import Transcoder
from tenterhook_store import NotWritable
from tenterhook_store.structuring import structured
from tenterhook_store.unfinished import is_abandoned, unfinished_name

WEIGHTS = "sae_weights.safetensors"
UNUSED = "scaling_factor"
"""A tensor that older SAELens wrote and did not use."""

OURS = "tenterhook.json"
FORMAT = 1
SAELENS = "6.0.0"
"""The version of SAELens whose layout is written."""

BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")
"""What is a `jumprelu` in use: of these SAELens writes the one threshold, once for each latent."""

CROSSCODERS = ("crosscoder", "model_crosscoder")
"""Kinds of several layers or models, which SAELens has not."""

_IN_CONFIG = {"widths": "matryoshka_widths", "n_outputs": "d_out"}
"""Settings by what `cfg.json` calls them, where that is another name."""

_IN_FILE = {("gated", "b_enc"): "b_gate"}
"""Weights of a kind by what files call them, where that is another name."""

FileName = str | PathLike[str]


def save_sae(sae: Sae, folder: FileName, *, overwrite: bool = False) -> Path:
    """Write an SAE into a folder, which is made; return the folder.

    SAELens reads what is written. A `BatchTopKSae` that has learned its threshold is written as
    the `jumprelu` that it is in use, as SAELens does with its own, and comes back as what it was.
    Each file appears whole or not at all.

    Raises `SaeExists` (a `FileExistsError`) where the folder holds an SAE, unless `overwrite`, and
    `NotWritable` (an `OSError`) where the system refuses.
    """
    path = Path(folder)
    if not overwrite and any(path.joinpath(name).exists() for name in (CONFIG, WEIGHTS)):
        raise SaeExists(str(path), "holds an SAE already; give overwrite=True or another folder")
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
            **_hook_names(sae),
        },
    }
    config |= {_IN_CONFIG.get(name, name): value for name, value in sae.settings().items()}
    weights = {_IN_FILE.get((sae.architecture, name), name): t for name, t in weights.items()}
    if sae.architecture == "topk":
        config["rescale_acts_by_decoder_norm"] = False
    if isinstance(sae, Transcoder) and sae.k is not None:
        config["architecture"] = f"{TOP_K}{sae.architecture}"
    if isinstance(sae, BatchTopKSae) and sae.architecture in BATCH_TOP_K:
        threshold = weights.pop("threshold")
        if threshold >= 0:
            config["architecture"] = "jumprelu"
            weights["threshold"] = torch.full_like(weights["b_enc"], float(threshold))
        else:
            config["rescale_acts_by_decoder_norm"] = False
            weights["topk_threshold"] = torch.zeros_like(threshold)
    with in_place(path / WEIGHTS) as part:
        save_file({name: tensor.cpu() for name, tensor in weights.items()}, part)
    save_names(sae, path)
    write_json(path / CONFIG, config)
    return path


def save_names(sae: Sae, folder: FileName) -> None:
    """Write the names of latents beside the weights that are in a folder, which stay.

    With them goes what else our own file says: the kind, its settings, and `about`. Raises
    `NotWritable` (an `OSError`); the file that was there stays then.
    """
    ours = {
        "format": FORMAT,
        "architecture": sae.architecture,
        "settings": sae.settings(),
        "names": {str(latent): name for latent, name in sae.concepts.names.items()},
        "about": sae.about,
    }
    write_json(Path(folder) / OURS, ours)


def load_sae(
    folder: FileName, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Sae:
    """Read an SAE from a folder that `save_sae` or SAELens, version 4 to 6, wrote.

    `dtype` is the saved one unless given. The files may be anybody's: nothing large is allocated
    before sizes, shapes and dtypes agree with each other and with the length of the file.

    Raises `UnreadableSae` where something is missing, damaged, or asks for what we do not do; its
    `UnknownArchitecture` for a kind that is not in `kinds.SAES`; `BadSetting` for a `dtype` that
    no SAE is in (each a `ValueError`).
    """
    if dtype is not None:
        check_dtype(dtype)
    path, where = Path(folder), str(folder)
    config = SaeConfig.of(read_object(path / CONFIG, where), where)
    beside = _Beside.of(path, where)
    file = WeightFile.open(path / WEIGHTS, where)
    architecture = beside.architecture or config.architecture
    # Somebody else may have written over what ours described.
    if config.architecture not in (architecture, _written_as(architecture)):
        architecture = config.architecture
    _check_shapes(file, architecture, config)
    weights = file.load([name for name in file.stored if name != UNUSED])
    if architecture in BATCH_TOP_K:
        one = _with_one_threshold(weights)
        architecture, weights = ("jumprelu", weights) if one is None else (architecture, one)
    if config.rescale:
        weights = _with_unit_decoder(weights)
    settings = _settings(architecture, config, beside, where)
    try:
        if architecture not in (*TRANSCODERS, *CROSSCODERS):
            settings["center"] = config.center
        if architecture not in CROSSCODERS:
            settings["n_inputs"] = config.n_inputs
        sae = SAES[architecture](config.n_latents, **settings)
        sae = sae.to(dtype=dtype or config.dtype)
        sae.concepts.names = beside.names
    except (BadSetting, NoSuchLatent) as error:
        raise UnreadableSae(where, str(error)) from error
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            tensor.copy_(weights[_IN_FILE.get((architecture, name), name)])
    sae.about = dict(beside.about)
    if config.hook_name:
        sae.about.setdefault("layer", config.hook_name)
    return sae.to(device)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, which is there whole or not at all."""
    with in_place(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """A block that writes a file in a folder beside another, which it replaces when all went well.

    The folder is the block's own: safetensors writes to a file of a name of its own first, which
    a process that is killed leaves. Raises `NotWritable` where the system refuses, as on a full
    disk; what was there before stays. What a process that was killed has left is removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.part"):
            if is_abandoned(left, left.name.removeprefix(f".{path.name}.").removesuffix(".part")):
                _remove(left)
        aside = path.with_name(f".{path.name}.{unfinished_name()}.part")
        try:
            aside.mkdir()
            part = aside / path.name
            part.touch()
            mode = part.stat().st_mode  # what the umask leaves; safetensors makes files of its own
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(mode)
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            _remove(aside)
    except (OSError, SafetensorError) as error:
        reason = (
            f"it cannot be written ({_cause(error)}); make room or rights, then the same call goes "
            "on. What was there before stays"
        )
        raise NotWritable(str(path), reason) from error


def _remove(left: Path) -> None:
    """Remove what is not in its place: a folder, or a file of an earlier version's."""
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can: rows are dropped after this."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cause(error: Exception) -> str:
    """Return what the system said; safetensors has it in a text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    return getattr(error, "strerror", None) or error_line(error)


@attrs.frozen(kw_only=True)
class _Beside:
    """What `tenterhook.json` says; nothing, of a folder that SAELens wrote."""

    format: int = FORMAT
    architecture: str | None = attrs.field(
        default=None, validator=validators.optional(validators.in_(sorted(SAES)))
    )
    settings: dict[str, Any] = attrs.field(factory=dict)
    names: dict[int, str] = attrs.field(factory=dict)
    about: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, folder: Path, where: str) -> "_Beside":
        if not os.path.lexists(folder / OURS):
            return cls()
        found = read_object(folder / OURS, where)
        if found.get("format", FORMAT) != FORMAT:
            later = f"{OURS} is of format {shown(found['format'])}; {FORMAT} is what is read here"
            raise UnreadableSae(where, later)
        architecture = found.get("architecture")
        if isinstance(architecture, str) and architecture not in SAES:
            raise UnknownArchitecture(where, architecture, sorted(SAES))
        try:
            names = found.pop("names", {})
            found["names"] = {latent_number(key): name for key, name in names.items()}
            return structured(cls, found, forbid_extra=False)
        except (ValueError, AttributeError) as error:
            raise UnreadableSae(where, f"{OURS}: {printable(str(error))}") from error


def latent_number(key: str) -> int:
    """Return the number of a latent that a file writes as a key; `ValueError` for what is none."""
    if not key.isascii() or not key.isdigit() or len(key) > 18:
        raise ValueError(f"names: {shown(key)} is no number of a latent")
    return int(key)


def _written_as(architecture: str) -> str:
    """Return what a kind may be in `cfg.json`, beside itself."""
    return "jumprelu" if architecture in BATCH_TOP_K else architecture


def _settings(architecture: str, config: SaeConfig, beside: _Beside, where: str) -> dict[str, Any]:
    """Return what the kind takes beside its sizes."""
    if architecture in ("topk", *BATCH_TOP_K):
        k = beside.settings.get("k") if config.k is None else config.k
        if k is None:
            raise UnreadableSae(where, f"{CONFIG} has no 'k'")
        if architecture == "matryoshka_batchtopk":
            widths = config.more.get("matryoshka_widths", beside.settings.get("widths"))
            return {"k": k, "widths": _up_to(config.n_latents, widths)}
        return {"k": k}
    if architecture in TRANSCODERS:
        if config.center:
            what = "apply_b_dec_to_input=True, and a transcoder takes nothing off its input"
            raise UnreadableSae(where, f"{CONFIG} says {what}.")
        reads = beside.settings.get("reads")
        return {"n_outputs": config.more.get("d_out"), "k": config.k, "reads": reads}
    if architecture == "crosscoder":
        layers, wide = config.more.get("layers"), config.more.get("layer_width")
        if not isinstance(layers, list) or type(wide) is not int:
            raise UnreadableSae(where, f"{CONFIG} has no list of layers with a whole layer_width")
        if len(layers) * wide != config.n_inputs:
            sizes = f"{len(layers)} layers of {wide} features and d_in={config.n_inputs}"
            raise UnreadableSae(where, f"{CONFIG} says {sizes}, which do not go together")
        return {"layer_width": wide, "layers": layers, "k": config.k}
    if architecture == "model_crosscoder":
        widths, models = config.more.get("model_widths"), config.more.get("models")
        if not isinstance(widths, list) or not all(type(each) is int for each in widths):
            raise UnreadableSae(where, f"{CONFIG} has no list of whole 'model_widths'")
        if sum(widths) != config.n_inputs:
            sizes = f"model_widths={widths} and d_in={config.n_inputs}"
            raise UnreadableSae(where, f"{CONFIG} says {sizes}, which do not go together")
        return {"model_widths": widths, "models": models, "k": config.k}
    if architecture == "jumprelu":
        width = config.more.get("bandwidth", beside.settings.get("bandwidth"))
        return {} if width is None else {"bandwidth": width}
    return {}


def _hook_names(sae: Sae) -> dict[str, Any]:
    """Return the layers in SAELens's words, where they are known."""
    layer = sae.about.get("layer")
    if layer is None:
        return {}
    if isinstance(sae, Transcoder):
        return {"hook_name": sae.reads or f"{layer}:input", "hook_name_out": layer}
    return {"hook_name": layer}


def _up_to(n_latents: int, widths: Any) -> Any:
    """Return the widths of dictionaries within one another, all latents among them.

    SAELens lets its users leave the last one out, and adds it.
    """
    if isinstance(widths, list) and widths and widths[-1] != n_latents:
        return [*widths, n_latents]
    return widths


def _check_shapes(file: WeightFile, architecture: str, config: SaeConfig) -> None:
    """Raise `UnreadableSae` unless the weights are those of an SAE of the config's sizes."""
    latents, inputs = config.n_latents, config.n_inputs
    outputs: Any
    expected: dict[str, list[tuple[Any, ...]]] = {
        "W_enc": [(inputs, latents)],
        "W_dec": [(latents, inputs)],
        "b_enc": [(latents,)],
        "b_dec": [(inputs,)],
    }
    if architecture in TRANSCODERS:
        outputs = config.more.get("d_out")
        if type(outputs) is not int or not 1 <= outputs <= WIDEST:
            what = f"{CONFIG} has no whole number 'd_out', 1 or more and {WIDEST:,} at most"
            raise UnreadableSae(file.where, what)
        expected |= {"W_dec": [(latents, outputs)], "b_dec": [(outputs,)]}
        if architecture == "skip_transcoder":
            expected["W_skip"] = [(outputs, inputs)]
    if architecture == "jumprelu":
        expected["threshold"] = [(latents,)]
    elif architecture == "model_crosscoder":
        expected |= {"threshold": [()], "sizes": [(2,)]}
    elif architecture == "gated":
        expected["b_gate"] = expected.pop("b_enc")
        expected |= {"b_mag": [(latents,)], "r_mag": [(latents,)]}
    elif architecture in BATCH_TOP_K:
        name = "topk_threshold" if "topk_threshold" in file.stored else "threshold"
        expected[name] = [(latents,), (), (1,)] if name == "threshold" else [(), (1,)]
    found = {name: each.shape for name, each in file.stored.items() if name != UNUSED}
    if found.keys() != expected.keys() or any(found[n] not in expected[n] for n in found):
        wanted = {name: shapes[0] for name, shapes in expected.items()}
        reason = (
            f"{WEIGHTS} holds {_described(found)}; {SAES[architecture].__name__} of these sizes "
            f"has {_described(wanted)}"
        )
        raise UnreadableSae(file.where, reason)
    for name, each in file.stored.items():
        if not each.dtype.is_floating_point:
            what = f"{WEIGHTS}: {shown(name)} is in {each.dtype}, which is no floating dtype"
            raise UnreadableSae(file.where, what)


def _with_one_threshold(weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return a BatchTopK's weights with its threshold as we have it: one number, -1 for none.

    `None` where latents have thresholds of their own, so that it is no BatchTopK any more.
    """
    found = dict(weights)
    if "topk_threshold" in found:  # of SAELens in training, where 0 says that it has none yet
        one = found.pop("topk_threshold").double().reshape(-1)[0]
        found["threshold"] = one if one > 0 else torch.full_like(one, -1.0)
        return found
    each = found["threshold"].double().reshape(-1)
    found["threshold"] = each[0]
    return found if bool((each == each[0]).all()) and each[0] >= 0 else None


def _with_unit_decoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that do with a decoder of unit rows what these do by its rows' lengths."""
    length = weights["W_dec"].norm(dim=1)
    folded = {
        "W_dec": weights["W_dec"] / torch.where(length > 0, length, 1)[:, None],
        "W_enc": weights["W_enc"] * length,
        **{n: weights[n] * length for n in ("b_enc", "b_gate", "b_mag") if n in weights},
    }
    return {**weights, **folded}


def _described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    said = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    return printable(said) or "nothing"
