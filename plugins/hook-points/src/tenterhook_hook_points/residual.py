"""The residual stream taken apart: what each part of a model wrote to it, and to a logit.

A block reads the stream and adds to it, so the stream at any place is the sum of the embeddings,
of what every head and every MLP before it has added, and of biases (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"). The final norm divides the stream by a number,
its scale; with that scale as it was in the run, logits are linear in the parts, so that the parts'
shares of a logit add up to it, but for the norm's own bias and the unembedding's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tenterhook_hook_points.caching import PosSlice
from tenterhook_hook_points.errors import NotATransformer

Labels = list[str]
Mode = Literal["all", "attn", "mlp"]


class StreamParts(dict[str, Tensor]):
    """What the points of a `HookedTransformer` saw in a run, and the stream as its parts.

    Every method returns a stack of parts, `(parts, batch, seq, d_model)`: without the batch axis
    where the cache has none, without `seq` where `pos_slice` is an int. `layer` is the block before
    which the stream is taken, `None` or -1 the end; with `mlp_input` it is taken in that block,
    before the MLP. With `apply_ln` each part goes through the norm that reads the stream there,
    as `apply_ln_to_stack` has it. With `return_labels` the parts' names come too, one for each.

    Each returns a tensor, with `return_labels` the tensor and a list of names. They raise
    `NotATransformer` for a cache that knows no such model, `ValueError` for a block that
    is not there, and `UnknownActivation` for what the run did not keep.
    """

    model: Any
    has_batch_dim: bool

    if TYPE_CHECKING:

        def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor: ...

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """Return the stream before each block up to `layer`, and at the end; for the logit lens.

        Labels are `0_pre`, with `incl_mid` `0_mid`, and `final_post` for the end.
        """
        end, count = self._layer(layer), self._blocks()
        labels, parts = [], []
        for block in range(min(end, count - 1) + 1):
            labels.append(f"{block}_pre")
            parts.append(self["resid_pre", block])
            if (incl_mid and block < end) or (mlp_input and block == end):
                labels.append(f"{block}_mid")
                parts.append(self["resid_mid", block])
        if end == count:
            labels.append("final_post")
            parts.append(self["resid_post", count - 1])
        return self._stacked(parts, labels, layer, mlp_input, apply_ln, pos_slice, return_labels)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Mode = "all",
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Return the embeddings and what each block's attention and MLP added, biases included.

        With `mode="all"` and the embeddings they sum to the stream. Labels are `embed`,
        `pos_embed`, `0_attn_out`, `0_mlp_out`.
        """
        if mode not in ("all", "attn", "mlp"):
            raise ValueError(f"mode={mode!r} is not one of 'all', 'attn', 'mlp'.")
        end = self._layer(layer)
        labels, parts = self._embeddings() if incl_embeds else ([], [])
        for block in range(end + (mlp_input and end < self._blocks())):
            if mode in ("all", "attn"):
                labels.append(f"{block}_attn_out")
                parts.append(self["attn_out", block])
            if mode in ("all", "mlp") and block < end:
                labels.append(f"{block}_mlp_out")
                parts.append(self["mlp_out", block])
        return self._stacked(parts, labels, layer, mlp_input, apply_ln, pos_slice, return_labels)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: PosSlice = None,
        apply_ln: bool = False,
    ) -> Any:
        """Return what each head of the blocks before `layer` added, block by block, head by head.

        Labels are `L0H0`; with `incl_remainder` a last part, `remainder`, has the rest of the
        stream. A run that kept `hook_z` and not `hook_result` will do.
        """
        end = self._layer(layer)
        labels, parts = self._heads(end)
        if incl_remainder:
            labels.append("remainder")
            parts.append(self._stream(end) - sum(parts))
        return self._stacked(parts, labels, layer, False, apply_ln, pos_slice, return_labels)

    def stack_neuron_results(
        self,
        layer: int | None = None,
        pos_slice: PosSlice = None,
        neuron_slice: PosSlice = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
    ) -> Any:
        """Return what each neuron of the MLPs before `layer` added: its activation, its row of
        `W_out`.

        Large: choose neurons with `neuron_slice`, positions with `pos_slice`. Labels are `L0N0`;
        with `incl_remainder` a last part, `remainder`, has the rest of the stream.
        """
        end = self._layer(layer)
        labels, parts = self._neurons(end, pos_slice, neuron_slice)
        if incl_remainder:
            labels.append("remainder")
            stream = self._at(self._stream(end), pos_slice)
            parts.append(stream - sum(parts) if parts else stream)
        return self._stacked(parts, labels, layer, False, apply_ln, pos_slice, return_labels, True)

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        return_labels: bool = False,
    ) -> Any:
        """Return every head, every neuron (or with `expand_neurons=False` MLP), embeddings, biases.

        They sum to the stream. Labels are those of `stack_head_results`, `stack_neuron_results` or
        `0_mlp_out`, `embed`, `pos_embed`, and `bias`, one part for all biases.
        """
        end = self._layer(layer)
        inside = mlp_input and end < self._blocks()
        labels, parts = self._heads(end + inside)
        parts = [self._at(part, pos_slice) for part in parts]
        if expand_neurons:
            found, neurons = self._neurons(end, pos_slice, None)
            labels, parts = labels + found, parts + neurons
        else:
            labels += [f"{block}_mlp_out" for block in range(end)]
            parts += [self._at(self["mlp_out", block], pos_slice) for block in range(end)]
        found, embeddings = self._embeddings()
        labels, parts = (
            [*labels, *found, "bias"],
            [
                *parts,
                *(self._at(part, pos_slice) for part in embeddings),
            ],
        )
        biases = self.accumulated_bias(layer, mlp_input, include_mlp_biases=expand_neurons)
        parts.append(biases.to(parts[-1]).expand_as(parts[-1]))
        return self._stacked(
            parts, labels, layer, mlp_input, apply_ln, pos_slice, return_labels, True
        )

    def accumulated_bias(
        self, layer: int | None = None, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Tensor:
        """Return the sum of the biases that the blocks before `layer` add, `(d_model,)`."""
        end = self._layer(layer)
        inside = mlp_input and end < self._blocks()
        total = torch.zeros_like(self._model().W_E[0])
        for block in self._model().blocks[: end + inside]:
            total = total + block.attn.b_O.detach()
        for block in self._model().blocks[:end] if include_mlp_biases else ():
            total = total + block.mlp.b_out.detach()
        return total

    def apply_ln_to_stack(
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Put parts of the stream through the norm that reads it, at the scale that it had there.

        Centred where the norm centres, divided by the scale of the run, times the norm's weight;
        without its bias, which is no part's. So the parts of a stream sum to what the norm returned
        but for that bias. `residual_stack` is `(parts, batch, seq, d_model)`, at the positions and
        rows that `pos_slice` and `batch_slice` name. `recompute_ln` takes each part's own scale, as
        if it were the whole stream (as logit lenses have it).
        """
        norm, scale = self._norm(layer, mlp_input)
        applied: Tensor
        if recompute_ln:
            applied = norm.applied(residual_stack, norm.scale_of(residual_stack))
            return applied
        scale = self._at(scale, pos_slice)
        if batch_slice is not None and self.has_batch_dim:
            scale = _sliced(scale, 0, batch_slice)
        if has_batch_dim and not self.has_batch_dim and residual_stack.ndim == scale.ndim + 2:
            scale = scale[None]
        applied = norm.applied(residual_stack, scale)
        return applied

    def logit_attrs(
        self,
        residual_stack: Tensor,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """Return what each part of the last stream adds to the logit of a token.

        `residual_stack` is `(parts, batch, seq, d_model)` or a part of it, as `decompose_resid`
        and its like give it, without `apply_ln`; the result lacks `d_model`. `tokens` is a token,
        as text or id, or a tensor of ids, one for each row, `(batch,)`, or for each place,
        `(batch, seq)`. With `incorrect_tokens`, of the same kinds, it is the difference of the two
        logits.
        """
        parts = self.apply_ln_to_stack(
            residual_stack, None, False, pos_slice, batch_slice, has_batch_dim
        )
        directions = self._directions(tokens, parts)
        if incorrect_tokens is not None:
            directions = directions - self._directions(incorrect_tokens, parts)
        shares: Tensor = (parts * directions).sum(-1)
        return shares

    def _directions(self, tokens: Any, parts: Tensor) -> Tensor:
        """Return the columns of `W_U` of some tokens, in a shape that goes with the parts'."""
        found: Tensor = self._model().tokens_to_residual_directions(tokens)
        while 1 < found.ndim < parts.ndim - 1:
            found = found.unsqueeze(-2)
        return found.to(parts)

    # --- where things are

    def _model(self) -> Any:
        model = self.model
        if any(not hasattr(model, name) for name in ("blocks", "ln_final", "W_E", "W_U")):
            raise NotATransformer(type(model).__name__ if model is not None else "")
        return model

    def _blocks(self) -> int:
        return len(self._model().blocks)

    def _layer(self, layer: int | None) -> int:
        count = self._blocks()
        if layer is None or layer == -1:
            return count
        if not 0 <= layer <= count:
            raise ValueError(f"layer={layer} is not one of the {count} blocks, nor -1 or {count}.")
        return layer

    def _norm(self, layer: int | None, mlp_input: bool) -> tuple[Any, Tensor]:
        """Return the norm that reads the stream at a place, and the scale that it had."""
        at = self._layer(layer)
        if at == self._blocks():
            return self._model().ln_final, self["ln_final.hook_scale"]
        name = "ln2" if mlp_input else "ln1"
        return getattr(self._model().blocks[at], name), self["scale", at, name]

    def _stream(self, at: int) -> Tensor:
        return self["resid_post", at - 1] if at else self["resid_pre", 0]

    def _embeddings(self) -> tuple[Labels, list[Tensor]]:
        names = [name for name in ("embed", "pos_embed") if f"hook_{name}" in self]
        names = names or ["embed"]  # so that it is missed by name
        return names, [self[name] for name in names]

    def _heads(self, end: int) -> tuple[Labels, list[Tensor]]:
        labels, parts = [], []
        for block in range(end):
            if f"blocks.{block}.attn.hook_result" in self:
                results = self["result", block]
            else:
                weights = self._model().blocks[block].attn.W_O.detach()
                results = torch.einsum("...he,hed->...hd", self["z", block], weights)
            for head, result in enumerate(results.unbind(-2)):
                labels.append(f"L{block}H{head}")
                parts.append(result)
        return labels, parts

    def _neurons(
        self, end: int, pos_slice: PosSlice, neuron_slice: PosSlice
    ) -> tuple[Labels, list[Tensor]]:
        labels, parts = [], []
        for block in range(end):
            acts = self._at(self["mlp.hook_post", block], pos_slice)
            weights = self._model().blocks[block].mlp.W_out.detach()
            numbers = torch.arange(weights.shape[0], device=weights.device)
            if neuron_slice is not None:
                numbers = _sliced(numbers, 0, neuron_slice).reshape(-1)
            for number in numbers.tolist():
                labels.append(f"L{block}N{number}")
                parts.append(acts[..., number, None] * weights[number])
        return labels, parts

    def _at(self, tensor: Tensor, pos_slice: PosSlice) -> Tensor:
        """Return the positions of a tensor that ends in position, feature."""
        return tensor if pos_slice is None else _sliced(tensor, -2, pos_slice)

    def _stacked(
        self,
        parts: Sequence[Tensor],
        labels: Labels,
        layer: int | None,
        mlp_input: bool,
        apply_ln: bool,
        pos_slice: PosSlice,
        return_labels: bool,
        is_sliced: bool = False,
    ) -> Any:
        if not parts:
            raise ValueError("There are no parts: no block comes before that one.")
        stack = torch.stack([part if is_sliced else self._at(part, pos_slice) for part in parts])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack


def _sliced(tensor: Tensor, axis: int, positions: Any) -> Tensor:
    """Return a part along an axis, which goes where it is an int."""
    if isinstance(positions, int):
        return tensor.select(axis, positions)
    if isinstance(positions, tuple):
        positions = slice(*positions)
    if isinstance(positions, slice):
        positions = range(tensor.shape[axis])[positions]
    return tensor.index_select(axis, torch.as_tensor(list(positions), device=tensor.device))
