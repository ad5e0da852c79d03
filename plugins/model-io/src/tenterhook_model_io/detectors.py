"""Keep what goes into a whole model and what comes out of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.activations import Inputs, first_input, named_inputs, shape_of
from tenterhook.hooks import Detector, HookType


class _NamedTensors(dict[str, Tensor]):
    """Tensors by key, with a second name for one of the keys."""

    def __init__(self, alias: str, key: str) -> None:
        super().__init__()
        self._alias, self._key = alias, key

    def __missing__(self, key: str) -> Tensor:
        if key == self._alias and self._key in self.keys():
            return self[self._key]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(self._key if key == self._alias else key)

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self._key if key == self._alias else key, default)


class _ModelDetector(Detector):
    """Keeps tensors under keys, each with its shape in `metadata` as `<key>_shape`."""

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return 0: it is made without tensors, and keeps those of one call of the model."""
        return 0

    def _keep(self, key: str, tensor: Tensor) -> None:
        with torch.inference_mode(False):  # the user's own: fit for autograd, like any other
            copy = tensor.detach().to("meta" if tensor.is_meta else "cpu", copy=True)
        self.tensor_metadata[key] = copy
        self.metadata[f"{key}_shape"] = shape_of(copy)

    def clear_captured(self) -> None:
        """Forget the tensors of the last call."""
        for key in list(self.tensor_metadata.keys()):
            del self.tensor_metadata[key]
            self.metadata.pop(f"{key}_shape", None)


_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""What tokenizers that list no special tokens call those that they have, before `_token_id`."""


class ModelInputDetector(_ModelDetector):
    """Keeps the latest call's token ids and, if asked, the mask of its text tokens.

    The ids are seen whether they were passed by position, by keyword or in a mapping.
    `tensor_metadata["input_ids"]` has them, int `(batch, seq)` on the CPU, also by the name
    `"inputs"`; `tensor_metadata["attention_mask"]` is 1 only where the model's mask is 1 and the
    id is no special token.
    """

    def __init__(
        self,
        layer_signature: str | int | None = None,
        hook_id: str | None = None,
        save_input_ids: bool = True,
        save_attention_mask: bool = False,
        special_token_ids: Iterable[int] | None = None,
    ) -> None:
        """`special_token_ids` are left out of the mask; the model context's by default."""
        super().__init__(HookType.PRE_FORWARD, hook_id, layer_signature=layer_signature)
        self.tensor_metadata = _NamedTensors("inputs", "input_ids")
        self.save_input_ids = save_input_ids
        self.save_attention_mask = save_attention_mask
        self.special_token_ids = (
            None if special_token_ids is None else {int(id) for id in special_token_ids}
        )

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep the ids and the mask of one call; of a call without ids, keep nothing."""
        named = named_inputs(module, input)
        ids = named.get("input_ids")
        if not isinstance(ids, Tensor) and named.get("inputs_embeds") is None:
            given = input.args if isinstance(input, Inputs) else input
            ids = first_input(tuple(each for each in given if not isinstance(each, Mapping)))
        self._take(ids, named.get("attention_mask"))

    def set_inputs_from_encodings(
        self, encodings: Mapping[str, Any], module: nn.Module | None = None
    ) -> None:
        """Keep the ids and the mask of a tokenizer's result, as if the model had been given it.

        Raises `ValueError` where `encodings` holds no `input_ids` that make a tensor.
        """
        if "input_ids" not in encodings:
            raise ValueError(
                f"The encodings hold {sorted(map(str, encodings))}, no 'input_ids'. Pass what the "
                "tokenizer returned, for example tokenizer(texts, return_tensors='pt')."
            )
        mask = encodings.get("attention_mask")
        self._take(
            torch.as_tensor(encodings["input_ids"]), None if mask is None else torch.as_tensor(mask)
        )

    def get_captured_input_ids(self) -> Tensor | None:
        """Return the latest ids, int `(batch, seq)` on the CPU; `None` if there are none."""
        return self.tensor_metadata.get("input_ids")

    def get_captured_attention_mask(self) -> Tensor | None:
        """Return the latest mask of text tokens, `(batch, seq)`; `None` if there is none."""
        return self.tensor_metadata.get("attention_mask")

    def _take(self, ids: Any, mask: Any) -> None:
        self.clear_captured()
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            return
        if self.save_input_ids:
            self._keep("input_ids", ids)
        if self.save_attention_mask:
            self._keep("attention_mask", self._text_mask(ids, mask))

    def _text_mask(self, ids: Tensor, given: Any) -> Tensor:
        mask: Tensor = given if isinstance(given, Tensor) else torch.ones_like(ids)
        if mask.ndim == 4:
            mask = _of_tokens(mask).to(ids.dtype).expand(len(ids), -1)
        if mask.shape != ids.shape and mask.ndim == ids.ndim == 2:
            mask = mask[:, -ids.shape[1] :]  # a cached step: the mask covers the past as well
        special = self._special_ids()
        if special:
            mask = mask * ~torch.isin(ids, torch.tensor(sorted(special), device=ids.device))
        return mask

    def _special_ids(self) -> set[int]:
        if self.special_token_ids is not None:
            return self.special_token_ids
        if self.context is None:
            return set()
        tokenizer, ids = self.context.tokenizer, self.context.special_token_ids
        if ids or hasattr(tokenizer, "all_special_ids"):
            return ids
        named = (getattr(tokenizer, f"{name}_token_id", None) for name in _SPECIAL)
        return {int(id) for id in named if id is not None}


class ModelOutputDetector(_ModelDetector):
    """Keeps the latest call's logits and, if asked, its last hidden state.

    `tensor_metadata["output_logits"]`, `(batch, seq, vocab)` on the CPU, also by the name
    `"outputs"`; `tensor_metadata["output_hidden_state"]`, `(batch, seq, d_model)`.
    """

    def __init__(
        self,
        layer_signature: str | int | None = None,
        hook_id: str | None = None,
        save_output_logits: bool = True,
        save_output_hidden_state: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(HookType.FORWARD, hook_id, layer_signature=layer_signature)
        self.tensor_metadata = _NamedTensors("outputs", "output_logits")
        self.save_output_logits = save_output_logits
        self.save_output_hidden_state = save_output_hidden_state

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep a copy of what one call returned; of an earlier call nothing stays."""
        self.clear_captured()
        logits, hidden = _logits(output), _hidden_state(output)
        if self.save_output_logits and logits is not None:
            self._keep("output_logits", logits)
        if self.save_output_hidden_state and hidden is not None:
            self._keep("output_hidden_state", hidden)

    def get_captured_output_logits(self) -> Tensor | None:
        """Return the latest logits, `(batch, seq, vocab)` on the CPU; `None` if there are none."""
        return self.tensor_metadata.get("output_logits")

    def get_captured_output_hidden_state(self) -> Tensor | None:
        """Return the latest last hidden state, on the CPU; `None` if there is none.

        `(batch, seq, d_model)`, in the model's dtype.
        A model with a language-model head returns hidden states only when it is called with
        `output_hidden_states=True`.
        """
        return self.tensor_metadata.get("output_hidden_state")


def _of_tokens(mask: Tensor) -> Tensor:
    """Return of a mask `(batch, heads, queries, keys)` which tokens some query sees.

    It is added to scores, so that 0 lets pass, or else true or 1 where it lets pass.
    """
    passes = mask == 0 if mask.is_floating_point() else mask.bool()
    return passes.flatten(1, 2).any(1)


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _logits(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):  # a loss may come first
        tensors = [item for item in output if isinstance(item, Tensor)]
        return next((t for t in tensors if t.ndim > 1), tensors[0] if tensors else None)
    logits = _field(output, "logits")
    return logits if isinstance(logits, Tensor) else None


def _hidden_state(output: Any) -> Tensor | None:
    hidden = _field(output, "last_hidden_state")
    if isinstance(hidden, Tensor):
        return hidden
    layers = _field(output, "hidden_states")
    last = layers[-1] if isinstance(layers, tuple | list) and layers else None
    return last if isinstance(last, Tensor) else None
