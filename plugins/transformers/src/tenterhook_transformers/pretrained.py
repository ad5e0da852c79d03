"""Models and tokenizers from a folder or the Hugging Face hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import nn

from tenterhook_transformers.errors import BadLoadOption, MissingWeights, UnknownModel
from tenterhook_transformers.hub import checked_name, folders_like, hub_is_out_of_reach
from tenterhook_transformers.large_models import as_transformers_takes_them

_SHARED = (
    "revision",
    "trust_remote_code",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "proxies",
    "subfolder",
)
"""What holds for the config, the weights and the tokenizer alike."""

_OF_TOKENIZERS = ("*token*", "vocab*", "merges*", "*spiece*", "*sentencepiece*", "*.tiktoken")
"""What files of a tokenizer are called, whatever its kind. `special_tokens_map.json` is one."""


def load_parts(
    name_or_path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """Return a model, in eval mode, and its tokenizer; see `LanguageModel.from_pretrained`.

    The tokenizer is `None` where the folder has no file of one.
    """
    import transformers

    wanted_dtype, place = _dtype(dtype), _device(device)
    name = checked_name(name_or_path)
    if "local_files_only" not in options and not Path(name).is_dir() and hub_is_out_of_reach():
        options["local_files_only"] = True
    if options.get("trust_remote_code") is None:
        # Told nothing, transformers asks on stdin, and runs a folder's code where it hears "y".
        options["trust_remote_code"] = False
    shared = {key: options[key] for key in _SHARED if options.get(key) is not None}
    with _errors_of(name, "config"):
        config = options.pop("config", None)
        config = config or transformers.AutoConfig.from_pretrained(name, **shared)
    if tokenizer is None or isinstance(tokenizer, str):
        with _errors_of(tokenizer or name, "tokenizer"):
            required = tokenizer is not None
            tokenizer = load_tokenizer(tokenizer or name, required=required, **shared)
    with _errors_of(name, "weights"):
        options, place = as_transformers_takes_them(options, place)
        module, missing = _load_weights(name, config, dtype=wanted_dtype, **options)
    if missing:
        _warn_of_missing(name, missing)
    if place is not None:
        module = _moved(module, place)
    return module.eval(), tokenizer


def load_tokenizer(name: str, *, required: bool, **options: Any) -> Any:
    """Return the tokenizer; `None` where there is no file of one and none is required."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except Exception:
        # Not of a narrower kind: tokenizers, sentencepiece and the hub each raise their own.
        if required or _has_tokenizer(name, **options):
            raise
        return None
    # Of some families one is made without any files, and knows no words.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        if required or _has_tokenizer(name, **options):
            raise ValueError("it knows no words; pass tokenizer=")
        return None
    return tokenizer


def _has_tokenizer(name: str, **options: Any) -> bool:
    """Whether the folder has a file of a tokenizer, or the part of the hub that was fetched."""
    from transformers.utils.hub import cached_file

    where = {key: value for key, value in options.items() if key != "trust_remote_code"}
    config = cached_file(name, "config.json", **where)
    folder = Path(str(config)).parent
    return any(any(folder.glob(pattern)) for pattern in _OF_TOKENIZERS)


def _load_weights(name: str, config: Any, **options: Any) -> tuple[nn.Module, list[str]]:
    """Return the model, and which of its weights the checkpoint lacks."""
    for auto in _auto_classes(config):
        try:
            with _no_bars():
                module, info = auto.from_pretrained(
                    name, config=config, output_loading_info=True, **options
                )
        except (ValueError, ImportError) as error:
            if "Unrecognized configuration class" in str(error):
                continue
            wanted = options.get("attn_implementation")
            if (
                wanted is not None
                and "attention" in str(error).replace("attn", "attention").lower()
            ):
                raise BadLoadOption(
                    f"attn_implementation={wanted!r}: {_first_line(error)}"
                ) from None
            raise
        return module, sorted(info.get("missing_keys") or ())
    raise ValueError(f"transformers has no language model for {type(config).__name__}")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing on stderr, which is the caller's."""
    from transformers.utils import logging as shown_logging

    logging: Any = shown_logging  # its functions have no types

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _auto_classes(config: Any) -> list[Any]:
    """Return what may make the model, best first, going by the architecture the config names."""
    import transformers

    causal, masked, bare = (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForMaskedLM,
        transformers.AutoModel,
    )
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if "ForMaskedLM" in architecture or "ForPreTraining" in architecture:
        return [masked, causal, bare]
    if architecture.endswith("Model") and "LMHead" not in architecture:
        return [bare]
    if getattr(config, "is_encoder_decoder", False):
        return [transformers.AutoModelForSeq2SeqLM, bare]
    return [causal, masked, bare]


def _warn_of_missing(name: str, missing: list[str]) -> None:
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    warn(
        f"{name!r} lacks {len(missing)} weights of the model ({shown}), which are random now.",
        MissingWeights,
        stacklevel=4,
    )


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise BadLoadOption(f"device={str(device)!r}: {_first_line(error)}") from None


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype or "auto"
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        valid = "'auto', 'float32', 'bfloat16', 'float16', 'float64'"
        raise BadLoadOption(f"dtype={dtype!r} is not a dtype of torch. Usual ones: {valid}.")
    return found


def _device(device: torch.device | str | None) -> torch.device | None:
    """Return the device after a look whether it is there: before the weights are read."""
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, ImportError) as error:  # as it takes the kind to be
        why = _first_line(error).partition(". ")[0].rstrip(".")  # what follows is for torch's own
        raise BadLoadOption(
            f"device={device!r} is not there: {why}. There is {_devices()}; "
            "without a device the model runs on the CPU."
        ) from None
    return place


def _devices() -> str:
    """Return the devices that torch finds, as they are given."""
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        names += [f"{kind}:{at}" for at in range(torch.accelerator.device_count())]
    return ", ".join(map(repr, names))


# --- what goes wrong


@contextmanager
def _errors_of(name: str, part: str) -> Iterator[None]:
    """Turn what transformers and the hub raise into one error with the way out."""
    try:
        yield
    except (UnknownModel, BadLoadOption, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - of the hub, of safetensors, of remote code
        raise _unknown(name, part, error) from None


def _unknown(name: str, part: str, error: BaseException) -> UnknownModel:
    causes = {type(each).__name__ for each in _chain(error)}
    if any("trust_remote_code" in str(each) for each in _chain(error)):
        return UnknownModel(
            name,
            f"its {part} needs code that comes with it, which is not run unless you say so",
            "Read the code, and if you trust it pass trust_remote_code=True to "
            "LanguageModel.from_pretrained.",
        )
    if Path(name).is_dir():
        return UnknownModel(name, f"its {part} cannot be loaded: {_first_line(error)}")
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return UnknownModel(name, *_offline(name))
    if "GatedRepoError" in causes:
        return UnknownModel(
            name,
            "the hub gives it only to accounts that were let in",
            f"Ask at https://huggingface.co/{name}, then log in: `hf auth login`.",
        )
    if "RevisionNotFoundError" in causes:
        return UnknownModel(name, "it has no such revision", f"See https://huggingface.co/{name}.")
    if causes & {"RepositoryNotFoundError", "HFValidationError"}:
        near = folders_like(Path(name))
        return UnknownModel(
            name,
            "there is no such folder, and no such model on the hub",
            f"Private ones need `hf auth login`. {near}".rstrip(),
        )
    return UnknownModel(name, f"its {part} cannot be loaded: {_first_line(error)}")


def _offline(name: str) -> tuple[str, str]:
    offline = hub_is_out_of_reach()
    why = "the hub is out of reach" if offline else "it is not wholly in the cache"
    if os.environ.get("HF_HUB_OFFLINE"):
        why = "HF_HUB_OFFLINE keeps from asking the hub"
    near = folders_like(Path(name))
    return (
        f"there is no such folder, it is not in the cache, and {why}",
        f"Give a folder, load it once with a network, or use 'tiny:', which needs none. {near}",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."
