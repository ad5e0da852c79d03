"""Direct logit attribution: what each attention and each MLP adds to one logit by itself.

The residual stream before the final norm is a sum, and the unembedding is linear. Between them the
norm divides by a number, which is held at what it was, so that the parts of the logit add up to it.
How a block adds up and how the norm works is not looked up by family: it is tried against what the
model returned, and refused where it does not come true.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from tenterhook.errors import UnknownLayer
from tenterhook_analysis.errors import NoReadout, NoSuchPosition, NotASum
from tenterhook_analysis.grids import Grid
from tenterhook_analysis.lens import strings_of
from tenterhook_analysis.results import Array, Result
from tenterhook_transformers.families import unwrapped
from tenterhook_transformers.language_model import LanguageModel


@final
@attrs.frozen(eq=False, kw_only=True)
class LogitAttribution(Result):
    """The parts of one logit; see `direct_logit_attribution`."""

    token: int
    token_text: str
    position: int
    logit: float
    """What the parts add up to; the model's logit, before a cap where it has one."""
    components: tuple[str, ...]
    """`embed`, `attn_out.N` and `mlp_out.N` of each block, and `bias`."""
    values: Tensor
    """float64 `[component]`."""
    heads: Tensor | None
    """float64 `[block, head]`: what each head adds, its attention's bias left out; `None` where the
    heads cannot be told apart, as without the plugin interiors."""

    def __getitem__(self, component: str) -> float:
        return float(self.values[self.components.index(component)])

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """The components."""
        return {"component": self.components}

    @property
    def arrays(self) -> Mapping[str, Array]:
        """What each adds to the logit."""
        return {"value": Array(self.values, ("component",))}

    def grid(self) -> Grid:
        """Return heads by block where they are known, beside attention and MLP."""
        blocks = (len(self.components) - 2) // 2
        parts = self.values[1:-1].reshape(blocks, 2)
        columns = ["attention", "MLP"]
        if self.heads is not None:
            columns += [f"head {at}" for at in range(self.heads.shape[1])]
            parts = torch.cat([parts, self.heads], 1)
        return Grid(
            title=f"Logit of {self.token_text!r}: {self.logit:.3g}, of which embed "
            f"{self['embed']:.3g} and bias {self['bias']:.3g}",
            rows=[f"block {at}" for at in range(blocks)][::-1],
            columns=columns,
            values=parts.flip(0),
            value_name="adds",
        )

    def __repr__(self) -> str:
        parts = f"{len(self.components)} components"
        return f"LogitAttribution({self.token_text!r}, logit={self.logit:.4g}, {parts})"


def direct_logit_attribution(
    lm: LanguageModel, text: str, token: str | int, *, position: int = -1
) -> LogitAttribution:
    """Say what the embedding, each attention and each MLP adds to the logit of `token`.

    `token` is a text of one token, as `" the"`, or an id; the logit is that at `position` of the
    text. With the plugin interiors, attention is also told apart by head.

    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits". Cost: one
    forward, in which every layer inside the blocks is looked at where there are heads to tell.

    Raises `NotASum` (a `ValueError`) for a model whose blocks or norm do not add up, `NoReadout`,
    `NotOneToken`, `NoSuchPosition`, and `UnknownLayer` where no plugin names the attention and the
    MLP of its blocks.
    """
    model: Any = unwrapped(lm.module)
    number = lm.single_token(token) if isinstance(token, str) else int(token)
    index = lm.layers.index
    blocks = index.blocks()
    unembed = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if unembed is None or not blocks:
        raise NoReadout(type(model).__name__, "it has no layer that gives logits")
    count = lm.tokenize([text])["input_ids"].shape[1]
    if not -count <= position < count:
        raise NoSuchPosition(position, count)
    last = next(name for name, each in lm.module.named_modules() if each is unembed)
    seen = _Seen(lm, text, blocks, last)
    norm = Norm.fit(seen.stream, seen.unembedded, _outside(model, blocks, lm))
    if norm is None:
        raise NotASum("what is unembedded", "no norm that is known makes it of the last block's")
    at = position % count
    outputs = seen.logits_before[at].double()
    factor = float((outputs @ seen.logits[at]) / (outputs @ outputs))
    if not _same(factor * outputs, seen.logits[at]):
        factor = 1.0  # a cap: the parts add up to the logit before it
    row = factor * unembed.weight[number].detach().double().cpu()
    names, parts = seen.parts()
    values = [norm.linear(part)[at] @ row for part in parts]
    bias = factor * float(_parameter(unembed, "bias", number)) + float(norm.bias @ row)
    return LogitAttribution(
        token=number,
        token_text=strings_of(lm, [number])[0],
        position=at,
        logit=factor * float(outputs[number]),
        components=(*names, "bias"),
        values=torch.tensor([*map(float, values), bias], dtype=torch.float64),
        heads=_heads(lm, text, seen, norm, at, row),
    )


class _Seen:
    """What one forward of a text gave, `[tokens, features]` each, float64 on the CPU."""

    def __init__(self, lm: LanguageModel, text: str, blocks: list[str], unembed: str) -> None:
        numbers = range(len(blocks))
        self.added = [(f"attn_out.{at}", f"mlp_out.{at}") for at in numbers]
        both = [lm.layers.index.resolve(name).name for pair in self.added for name in pair]
        with (
            lm.capture(*dict.fromkeys([*both, *blocks, unembed])) as given,
            lm.capture(blocks[0], unembed, inputs=True) as taken,
        ):
            output, _ = lm.inference.execute_inference([text])
        self.begin = _rows(taken.last(blocks[0]))
        self.posts = [_rows(given.last(name)) for name in blocks]
        self.unembedded = _rows(taken.last(unembed))
        self.logits_before = _rows(given.last(unembed))
        self.logits = _rows(output.logits)
        self.pairs = [
            tuple(_rows(given.last(name)) for name in both[2 * at : 2 * at + 2]) for at in numbers
        ]
        self.scales = [self._scale(at) for at in numbers]

    @property
    def stream(self) -> Tensor:
        """What the last block returned."""
        return self.posts[-1]

    def _scale(self, at: int) -> float:
        """Return the factor before what a block adds; `NotASum` where there is none."""
        before = self.posts[at - 1] if at else self.begin
        added = self.posts[at] - before
        together = self.pairs[at][0] + self.pairs[at][1]
        scale = float((added * together).sum() / (together * together).sum().clamp_min(1e-300))
        if not _same(before + scale * together, self.posts[at]):
            raise NotASum(f"block {at}", "what it returns is not what it was given and its parts")
        return scale

    def parts(self) -> tuple[list[str], list[Tensor]]:
        """Return the parts of the stream and their names."""
        names, parts = ["embed"], [self.begin]
        for pair, words, scale in zip(self.pairs, self.added, self.scales, strict=True):
            names += words
            parts += [scale * part for part in pair]
        return names, parts


@attrs.frozen(eq=False)
class Norm:
    """A norm as it was at each token: it centres or does not, scales, and adds a bias."""

    gain: Tensor
    bias: Tensor
    centres: bool
    scale: Tensor
    """`[tokens, 1]`: what it multiplied each token by."""

    def linear(self, part: Tensor) -> Tensor:
        """Return what the norm makes of a part of each token, without the bias."""
        mean = part.mean(-1, keepdim=True) if self.centres else 0.0
        return self.scale * self.gain * (part - mean)

    @classmethod
    def fit(cls, given: Tensor, returned: Tensor, modules: Sequence[nn.Module]) -> "Norm | None":
        """Return the norm that makes one of the other; `None` where none of the modules does.

        A norm of no weight, and none at all, are tried too.
        """
        width = given.shape[1]
        zeros, ones = torch.zeros(width, dtype=torch.float64), torch.ones(width).double()
        if given.shape != returned.shape:
            return None
        if _same(given, returned):
            return cls(ones, zeros, False, torch.ones(len(given), 1).double())
        candidates = [(ones, zeros)]
        for module in modules:
            weight, bias = _parameter(module, "weight"), _parameter(module, "bias")
            if weight.shape == (width,):
                offset = bias if bias.shape == (width,) else zeros
                candidates += [(weight, offset), (1 + weight, offset)]
        for gain, bias in candidates:
            for centres in (False, True):
                norm = cls(gain, bias, centres, torch.ones(len(given), 1).double())
                plain, rest = norm.linear(given), returned - bias
                scale = (plain * rest).sum(1) / (plain * plain).sum(1).clamp_min(1e-300)
                norm = attrs.evolve(norm, scale=scale[:, None])
                if _same(norm.linear(given) + bias, returned):
                    return norm
        return None


def _heads(
    lm: LanguageModel, text: str, seen: _Seen, final: Norm, at: int, row: Tensor
) -> Tensor | None:
    """Return what each head adds; `None` where heads or what comes after them are not known."""
    index = lm.layers.index
    blocks = index.blocks()
    names = [f"z.{block}" for block in range(len(blocks))]
    try:
        for name in names:
            index.resolve(name)
    except UnknownLayer:
        return None
    leaves = {
        name: module
        for name, module in lm.module.named_modules()
        if any(name.startswith(f"{block}.") for block in blocks) and not [*module.children()]
    }
    with (
        lm.capture(*names) as heads,
        lm.capture(*leaves, inputs=True, missing="ignore") as taken,
        lm.capture(*leaves, missing="ignore") as given,
    ):
        lm.inference.execute_inference([text])
    found = []
    for block, name in enumerate(names):
        z = heads.last(name)[0]  # tokens, heads, d_head
        inside = {key: each for key, each in leaves.items() if key.startswith(f"{blocks[block]}.")}
        part = _of_block(z, inside, taken, given, seen.pairs[block][0], at)
        if part is None:
            return None
        found.append(seen.scales[block] * _at(final, part, at) @ row)
    return torch.stack(found) if len({len(each) for each in found}) == 1 else None


def _of_block(
    z: Tensor, inside: Mapping[str, nn.Module], taken: Any, given: Any, attention: Tensor, at: int
) -> Tensor | None:
    """Return what the heads of a block add to the stream at a token, `[heads, features]`."""
    flat = z.flatten(1)
    for name, module in inside.items():
        inputs = taken.get(name)
        if (
            not inputs
            or inputs[-1].shape != (1, *flat.shape)
            or not torch.equal(inputs[-1][0], flat)
        ):
            continue
        projected = _rows(given.last(name))
        norm = Norm.fit(projected, attention, [*inside.values()])
        if norm is None:
            return None
        alone = torch.block_diag(*z[at][:, None]).reshape(len(z[at]), -1)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            forward = type(module).forward  # and none of the hooks that stand there
            made = forward(module, alone) - forward(module, torch.zeros_like(alone[:1]))
        return _at(norm, made.double().cpu(), at)
    return None


def _at(norm: Norm, parts: Tensor, at: int) -> Tensor:
    """Return what a norm makes of several parts of one token, `[parts, features]`."""
    return attrs.evolve(norm, scale=norm.scale[at : at + 1]).linear(parts)


def _outside(model: nn.Module, blocks: list[str], lm: LanguageModel) -> list[nn.Module]:
    """Return the modules that are in no block."""
    inside = {
        id(each) for block in blocks for each in lm.layers.index.resolve(block).module.modules()
    }
    return [each for each in model.modules() if id(each) not in inside]


def _parameter(module: nn.Module, name: str, at: int | None = None) -> Tensor:
    """Return a parameter in float64, or one number of it; zero where there is none."""
    found = getattr(module, name, None)
    if not isinstance(found, Tensor):
        return torch.zeros((), dtype=torch.float64)
    return (found if at is None else found[at]).detach().double().cpu()


def _rows(tensor: Tensor) -> Tensor:
    """Return what was seen of the one text, `[tokens, features]`."""
    return tensor.reshape(-1, tensor.shape[-1]).double().cpu()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two are the same but for rounding in the model's own dtype."""
    return bool((one - other).norm() <= 1e-2 * other.norm()) and bool(one.isfinite().all())
