"""What the points of a model saw in one run: tensors by name, and across blocks."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from tenterhook_hook_points.errors import AmbiguousName, UnknownActivation
from tenterhook_hook_points.names import NamesFilter, chosen
from tenterhook_hook_points.residual import StreamParts
from tenterhook_hook_points.spellings import other_spellings, part_of_block

if TYPE_CHECKING:
    from tenterhook_store import Store


class ActivationCache(StreamParts):
    """What the points saw, by name: a dictionary, which also takes short names.

    A short name is the end of a name, with or without `hook_`: of `blocks.3.attn.hook_q`, `q` and
    `attn.hook_q`. `cache["q", 3]` is that of block 3, `cache["q", -1]` that of the last block
    there is, and `cache["embed"]` a point that is in no block. Names may be spelled as other
    libraries have them: `cache["attn", 3]` is a pattern. Only full names are `in` it.

    Of a run of a `HookedTransformer` it also takes the residual stream apart, and says what each
    part adds to a logit: `decompose_resid`, `logit_attrs` and their like. Their tensors are new.
    """

    def __init__(
        self,
        cache_dict: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (),
        model: Any = None,
        has_batch_dim: bool = True,
    ) -> None:
        """Of tensors by full name, any shapes and dtypes; they are not copied."""
        super().__init__(cache_dict)
        self.model = model
        """The model whose points these are, where it is known; no pickle or deep copy has it."""
        self.has_batch_dim = has_batch_dim
        """Whether the first axis of each tensor is the batch."""

    @property
    def names(self) -> list[str]:
        """The names, in the order in which the points ran."""
        return list(self)

    @property
    def layers(self) -> list[int]:
        """The numbers of the blocks that something is here of, ascending."""
        return sorted({block for name in self if (block := _split(name)[0]) is not None})

    def __missing__(self, key: Any) -> Tensor:
        """Look up a short name: `"embed"`, `("resid_post", 3)`, `("scale", 0, "ln1")`.

        Raises `UnknownActivation`, `AmbiguousName`, each a `KeyError`.
        """
        if isinstance(key, str):
            for spelling in other_spellings(key):
                if spelling in self:
                    return self[spelling]
        parts = key if isinstance(key, tuple) else (key, None)
        if len(parts) not in (2, 3) or not isinstance(parts[0], str):
            raise UnknownActivation(key, self)
        name, block = parts[0], parts[1]
        part = "" if len(parts) < 3 or parts[2] is None else part_of_block(str(parts[2]))
        short = f"{part}.{name}" if part else name
        if isinstance(block, int) and block < 0 and -block <= len(self.layers):
            block = self.layers[block]
        for spelling in (short, *other_spellings(short)):
            found = [each for each in self if _split(each)[0] == block and _means(spelling, each)]
            if len(found) > 1:
                raise AmbiguousName(key, found)
            if found:
                return self[found[0]]
        raise UnknownActivation(key, self)

    def stack(self, name: str) -> Tensor:
        """Return a point of every block as one tensor, `(blocks, ...)`, in the order of `layers`.

        `name` is what follows the block's number, or a short name: `"resid_post"`, `"attn.hook_q"`,
        `"resid_post_grad"`. The tensor is new.

        Raises `UnknownActivation`, `AmbiguousName`; `ValueError` where the shapes differ.
        """
        found: dict[int, list[str]] = {}
        for spelling in (name, *other_spellings(name)):
            for each in () if found else self:
                block = _split(each)[0]
                if block is not None and _means(spelling, each):
                    found.setdefault(block, []).append(each)
        if not found:
            raise UnknownActivation(name, self)
        for names in found.values():
            if len(names) > 1:
                raise AmbiguousName(name, [_split(each)[1] for each in names])
        tensors = {found[block][0]: self[found[block][0]] for block in sorted(found)}
        if len({tensor.shape for tensor in tensors.values()}) > 1:
            shapes = ", ".join(f"{each} {tuple(t.shape)}" for each, t in tensors.items())
            raise ValueError(f"These have several shapes, so they cannot be stacked: {shapes}.")
        return torch.stack(list(tensors.values()))

    stack_activation = stack

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor to a device, or cast those of floating point; return the cache itself.

        Takes what `Tensor.to` takes: `cache.to("cpu")`, `cache.to(torch.float16)`.
        """
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        for name, tensor in self.items():
            to = dtype if tensor.is_floating_point() or tensor.is_complex() else None
            self[name] = tensor.to(device, to, non_blocking)
        return self

    def remove_batch_dim(self) -> Self:
        """Take the first axis from every tensor, a batch of one; return the cache itself.

        Does nothing where that was done. Raises `ValueError` for another batch, and changes
        nothing then.
        """
        from tenterhook_hook_points.caching import without_batch

        if self.has_batch_dim:
            self.update({name: without_batch(name, tensor) for name, tensor in self.items()})
            self.has_batch_dim = False
        return self

    def save(
        self,
        store: "Store",
        run_name: str,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        names_filter: NamesFilter = None,
    ) -> str:
        """Keep the cache as a run of a store, a row for each token; return the run's id.

        Tensors are `(batch, seq, ...)`, or `(seq, ...)` without the batch axis; further axes, as
        those of heads, become one, and `run.metadata["shapes"]` says what they were. `tokens` are
        the ids, `(batch, seq)`; without them -1 is written. `mask` is true at the tokens to keep,
        all by default. A run that is there already is left as it is where it holds the same.

        Raises `UnknownHookPoint`; `ValueError` for tensors of other shapes, naming them, and for
        nothing to save; what `store.write_run` raises, `OtherRun` for another run of that name.
        """
        from tenterhook_hook_points.saving import save

        picked = {name: self[name] for name in chosen(names_filter, self)}
        return save(picked, store, run_name, tokens=tokens, mask=mask, batched=self.has_batch_dim)

    def copy(self) -> "ActivationCache":
        """Return another cache of the same tensors."""
        return ActivationCache(self, self.model, self.has_batch_dim)

    __copy__ = copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def __repr__(self) -> str:
        size = sum(tensor.nbytes for tensor in self.values())
        kinds = Counter(_split(name)[1] for name in self)
        shown = ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in kinds.items())
        return f"ActivationCache({len(self)} tensors, {size:,} bytes: {shown})"


def _split(name: str) -> tuple[int | None, str]:
    """Return the block's number and what follows it; `None` and the name where it has none."""
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdecimal():
            return int(part), ".".join(parts[at + 1 :])
    return None, name


def _means(short: str, name: str) -> bool:
    """Whether a short name, with or without `hook_`, is the end of a name."""
    rest = _split(name)[1].split(".")
    want = short.split(".")
    end = rest[-len(want) :]
    return end[:-1] == want[:-1] and end[-1] in (want[-1], f"hook_{want[-1]}")
