"""What models with a full set of hook points have in common: text in and out, and the residual
stream.

`HookedGPT` and `HookedLlama` are such models. A subclass has `W_E` `(vocab, d_model)`, `blocks`,
`ln_final` and `W_U` `(d_model, vocab)`, and says what its embeddings are.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenterhook_hook_points.errors import NoTokenizer, NotOneToken
from tenterhook_hook_points.root import HookedRootModule

_OF_HEADS = ("batch", "tokens", "heads", "features")
_OF_PATTERNS = ("batch", "heads", "tokens", "keys")
_AXES = {
    **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "z", "result"), _OF_HEADS),
    **dict.fromkeys(("scores", "pattern"), _OF_PATTERNS),
}


class HookedTransformer(HookedRootModule):
    """A causal language model whose every step has a name; `model.hook_dict` has them all."""

    batch_first = True
    """Every activation has the batch first: selections of tokens ask."""

    W_E: nn.Parameter
    W_U: nn.Parameter
    blocks: nn.ModuleList
    ln_final: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: Any = None
        """A tokenizer of transformers, for text; `points:` gives the model its own."""
        self.generation_config: Any = None
        """The `GenerationConfig` of the Hugging Face model that it was made of."""

    def setup(self) -> None:
        """Name every submodule, and say which axes of the points are heads and tokens."""
        super().setup()
        for name, point in self.hook_dict.items():
            point.axes = _AXES.get(name.rpartition("hook_")[2])
            if name.endswith("hook_scores"):
                point.absent_key = -math.inf

    @property
    def n_positions(self) -> int:
        """How many tokens a text may have."""
        raise NotImplementedError

    def embedded(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the stream before the first block, `(batch, seq, d_model)`."""
        raise NotImplementedError

    def placed(self, x: Tensor, position_ids: Tensor) -> Any:
        """Return what the blocks are told of where the tokens are; by default nothing."""
        return None

    def forward(
        self,
        input_ids: Tensor | str | Sequence[str],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        loss: bool = False,
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
    ) -> Tensor:
        """Take token ids `(batch, seq)`; return logits `(batch, seq, vocab_size)`.

        A text or several will do, as `to_tokens` has them, padded on the right. `attention_mask` is
        1 at real tokens; with padding on the left give `position_ids` too. With `loss`, return the
        mean cross-entropy of each next token instead, one number. With `stop_at_layer`, return the
        stream before that block, `(batch, seq, d_model)`, and run no further: -1 is the last block,
        as many as there are the end.

        Raises `ValueError` for more tokens than `n_positions` and for a block that is not there.
        """
        if not isinstance(input_ids, Tensor):
            input_ids, attention_mask = self._encoded(input_ids, prepend_bos)
        batch, seq = input_ids.shape
        if seq > self.n_positions:
            raise ValueError(f"{seq} tokens are more than n_positions={self.n_positions}.")
        if position_ids is None:
            position_ids = torch.arange(seq, device=input_ids.device).expand(batch, seq)
        places = torch.arange(seq, device=input_ids.device)
        visible = (places[:, None] >= places).expand(batch, 1, seq, seq)
        if attention_mask is not None:
            visible = visible & attention_mask.bool()[:, None, None, :]
        x = self.embedded(input_ids, position_ids)
        where = self.placed(x, position_ids)
        for block in self.blocks[: self._stop(stop_at_layer, loss)]:
            x = block(x, visible, where)
        if stop_at_layer is not None:
            return x
        logits: Tensor = self.ln_final(x) @ self.W_U
        if not loss:
            return logits
        targets = input_ids[:, 1:]
        if attention_mask is not None:
            targets = targets.masked_fill(attention_mask[:, 1:] == 0, -100)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())

    def _stop(self, layer: int | None, loss: bool) -> int | None:
        count = len(self.blocks)
        if layer is None:
            return None
        if loss:
            raise ValueError("loss=True needs the logits, and stop_at_layer stops before them.")
        if not -count <= layer <= count:
            raise ValueError(f"stop_at_layer={layer}, and there are {count} blocks.")
        return layer if layer >= 0 else count + layer

    # --- text

    def to_tokens(
        self, input: str | Sequence[str], prepend_bos: bool | None = None, truncate: bool = True
    ) -> Tensor:
        """Return the token ids of a text or of several, int64 `(texts, seq)`, padded on the right.

        Special tokens are those that the tokenizer adds. With `prepend_bos=True` there is one at
        the start and no other, with `False` there is none. What is longer than `n_positions` is
        cut, with `truncate=False` kept.

        Raises `NoTokenizer`; `ValueError` where `prepend_bos` asks for a token that is not there.
        """
        ids, _ = self._encoded(input, prepend_bos)
        return ids[:, : self.n_positions] if truncate else ids

    def to_string(self, tokens: Tensor | Sequence[int] | int) -> str | list[str]:
        """Return the text of token ids; of ids `(texts, seq)`, a list."""
        tokens = torch.as_tensor(tokens)
        if tokens.ndim == 2:
            return [self._decode(row.tolist()) for row in tokens]
        return self._decode(tokens.reshape(-1).tolist())

    def to_str_tokens(
        self, input: str | Tensor | Sequence[int] | Sequence[str], prepend_bos: bool | None = None
    ) -> list[str] | list[list[str]]:
        """Return a text's tokens, each as text; a list of lists for several texts.

        Takes a text, texts, ids `(seq,)` or `(1, seq)`, or ids `(texts, seq)`.
        """
        if isinstance(input, str):
            return self._pieces(self._ids(input, prepend_bos))
        if not isinstance(input, Tensor) and any(isinstance(each, str) for each in input):
            return [self._pieces(self._ids(str(text), prepend_bos)) for text in input]
        ids = torch.as_tensor(input)
        if ids.ndim == 2 and len(ids) > 1:
            return [self._pieces(row.tolist()) for row in ids]
        return self._pieces(ids.reshape(-1).tolist())

    def to_single_token(self, string: str) -> int:
        """Return the id of a text that is one token; `NotOneToken`, a `ValueError`, of another."""
        ids = self._ids(string, False)
        if len(ids) != 1:
            raise NotOneToken(string, self._pieces(ids))
        return ids[0]

    def to_single_str_token(self, int_token: int) -> str:
        """Return the text of one token."""
        return self._decode([int(int_token)])

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """Return the columns of `W_U` of tokens, `(..., d_model)`: what raises their logits.

        `tokens` is a token, as text or id, or a tensor of ids of any shape, which gives one vector
        for each. A tensor of one gives `(d_model,)`.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = torch.as_tensor(tokens, device=self.W_U.device)
        columns = self.W_U.detach().T[ids.reshape(-1)]
        return columns[0] if ids.numel() == 1 else columns.reshape(*ids.shape, -1)

    def generate(self, input_ids: Any, *, prepend_bos: bool | None = None, **settings: Any) -> Any:
        """Go on with a text or with ids `(batch, seq)`, by transformers' `generate`.

        `settings` are its own: `max_new_tokens`, `do_sample`, `num_beams`, `attention_mask`, ...
        There is no cache: each step runs the whole text, hooks included. Returns the text, of
        several texts a list; of ids what `generate` returns.
        """
        from tenterhook_hook_points.generating import generate

        if isinstance(input_ids, Tensor):
            return generate(self, input_ids, settings)
        one = isinstance(input_ids, str)
        rows = [self._ids(text, prepend_bos) for text in ([input_ids] if one else input_ids)]
        ids, mask = self._padded(rows, side="left")
        made = generate(self, ids, {"attention_mask": mask, **settings})
        sequences = getattr(made, "sequences", made)
        texts = [self._decode(row.tolist(), skip=True) for row in sequences]
        return texts[0] if one and len(texts) == 1 else texts

    def can_generate(self) -> bool:
        """Whether it can generate: it can."""
        return True

    def _encoded(
        self, texts: str | Sequence[str], prepend_bos: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        return self._padded([self._ids(text, prepend_bos) for text in texts], side="right")

    def _ids(self, text: str, prepend_bos: bool | None) -> list[int]:
        tokenizer = self._tokenizer()
        if prepend_bos is None:
            return [int(id) for id in tokenizer(text)["input_ids"]]
        ids = [int(id) for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
        if not prepend_bos:
            return ids
        found = tokenizer.bos_token_id
        found = tokenizer.eos_token_id if found is None else found
        if found is None:
            raise ValueError("prepend_bos=True, and the tokenizer has no bos_token, nor eos_token.")
        return [int(found), *ids]

    def _padded(self, rows: list[list[int]], side: str) -> tuple[Tensor, Tensor | None]:
        """Return ids `(rows, seq)` on the model's device, and the mask where there is padding."""
        longest = max(map(len, rows), default=0)
        if not longest:
            raise ValueError("There is no token in the text.")
        pad = self._tokenizer().pad_token_id or 0
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for at, row in enumerate(rows):
            part = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[at, part] = torch.tensor(row, dtype=torch.long)
            mask[at, part] = 1
        device = self.W_E.device
        return ids.to(device), None if bool(mask.all()) else mask.to(device)

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._decode([id]) for id in ids]

    def _decode(self, ids: Sequence[int], *, skip: bool = False) -> str:
        found: str = self._tokenizer().decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        return found

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise NoTokenizer(type(self).__name__)
        return self.tokenizer
