"""A language model of a few thousand weights, as engines run it and as everybody else does.

Both ways call the same modules on `(..., features)`. `forward` takes a batch of whole texts, and
each point is a module that hooks can be put on. `step` takes one flat batch of rows whose keys and
values lie in slots of a cache. In float64 the two differ by rounding alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenterhook_vllm.points import ServedPoints

At = Callable[[str, Tensor], Tensor]
"""Called with each point and its rows; returns what the model goes on with."""

WIDTH, HEADS, BLOCKS, VOCABULARY, LONGEST = 16, 2, 2, 32, 256


def tiny_points() -> ServedPoints:
    """Return the points of a `TinyModel`, in their order."""
    kinds = ("attn_out", "mlp_out", "resid_post")
    widths = {f"{kind}.{at}": WIDTH for at in range(BLOCKS) for kind in kinds}
    return ServedPoints({**widths, "logits": VOCABULARY}, torch.float64)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)


class TinyModel(nn.Module):
    """A decoder of two blocks, in float64; the same weights for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.places = nn.Embedding(LONGEST, WIDTH)
            self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
            self.head = nn.Linear(WIDTH, VOCABULARY)
        for name in ("attn_out", "mlp_out", "resid_post"):
            self.add_module(name, nn.ModuleList(nn.Identity() for _ in range(BLOCKS)))
        self.logits = nn.Identity()
        self.double().requires_grad_(False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits of whole texts `(batch, seq)`."""
        seq = input_ids.shape[1]
        causal = torch.ones(seq, seq, dtype=torch.bool).tril()

        def attend(at: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (_heads(each) for each in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
            return mixed.transpose(1, 2).flatten(2)

        def at(point: str, rows: Tensor) -> Tensor:
            there: Tensor = self.get_submodule(point)(rows)
            return there

        return self._run(input_ids, torch.arange(seq), attend, at)

    def step(
        self,
        ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        contexts: Sequence[tuple[slice, Tensor]],
        cache: Tensor,
        at: At,
    ) -> Tensor:
        """Return the logits of a flat batch, `(rows, vocabulary)`.

        `slots` are where each row's key and value go in `cache`, `(blocks, 2, slots, features)`;
        `contexts` have for each request its rows and the slots of its text up to the last of them.
        """

        def attend(block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache[block]
            keys[slots], values[slots] = k, v
            out = torch.zeros_like(q)  # padded rows attend to nothing
            for rows, context in contexts:
                mine, key, value = (
                    _heads(each) for each in (q[rows], keys[context], values[context])
                )
                seen = positions[rows][:, None] >= torch.arange(len(context))
                mixed = F.scaled_dot_product_attention(mine, key, value, attn_mask=seen)
                out[rows] = mixed.transpose(0, 1).flatten(1)
            return out

        return self._run(ids, positions, attend, at)

    def _run(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
        at: At,
    ) -> Tensor:
        x = self.tokens(ids) + self.places(positions)
        block: Any
        for number, block in enumerate(self.blocks):
            q, k, v = block.qkv(block.attn_norm(x)).chunk(3, -1)
            x = x + at(f"attn_out.{number}", block.out(attend(number, q, k, v)))
            x = x + at(f"mlp_out.{number}", block.down(F.silu(block.up(block.mlp_norm(x)))))
            x = at(f"resid_post.{number}", x)
        return at("logits", self.head(x))


def _heads(rows: Tensor) -> Tensor:
    """Return `(..., heads, rows, features)` of rows `(..., rows, features)`."""
    return rows.reshape(*rows.shape[:-1], HEADS, -1).transpose(-3, -2)
