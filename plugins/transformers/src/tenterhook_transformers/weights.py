"""The bytes of a model, hashed wherever they lie.

Two hashes: of all that `state_dict` saves, and of the buffers that it leaves out. Tensors are read
where they are: on any device, in the parts of a subclass that quantises or shards, in the packed
parameters and extra state of a module, and of a model that accelerate offloads in memory or on the
disk where its hooks keep them.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import torch
from torch import Tensor, nn

THREADS = 16
"""Tensors hashed at once, at most: each is copied where it is not in memory of the CPU."""

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_BITS = 10
"""Bits that count of a float in a buffer that is computed and not loaded."""


@attrs.frozen(eq=False)
class _Offloaded:
    """A weight that is read when its turn comes."""

    weights: Mapping[str, Any]
    name: str
    size: int


@attrs.frozen(eq=False)
class _Hashed:
    """A weight that was put together, hashed and dropped."""

    kind: str
    digest: bytes


def weights_fingerprint(module: nn.Module) -> str | None:
    """Return the sha256 of all weights: names, dtypes, shapes and every byte.

    Computed at each call, for a weight can change without torch's knowing (`.data`); a model of
    1 GB takes about a second. Of a model that is sharded all processes call it together, since
    each has but its part. `None` where weights are not to be had (the meta device).
    """
    state = {name: _gathered(value) for name, value in sorted(module.state_dict().items())}
    on_meta = [n for n, value in state.items() if isinstance(value, Tensor) and value.is_meta]
    if on_meta:
        offloaded = _offloaded(module)
        if not offloaded.keys() >= {*on_meta}:
            return None
        state |= {name: offloaded[name] for name in on_meta}
    return _total(of_all_stages(module, _hashes(state)))


def buffers_fingerprint(module: nn.Module) -> str | None:
    """Return the sha256 of the buffers that `state_dict` leaves out; `None` where there are none.

    They are computed when a model is made, by each machine and device with last bits of its own,
    so the leading bits of floats are what counts. What a forward fills or replaces is left out:
    caches, and the frequencies that a rotary embedding scales by the text it sees, of which those
    that it began with count.
    """
    found: dict[str, Any] = {}
    for path, inner in module.named_modules():
        for name, buffer in inner.named_buffers(recurse=False, remove_duplicate=False):
            is_saved = name not in inner._non_persistent_buffers_set
            if is_saved or buffer.is_meta or "cache" in name or _follows_the_text(inner, name):
                continue
            found[f"{path}.{name}"] = _leading(buffer)
    return _total(_hashes(found)) if found else None


def of_all_stages(module: nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    """Return what the stages of a pipeline have, by name; of any other model what was found.

    All processes of the pipeline call it together.
    """
    stage: Any = getattr(module, "_pp_stage", None)
    if stage is None or stage.pp_size == 1:
        return found
    parts: list[Any] = [None] * stage.pp_size
    torch.distributed.all_gather_object(parts, found, group=stage.pp_group)
    return {name: value for part in parts for name, value in part.items()}


def packed_dtypes(module: nn.Module) -> set[torch.dtype]:
    """Return the dtypes of weights that `torch.ao` has packed, as `qint8`."""
    packed = (getattr(each, "_packed_params", None) for each in module.modules())
    found = {getattr(each, "dtype", None) for each in packed}
    return {each for each in found if isinstance(each, torch.dtype)}


def _follows_the_text(module: nn.Module, name: str) -> bool:
    """Whether a buffer is the frequencies that `dynamic` and `longrope` change in a forward."""
    kinds = str(getattr(module, "rope_type", ""))
    return name.endswith("inv_freq") and "original" not in name and _is_dynamic(kinds)


def _is_dynamic(kinds: str) -> bool:
    return "dynamic" in kinds or "longrope" in kinds


def _leading(tensor: Tensor) -> Tensor:
    """Return floats without the bits in which machines that compute them may differ."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        return tensor
    part, exponent = torch.frexp(tensor.detach().cpu().double().nan_to_num())
    return torch.ldexp((part * 2**_BITS).round(), exponent)


# --- where they are


def _offloaded(module: nn.Module) -> dict[str, _Offloaded]:
    """Return the weights that hooks of accelerate keep, in memory or on the disk, by name."""
    found: dict[str, _Offloaded] = {}
    for path, inner in module.named_modules():
        hook = getattr(inner, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            weights = getattr(each, "weights_map", None)
            if weights is None:
                continue
            for name, tensor in _named_tensors(inner, inside=each.place_submodules):
                size = tensor.numel() * tensor.element_size()
                found[f"{path}.{name}" if path else name] = _Offloaded(weights, name, size)
    return found


def _named_tensors(module: nn.Module, *, inside: bool) -> list[tuple[str, Tensor]]:
    settings: dict[str, Any] = {"recurse": inside, "remove_duplicate": False}
    return [*module.named_parameters(**settings), *module.named_buffers(**settings)]


def _gathered(value: Any) -> Any:
    """Return a value; of one that is sharded the hash of the whole, one at a time in memory.

    All processes put it together in step, so no thread pool does it.
    """
    gather = getattr(value, "full_tensor", None)
    if not isinstance(value, Tensor) or not callable(gather):
        return value
    return _Hashed(*_described(gather()))


# --- hashing


def _hashes(values: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Hash values side by side (hashing lets go of the interpreter), tied ones once."""
    places = {name: _place(name, value) for name, value in values.items()}
    once = {place: values[name] for name, place in places.items()}
    # The largest first, so that none is left for one thread while the others have no more to do.
    once = dict(sorted(once.items(), key=lambda item: -_size(item[1])))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        hashed = dict(zip(once, pool.map(_described, once.values()), strict=True))
    return {name: hashed[place] for name, place in places.items()}


def _total(hashes: Mapping[str, tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for name in sorted(hashes):
        kind, digest = hashes[name]
        total.update(f"{name}\0{kind}\0".encode())
        total.update(digest)
    return total.hexdigest()


def _place(name: str, value: Any) -> Any:
    """Return what all names of one tensor share; of anything else its name."""
    if type(value) not in _PLAIN or value.layout is not torch.strided or not value.numel():
        return name
    return value.device, value.data_ptr(), value.shape, value.stride(), value.dtype


def _size(value: Any) -> int:
    if isinstance(value, _Offloaded):
        return value.size
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _described(value: Any) -> tuple[str, bytes]:
    """Return a value's kind, of a tensor its dtype and shape, and the hash of what it holds."""
    if isinstance(value, _Hashed):
        return value.kind, value.digest
    if isinstance(value, _Offloaded):
        value = value.weights[value.name]
    if isinstance(value, Tensor):
        return f"{value.dtype}\0{list(value.shape)}", _digest(value)
    total = hashlib.sha256()
    _add(total, value)
    return type(value).__name__, total.digest()


def _digest(tensor: Tensor) -> bytes:
    tensor = tensor.detach()
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None and type(tensor) not in _PLAIN:
        # What a subclass is made of, as torch.compile takes it apart: the numbers and the scales.
        names, settings = flatten()
        parts = {name: getattr(tensor, name) for name in names}
        return _described([type(tensor).__qualname__, parts, settings])[1]
    if tensor.is_quantized:
        return _described(_quantized(tensor))[1]
    if tensor.layout is not torch.strided:
        return _described([str(tensor.layout), _sparse(tensor)])[1]
    content = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).digest()


def _quantized(tensor: Tensor) -> list[Any]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale: Any = [tensor.q_scale(), tensor.q_zero_point()]
    else:
        places = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        scale = [*places, tensor.q_per_channel_axis()]
    return [tensor.int_repr(), scale]


def _sparse(tensor: Tensor) -> list[Tensor]:
    if tensor.layout is torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.to_dense()]


def _add(total: "hashlib._Hash", value: Any) -> None:
    """Add any value to a hash, parts by parts: extra state and packed parameters may be any."""
    total.update(f"{type(value).__name__}\0".encode())
    if isinstance(value, Tensor):
        kind, digest = _described(value)
        total.update(kind.encode() + digest)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            total.update(f"{key}\0".encode())
            _add(total, value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            _add(total, each)
    elif isinstance(value, bytes | bytearray):
        total.update(value)
    elif isinstance(value, io.BytesIO):
        total.update(value.getvalue())
    elif isinstance(value, torch.ScriptObject):
        _add(total, value.__getstate__())
    elif isinstance(value, str | int | float | complex | torch.dtype | torch.device | None):
        total.update(f"{value!r}\0".encode())
    else:
        total.update(pickle.dumps(value))
