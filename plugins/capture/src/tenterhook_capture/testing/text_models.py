"""A small real model that reads text, with no tokenizer to download."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tenterhook.model import HookedModel
from tenterhook_store import dtype_name

WORDS = 97


class Block(nn.Module):
    """Mixes each token with the mean of those before it, then each by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take `(batch, seq, width)` and the mask of real tokens; return the same, and the mean."""
        real = mask[..., None].to(x.dtype)
        mean = (x * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        x = x + self.mix(mean)
        return x + self.mlp(x), mean


class WordLM(nn.Module):
    """Embeds words, runs blocks, gives logits."""

    def __init__(self, width: int = 12, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, WORDS)
        self.pooled = nn.Linear(width, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Take int64 `(batch, seq)` and the mask of real tokens; return `(batch, seq, WORDS)`."""
        x = self.embed(ids)
        for block in self.blocks:
            x, _ = block(x, mask)
        self.pooled(x.mean(1))  # a layer without a row per token
        logits: Tensor = self.head(x)
        return logits


class WordModel(HookedModel):
    """A `tenterhook_capture.text_model.TextModel`: a seeded model whose tokens are words.

    Small, on the CPU, the same weights each time. Padding is on either side; a document's rows
    do not depend on it but for rounding.
    """

    def __init__(
        self,
        *,
        padding: Literal["left", "right"] = "right",
        dtype: torch.dtype = torch.float32,
        max_tokens: int | None = 16,
        width: int = 12,
        seed: int = 0,
    ) -> None:
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        module = WordLM(width).to(dtype).eval()
        torch.random.set_rng_state(state)
        super().__init__(module, model_id=f"words-{seed}")
        self.padding = padding
        self.max_tokens = max_tokens
        self.batches: list[list[int]] = []
        """The lengths of the documents of each forward so far."""

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return an id per word, from 1."""
        return [[1 + _hash(word) % (WORDS - 1) for word in text.split()] for text in texts]

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """Pad with 0, run one forward, return the mask of real tokens."""
        longest = max(map(len, documents))
        ids = torch.zeros(len(documents), longest, dtype=torch.int64)
        mask = torch.zeros(len(documents), longest, dtype=torch.bool)
        for row, document in enumerate(documents):
            start = longest - len(document) if self.padding == "left" else 0
            ids[row, start : start + len(document)] = torch.tensor(document)
            mask[row, start : start + len(document)] = True
        self.batches.append([len(document) for document in documents])
        with torch.no_grad():
            self(ids, mask)  # not the module, so that a scope may end the forward
        return mask

    def describe_model(self) -> dict[str, Any]:
        """Say what it is: a fingerprint of its weights and what else its rows follow from."""
        digest = hashlib.sha256()
        for name, weight in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
        return {
            "name": self.context.model_id,
            "class": type(self.module).__name__,
            "weights": digest.hexdigest(),
            "dtype": dtype_name(self.context.dtype),
            "padding": self.padding,
            "tokenizer": "words",
            "device": str(self.context.device),
        }


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
